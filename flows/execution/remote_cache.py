"""A cache miss looks in the remote before it computes; where machines share, it claims what it computes."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from flows.execution.remote_settings import settings_of
from params.store import StoreSettings
from tasks.artefacts.artefact import Artefact, Damaged
from tasks.artefacts.store import Store
from tasks.core.context import Context
from tasks.remote.errors import Elsewhere, RemoteTrouble, Unreachable
from tasks.remote.progress import Tell

if TYPE_CHECKING:
    from tasks.remote.claims import Claim
    from tasks.remote.remote import Remote

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds between two looks at a claim of somebody else's; each pause is half as long again as the last."""
REST = 300.0
"""Seconds for which a remote that nobody answers at is left alone."""
_CLAIMING: dict[tuple[str, str | None], bool] = {}
"""Whether a store knows what claims need, by address and endpoint: tried once in a process."""


class RemoteCache:
    """The remote of one run, if one is set. Trouble with it is a note, and the run goes on without it: for a
    while where it cannot be reached, and for good where it lets nobody in."""

    def __init__(
        self,
        store: Store,
        given: StoreSettings,
        context: Context,
        note: Callable[[str], None],
        patience: float | None = None,
    ) -> None:
        """``patience``: how many leases long to wait for what another machine makes, before ``Elsewhere`` is
        raised; None: as long as it takes."""
        self._store, self._context, self._note, self._patience = store, context, note, patience
        self._settings = settings_of(store.root, given)
        self._unreached = -math.inf

    def fetch(self, stage: str, fingerprint: str, tell: Tell) -> Artefact | None:
        """The artefact, brought into the cache and checked; None where it cannot be had."""
        settings = self._usable()
        if settings is None:
            return None
        try:
            remote = self._remote(settings, tell)
            manifest = remote.find(stage, fingerprint)
            if manifest is None:
                return None
            remote.pull([manifest], self._store)
            return self._store.find(stage, fingerprint)
        except RemoteTrouble as trouble:
            self._troubled(trouble)
        except Damaged as damage:
            self._note(f"{damage}; making it again")
        return None

    def make_once(
        self, stage: str, fingerprint: str, tell: Tell, make: Callable[[], Artefact]
    ) -> tuple[Artefact, bool]:
        """What ``fetch`` did not find, and whether it was made: by ``make``, unless another machine that
        shares the remote makes it now; then it is waited for. The caller has the store's lock for it.

        Raises ``Elsewhere`` where that takes too long, and what ``tell`` and ``make`` raise.
        """
        settings = self._usable()
        if settings is None or not settings.share:
            return make(), True
        found: Artefact | Claim | None = None
        try:
            found = self._claim(settings, stage, fingerprint, tell)
        except RemoteTrouble as trouble:
            self._troubled(trouble)
        if isinstance(found, Artefact):
            return found, False
        if found is None:
            made = make()
            self._send(made, tell)
            return made, True
        with found.kept():
            there = self.fetch(stage, fingerprint, tell)  # it may have been made just before
            made = there or make()
            if there or self._send(made, tell):
                found.served()
        return made, there is None

    def _claim(
        self, settings: StoreSettings, stage: str, fingerprint: str, tell: Tell
    ) -> Artefact | Claim | None:
        """The claim, or what another machine made meanwhile; None where nothing can be claimed."""
        remote = self._remote(settings, tell)
        if not self._knows_claims(settings, remote):
            return None
        contest = remote.contest(stage, fingerprint, self._store.identity(), settings.lease)
        began, pause, waited = time.monotonic(), FIRST_PAUSE, False
        while True:
            holder = contest.look()
            if holder is None:
                fetched = self.fetch(stage, fingerprint, tell) if waited else None
                if found := fetched or contest.take():
                    return found
            waited, who = True, holder or "another machine"
            tell(f"waiting for {who}", 0, 1, {})
            if self._patience is not None and time.monotonic() - began >= self._patience * settings.lease:
                raise Elsewhere(f"{stage}: {who} makes it")
            time.sleep(pause * (0.5 + random.random()))
            pause = min(LONGEST_PAUSE, settings.lease / 3, 1.5 * pause)

    def _knows_claims(self, settings: StoreSettings, remote: Remote) -> bool:
        place = (remote.url, settings.endpoint_url)
        if place not in _CLAIMING:
            _CLAIMING[place] = remote.knows_claims()
            if not _CLAIMING[place]:
                self._note(
                    f"{remote.url}: the store knows no conditional writes, so that nothing is claimed there "
                    "and machines that share it may make the same stage (store.share)"
                )
        return _CLAIMING[place]

    def _send(self, made: Artefact, tell: Tell) -> bool:
        """Let the others find it; False where it could not be sent."""
        settings = self._usable()
        if settings is None:
            return False
        try:
            self._remote(settings, tell).push([made])
        except RemoteTrouble as trouble:
            self._troubled(trouble)
            return False
        return True

    def _remote(self, settings: StoreSettings, tell: Tell) -> Remote:
        from tasks.remote.remote import Remote  # boto3 takes a second, and only a miss needs it

        remote = self._context.keep(("remote", settings.url), lambda: Remote(settings))
        remote.tell = tell
        return remote

    def _usable(self) -> StoreSettings | None:
        """The settings; None where there are none, or the remote is left alone."""
        return None if time.monotonic() < self._unreached + REST else self._settings

    def _troubled(self, trouble: RemoteTrouble) -> None:
        if trouble.lasting:
            self._settings = None
        away = isinstance(trouble, Unreachable)
        if away:
            self._unreached = time.monotonic()
        self._note(f"{trouble}; going on without it{f' for {REST / 60:g} minutes' if away else ''}")
