"""Messages as a model reads them: by its own chat template, a plain one, or one that a file holds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError

from params.base import BadInput
from params.prompt import PLAIN, Prompt
from tasks.policy.template_patches import patched

PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ 'Answer: ' + message['content'] + '\n\n' }}"
    "{% else %}{{ 'Question: ' + message['content'] + '\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Answer:' }}{% endif %}"
)
"""For models that have none. The choice is ours; it is the form of few-shot prompts for base models."""
PLAIN_STOP = ("\nQuestion:",)

Message = Mapping[str, Any]
"""``role``, one of system, user, assistant and tool, ``content``, and of a tool its ``name``."""


class Chat:
    """A tokenizer with the template that ``prompt`` chooses, and the ``tools`` that it is shown. Raises
    ``BadInput``."""

    def __init__(self, tokenizer: Any, prompt: Prompt, tools: Sequence[dict[str, Any]] = ()) -> None:
        self.tokenizer, self._prompt = tokenizer, prompt
        self._tools = list(tools)
        chosen = prompt.chat_template
        self.plain = chosen == PLAIN or (chosen is None and not tokenizer.chat_template)
        """Whether the messages are written by the plain template."""
        self._template: str | None = None
        self.named = "the model's chat template"
        """What messages call it."""
        if self.plain:
            self._template, self.named = PLAIN_TEMPLATE, "the plain chat template"
        elif chosen is not None:
            self._template, self.named = _read(Path(chosen)), chosen
        if prompt.template_patch is not None:
            text = self._template or str(tokenizer.chat_template)
            self._template = patched(prompt.template_patch, text, self.named)
            self.named += f", patched for {prompt.template_patch},"
        self._variables = prompt.chat_template_kwargs
        text = self._template or str(tokenizer.chat_template)
        self.reads_tools = bool(re.search(r"\btools\b", text))
        """Whether the template shows tools."""
        self.thinking = prompt.thinking if prompt.thinking and prompt.thinking[0] in text else None
        """What opens and closes thinking, where the template knows of it."""
        if unread := [name for name in self._variables if not re.search(rf"\b{re.escape(name)}\b", text)]:
            raise BadInput(
                f"task.prompt.chat_template_kwargs: {self.named} reads no '{unread[0]}'; expected variables "
                "that it reads"
            )
        given = PLAIN_STOP if self.plain and prompt.stop is None else prompt.stop
        self.stop: tuple[str, ...] = given or ()
        """Texts that end a response."""

    def patched(self, name: str) -> Chat:
        """The same with a patch of ``template_patches.PATCHES``. Raises ``BadInput`` where there is no place
        for it."""
        return Chat(self.tokenizer, self._prompt.model_copy(update={"template_patch": name}), self._tools)

    @property
    def template(self) -> str | None:
        """The template, where it is not the model's own."""
        return self._template

    def ids(self, talks: Sequence[Sequence[Message]]) -> list[tuple[int, ...]]:
        """Each talk as tokens, up to where the answer begins, with one token of beginning at most.

        Raises ``BadInput`` where the template does not take its messages.
        """
        written: list[list[int]] = self._applied(talks, tokenize=True)
        start = self.tokenizer.bos_token_id
        if self.plain and start is not None and _begins(self.tokenizer):
            written = [[start, *ids] for ids in written]
        if start is not None:
            written = [ids[1:] if ids[:2] == [start, start] else ids for ids in written]
        return [tuple(ids) for ids in written]

    def text(self, talk: Sequence[Message]) -> str:
        """One talk as text, up to where the answer begins. Raises ``BadInput`` as ``ids`` does."""
        (written,) = self._applied([talk], tokenize=False)
        return str(written)

    @property
    def marks(self) -> list[str]:
        """The texts that the tokenizer reads as tokens of their own, such as a template's."""
        known = (str(token) for token in self.tokenizer.get_added_vocab())
        return [token for token in known if len(token) > 2 and token[0] in "<[" and token[-1] in ">]"]

    def _applied(self, talks: Sequence[Sequence[Message]], tokenize: bool) -> Any:
        more = {"tools": self._tools} if self._tools else {}
        try:
            return self.tokenizer.apply_chat_template(
                [list(talk) for talk in talks],
                chat_template=self._template,
                add_generation_prompt=True,
                tokenize=tokenize,
                **({"return_dict": False} if tokenize else {}),
                **more,
                **self._variables,
            )
        except (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            roles = dict.fromkeys(message["role"] for talk in talks for message in talk)
            said = "a user's message" if list(roles) == ["user"] else f"messages of {', '.join(roles)}"
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise BadInput(
                f"{self.named} fails on {said}: {reason}; expected one that takes "
                f"[{', '.join(f'{{role: {role}}}' for role in roles)}], in chat_template.jinja"
            ) from None


def talk(prompt: Prompt, question: str, examples: Sequence[tuple[str, str]] = ()) -> list[Message]:
    """The messages of a question, behind ``examples`` of questions and what the assistant said."""
    said = [] if prompt.system is None else [{"role": "system", "content": prompt.system}]
    for asked, answer in examples:
        said.append({"role": "user", "content": prompt.template.replace("{question}", asked)})
        said.append({"role": "assistant", "content": answer})
    return [*said, {"role": "user", "content": prompt.template.replace("{question}", question)}]


def _begins(tokenizer: Any) -> bool:
    """Whether the tokenizer puts its token of beginning before a text."""
    return bool(tokenizer("1")["input_ids"][:1] == [tokenizer.bos_token_id])


def _read(path: Path) -> str:
    where = f"task.prompt.chat_template: {path}"
    try:
        text = path.expanduser().read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        raise BadInput(f"{where}: no such file; expected plain, or a file with a Jinja template") from None
    except UnicodeDecodeError:
        raise BadInput(f"{where}: not text; expected a Jinja template in UTF-8") from None
    if "messages" not in text:
        raise BadInput(f"{where}: reads no messages; expected a Jinja template of them")
    return text
