"""What can be known without work is looked at before anything runs: files, right answers, model, prompts."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from flows.environment import workspace
from flows.execution.fingerprint import lasting_facts
from flows.execution.remote_inputs import SCHEME
from flows.process import output
from flows.stage_table.requirements import requirements_of
from flows.stage_table.stages import stage_table
from params.base import BadInput
from params.reward import several
from params.schema import Params
from params.views import TASK, of_set, of_task, told_of
from tasks.artefacts.artefact import canonical, replace_file
from tasks.artefacts.digests import file_digest
from tasks.artefacts.store import Store
from tasks.artefacts.tables import PROBLEMS
from tasks.problems.contract import Tables, find_source
from tasks.rewards.golds import bad_golds, tried_alone

LOOK_BYTES = 32 * 2**20
"""Files of so many bytes are read in seconds; larger ones are read by the stage alone."""


def look(params: Params) -> None:
    """Read the local files of problems as the stages will, those of further tasks and of evaluation sets too,
    right answers tried on the judge, and open the tokenizer of a local model to count their prompts. Raises
    ``BadInput``.

    What was found good is not looked at again, as long as nothing of it has changed.
    """
    Store(workspace()).need(0, "run")
    folder = params.model.folder()
    for place, view, asked in _views(params):
        with told_of(place):
            _look_at(place, view, folder, _Problems(view, asked))


def _views(params: Params) -> Iterator[tuple[str, Params, bool]]:
    """Where each task of the run stands, the parameters in which it is the task, and whether its problems are
    only asked and not learnt from."""
    yield TASK, params, False
    for name in params.tasks:
        yield f"tasks.{name}", of_task(params, name), False
    for name in params.evaluate.sets:
        yield f"evaluate.sets.{name}", of_set(params, name), True


def _look_at(place: str, params: Params, folder: Path | None, problems: _Problems) -> None:
    mine = tuple(choice for choice in several(params.task.reward) if tried_alone(choice))
    if not problems.readable and not mine and (folder is None or place != TASK):
        return
    note = workspace() / ".ostinato" / "looked" / _identity(params, folder, problems.asked)
    if note.is_file():
        return
    tables = problems.read() if problems.readable else None
    if mine and not tables:  # a reward of one's own gives some reward to any right answer, or is broken
        row = {"question": "1", "answer": "1", "source": params.task.problems.name, "columns": None}
        for reason in bad_golds(params.task.model_copy(update={"reward": mine}), [row]).values():
            raise BadInput(f"task.reward: {reason}")
    if folder:
        _look_at_model(params, folder, problems, tables)
    note.parent.mkdir(parents=True, exist_ok=True)
    replace_file(note, "")


class _Problems:
    """The source of a task's problems."""

    def __init__(self, params: Params, asked: bool) -> None:
        """``asked``: as those of an evaluation set, of which what is held out is asked."""
        choice, self._params, self.asked = params.task.problems, params, asked
        self._source = find_source(choice.name, "task.problems")
        self._config: Any = choice.resolve(self._source.Config, "task.problems")
        of = (asked and self._source.held_out_files) or self._source.files
        files = of(self._config) if of and (self._source.held_out or not asked) else ()
        size = sum(path.stat().st_size for path in files if path.is_file())
        here = bool(files) and SCHEME not in choice.model_dump_json()
        self.readable = here and size <= LOOK_BYTES
        """Whether they are files, here, and small."""

    def read(self) -> Tables:
        """Training and held-out problems."""
        task, seed = self._params.task, self._params.seed
        if not self.asked:
            return self._source.tables(self._config, task, seed)
        assert self._source.held_out is not None
        return PROBLEMS.empty_table(), self._source.held_out(self._config, task, None)

    @property
    def shown_answer(self) -> Callable[[str], str] | None:
        """Writes a right answer as people read it, where the judge reads something else."""
        return self._source.shown_answer

    def place(self, question: str) -> str:
        """Where a question stands."""
        found = self._source.place(self._config, question) if self._source.place else None
        return found or f"'{question[:60]}'"


def _look_at_model(params: Params, folder: Path, problems: _Problems, tables: Tables | None) -> None:
    from tasks.policy.load import load_tokenizer  # transformers, which the run needs next anyway
    from tasks.prepare.model_sources import check
    from tasks.rollout.prompts import Prompts, fitting

    with output.captured(Path(os.devnull)):  # what libraries say here they say again in the run
        check(folder, params, params.model.source)
        if tables and not (problems.asked and params.task.prompt.examples):  # which the stage draws first
            tokenizer, prompt = load_tokenizer(folder, params), params.task.prompt
            prompts = Prompts(prompt, tokenizer, tables[0], params.seed, problems.shown_answer)
            fitting(tables, prompts, params, problems.place)


def _identity(params: Params, folder: Path | None, asked: bool) -> str:
    """A digest of all that was looked at; of the model's files, size and time stand for the content."""
    facts = lasting_facts(stage_table()["problems"], params)
    files = sorted(folder.iterdir()) if folder else []
    model = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    chosen = params.model_dump(mode="json", include={"task", "model", "rollout", "evaluate"})
    reward = [
        file_digest(path) for part in requirements_of(stage_table()["rollout"], params) for path in part.files
    ]
    return hashlib.sha256(
        canonical({**facts, "chosen": chosen, "model": model, "reward": reward, "asked": asked})
    ).hexdigest()
