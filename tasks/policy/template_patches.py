"""Chat templates that rewrite what they wrote, mended by name: small changes to the model's own text.

What the model has learnt (how tools are shown, where turns begin) stays as it is. A further family of models
is a further entry. The changes are ours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from params.base import BadInput, nearest


@dataclass(frozen=True)
class Change:
    """Of a template's text."""

    pattern: str
    """A regular expression."""
    replacement: str
    when: str = ""
    """What the template must hold for it."""


AS_SAID = Change(r"""(['"])</think>\1 in (?:message\.)?content\b""", "false")
"""What an assistant said is written as it stands: the template does not look for the end of its thinking."""

_EMPTY = r"'<think>\\n\\n</think>\\n\\n' if enable_thinking is defined and not enable_thinking else ''"
PATCHES = {
    # asked not to think, a turn begins behind an empty thinking: in history as where an answer is asked for
    "qwen3": Change(r"(message\.role \+ '\\n' \+ )content(?=\s*-?\}\})", rf"\1({_EMPTY}) + content"),
    # where an answer is asked for, its thinking is opened
    "deepseek-r1": Change(
        r"<｜Assistant｜>(?='\s*\+\s*content\b)", r"<｜Assistant｜><think>\\n", "<｜Assistant｜><think>"
    ),
}
"""What else a family's template needs, by the value of ``task.prompt.template_patch``."""


def patched(name: str, template: str, called: str) -> str:
    """The template's text, changed for a family. Raises ``BadInput`` for a name that is none, and for a
    template that needs no change."""
    if name not in PATCHES:
        raise BadInput(f"task.prompt.template_patch: no '{name}'{nearest(name, PATCHES)}")
    text, count = re.subn(AS_SAID.pattern, AS_SAID.replacement, template)
    if not count:
        raise BadInput(
            f"task.prompt.template_patch: {name}, but {called} does not look for </think> in what was said; "
            "expected a template that does"
        )
    change = PATCHES[name]
    return re.sub(change.pattern, change.replacement, text) if change.when in text else text
