"""A cache miss looks in the remote before it computes."""

from __future__ import annotations

from collections.abc import Callable

from flows.execution.remote_settings import settings_of
from params.store import StoreSettings
from tasks.artefacts.artefact import Artefact, Damaged
from tasks.artefacts.store import Store
from tasks.core.context import Context
from tasks.remote.errors import RemoteTrouble
from tasks.remote.progress import Tell


class RemoteCache:
    """The remote of one run, if one is set. Trouble with it is a note, and the run goes on without it."""

    def __init__(
        self, store: Store, given: StoreSettings, context: Context, note: Callable[[str], None]
    ) -> None:
        self._store, self._context, self._note = store, context, note
        self._settings = settings_of(store.root, given)

    def fetch(self, stage: str, fingerprint: str, tell: Tell) -> Artefact | None:
        """The artefact, brought into the cache and checked; None where it cannot be had."""
        if self._settings is None:
            return None
        from tasks.remote.remote import Remote  # boto3 takes a second, and only a miss needs it

        settings = self._settings
        try:
            remote = self._context.keep(("remote", settings.url), lambda: Remote(settings))
            remote.tell = tell
            manifest = remote.find(stage, fingerprint)
            if manifest is None:
                return None
            remote.pull([manifest], self._store)
            return self._store.find(stage, fingerprint)
        except RemoteTrouble as trouble:
            if trouble.lasting:
                self._settings = None
            self._note(f"{trouble}; going on without it")
        except Damaged as damage:
            self._note(f"{damage}; making it again")
        return None
