"""What a run's parameters name in a bucket: its identity in fingerprints, and where it lies once fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows.execution.remote_settings import settings_of
from params.schema import Params
from tasks.artefacts.digests import file_digest
from tasks.core.context import Context
from tasks.remote.progress import Tell

SCHEME = "s3://"


class RemoteInputs:
    """The ``s3://`` base model and data sets of one run."""

    def __init__(self, root: Path, params: Params, context: Context) -> None:
        self._root, self._params, self._context = root, params, context

    def identities(self, stage: str) -> dict[str, str] | None:
        """What stands for the files of a stage in its fingerprint; None where none of them is in a bucket."""
        named = self._named(stage)
        if not any(value.startswith(SCHEME) for value in named.values()):
            return None
        found: dict[str, str] = {}
        for value in named.values():
            if value.startswith(SCHEME):
                found |= self._input(value).identity()
            elif Path(value).is_file():
                found[value] = file_digest(Path(value))
        return found

    def local(self, stage: str, tell: Tell) -> Params:
        """The parameters with local places instead of addresses, fetched. Raises ``RemoteTrouble``."""
        folder = self._root / ".ostinato" / "inputs"
        places = {
            key: str(self._input(value).bring(folder, tell))
            for key, value in self._named(stage).items()
            if value.startswith(SCHEME)
        }
        if not places:
            return self._params
        if stage == "model":
            model = self._params.model.model_copy(update={"source": places["source"]})
            return self._params.model_copy(update={"model": model})
        problems = self._params.task.problems.model_copy(update=places)
        task = self._params.task.model_copy(update={"problems": problems})
        return self._params.model_copy(update={"task": task})

    def _named(self, stage: str) -> dict[str, str]:
        """Options of the stage that may be addresses, by name."""
        if stage == "model":
            return {"source": self._params.model.source}
        options = self._params.task.problems.model_extra or {} if stage == "problems" else {}
        return {key: value for key, value in options.items() if isinstance(value, str)}

    def _input(self, url: str) -> Any:
        from tasks.remote.inputs import RemoteInput  # boto3 takes a second, and few runs need it

        settings = settings_of(self._root, self._params.store) or self._params.store
        here = settings.model_copy(update={"url": url})
        return self._context.keep(("input", url), lambda: RemoteInput(here, url))
