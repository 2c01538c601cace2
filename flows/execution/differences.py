"""In what one stage's artefact differs from another's: parameters, files, libraries, modules, inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tasks.artefacts.artefact import Manifest
from tasks.report.format import flat

TO_BE_MADE = "to be made"
"""In place of the digest of an input that is not there."""
Kind = Literal["damaged", "parameter", "file", "library", "module", "input", "new"]


@dataclass(frozen=True)
class Cause:
    """One thing in which what is to be made differs from what there is."""

    kind: Kind
    name: str = ""
    """The parameter's key, the file's path, the library, the module, or the input."""
    before: Any = None
    now: Any = None


def differences(facts: Mapping[str, Any], inputs: Mapping[str, str], then: Manifest) -> list[Cause]:
    """In what a stage with these facts and digests of inputs differs from one that was made, in the order in
    which a person would look at it: an input is last, since it has causes of its own."""
    return [
        *_apart("parameter", flat(then.params), flat(facts["params"])),
        *_apart("file", then.own_files, facts["files"]),
        *_apart("library", then.versions, facts["versions"]),
        *_apart("module", then.code, facts["code"]),
        *_apart("input", input_digests(then), inputs),
    ]


def input_digests(manifest: Manifest) -> dict[str, str]:
    """What it was made of, by the names of its inputs."""
    return {name: source.digest for name, source in manifest.inputs.items()}


def _apart(kind: Kind, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Cause]:
    names = [*before, *(name for name in now if name not in before)]
    found = (Cause(kind, name, before.get(name), now.get(name)) for name in names)
    return [cause for cause in found if cause.before != cause.now]
