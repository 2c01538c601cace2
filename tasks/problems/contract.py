"""Where questions come from. One source, one file: a frozen ``Config`` and a ``read``.

``read(config, task, seed)`` gives the training and the held-out problems (``tables.PROBLEMS``), which share
no question; equal arguments give equal tables. A source may also have

* ``practice(config, count, seed, without)``: further problems, none of whose questions is in ``without``;
* ``spoil(answer, rng)``: a plausible wrong answer, where the warm start's own are not;
* ``write(config, task, seed, out)``: as ``read``, and puts into the directory ``out`` what the judge needs
  beside the tables, such as databases;
* ``shown_answer(answer)``: the right answer as people read it, where the judge reads something else;
* ``files(config)``: the local files that ``read`` reads, whose contents belong into the stage's fingerprint.
"""

from __future__ import annotations

from types import ModuleType

from params.base import find_module


def find_source(name: str, where: str) -> ModuleType:
    """The problem source that is called ``name``; raises ``BadInput``."""
    return find_module("tasks.problems", name, "read", where)


def normalised(question: str) -> str:
    """What decides whether two questions are the same: their words, without case and spacing."""
    return " ".join(question.split()).casefold()
