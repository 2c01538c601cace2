"""Making thinned artefacts whole again where a stage reads them: the same files, by the same manifest."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from flows.stage_table.stages import Node
from params.base import BadInput
from tasks.artefacts.artefact import MOMENTS, Artefact, Damaged, Thinning
from tasks.artefacts.store import link_tree
from tasks.artefacts.thinned import thin
from tasks.core.errors import StageFailure

if TYPE_CHECKING:
    from flows.execution.runner import Runner

PAUSE = 0.2
"""Seconds until another look at an artefact that a process makes or drops."""
Wanted = Mapping[str, Collection[str]]
"""Places, and which files may be lacking there."""


def read_by(node: Node) -> Wanted:
    """The inputs of a stage. Moments are read by what makes a policy alone."""
    lacking = () if node.stage.role.makes_policy else (MOMENTS,)
    return dict.fromkeys(node.inputs.values(), lacking)


@contextmanager
def whole_inputs(runner: Runner, node: Node) -> Iterator[None]:
    """Inside, the inputs of the stage are whole, and no process drops any of them."""
    wanted = read_by(node)
    while True:
        restore(runner, wanted)
        with runner.store.reading(runner.done[place].path.name for place in wanted) as held:
            if held and all(_whole(runner.done[place], lacking) for place, lacking in wanted.items()):
                yield
                return
        time.sleep(PAUSE)


def restore(runner: Runner, wanted: Wanted) -> None:
    """Make these artefacts of a run whole: from its own directory or the remote, or anew, with whatever that
    takes. What was made on the way alone is thinned again as soon as nothing reads it.

    Raises ``StageFailure`` where other files come out, ``BadInput`` where one is not of this run.
    """
    making = _to_make(runner, wanted)
    if making:
        asked = [place for place in making if place in wanted]
        more = f", and {len(making) - len(asked)} more on the way" if len(making) > len(asked) else ""
        runner.watch.note(f"making {', '.join(asked)} again, which was dropped as keep says{more}")
    again: dict[str, Thinning] = {}
    for number, place in enumerate(making):
        if was := runner.done[place].thinned:
            again[place] = was
        _settle(runner, place, runner.remake(runner.nodes[place]))
        later = {name for other in making[number + 1 :] for name in runner.nodes[other].inputs.values()}
        for name in sorted(again.keys() - later - wanted.keys()):
            path, was = runner.done[name].path, again.pop(name)
            with suppress(BadInput), runner.store.lock(path.name, "in use", moment=0.0):
                thin(runner.store, path, was.dropped, was.figures)


def _to_make(runner: Runner, wanted: Wanted) -> list[str]:
    """Those of the places that can only be had anew, with what that takes, in the order of the run."""
    waiting, found = list(wanted.items()), set[str]()
    while waiting:
        place, lacking = waiting.pop()
        if place in found or _whole(runner.done[place], lacking) or _brought(runner, place):
            continue
        if place not in runner.nodes:
            raise BadInput(f"{place}: of another run, whose keep has dropped it; make it again there")
        found.add(place)
        waiting += read_by(runner.nodes[place]).items()
    return [place for place in runner.nodes if place in found]


def _whole(artefact: Artefact, lacking: Collection[str]) -> bool:
    return not set(artefact.dropped) - set(lacking)


def _brought(runner: Runner, place: str) -> bool:
    """Whether it could be had from the run's directory or from the remote; then it is in the cache."""
    if place not in runner.nodes:
        return False
    node, was = runner.nodes[place], runner.done[place]
    try:
        found = Artefact.open(runner.directory / place)
    except (Damaged, FileNotFoundError, NotADirectoryError):
        fetched = runner.fetch(node, was.fingerprint)
        if fetched is not None:
            _settle(runner, place, fetched)
        return fetched is not None
    if found.digest != was.digest or found.fingerprint != was.fingerprint:
        return False
    runner.store.put(was.path, lambda new: link_tree(found.path, new))
    return True


def _settle(runner: Runner, place: str, found: Artefact) -> None:
    """It stands in place of the thinned one, if it is the same."""
    was = runner.done[place]
    runner.done[place] = found
    runner.thinning.forget(place)
    if found.digest != was.digest:
        raise StageFailure(
            f"{place}: was dropped as keep says, and other files come out now ({was.digest[:12]} → "
            f"{found.digest[:12]}); the same command again goes on from those, and makes what follows anew"
        )
