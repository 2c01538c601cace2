"""The servers of a pool: those that were started here, and those that the list names, as it changes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence

from tasks.engines.base import EngineFailure
from tasks.engines.roster import Roster
from tasks.engines.server_state import Patience, ServerState, none_left
from tasks.engines.vllm_http import ServerClient
from tasks.engines.vllm_launch import LocalServer

log = logging.getLogger(__name__)


class Members:
    """Holds the states; all but ``look`` is for the thread that the pool works in."""

    def __init__(
        self,
        ours: Sequence[LocalServer],
        roster: Roster,
        client: Callable[[str], ServerClient],
        seconds: float,
    ) -> None:
        """``seconds``: how long to wait, where the list may change, while no server is up."""
        self._roster, self._client, self._seconds = roster, client, seconds
        self._none_since: float | None = None
        self.states = [ServerState(client(local.address), local) for local in ours]
        """One list, which changes."""
        self.states += [ServerState(client(address), None) for address in roster.look()]

    @property
    def changes(self) -> bool:
        """Whether servers may come and go."""
        return self._roster.changes

    def look(self) -> tuple[str, ...]:
        """The addresses that are listed now; may take seconds."""
        return self._roster.look()

    def follow(self, addresses: Iterable[str]) -> None:
        """Take in who is new, let go who is listed no more and has nothing left to do."""
        listed = dict.fromkeys(addresses)
        for state in [state for state in self.states if state.local is None]:
            gone = state.client.address not in listed
            listed.pop(state.client.address, None)
            if gone and not state.leaving:
                log.warning(
                    "leaves: %s is listed no more, and has %d requests", state.client.address, len(state.held)
                )
            state.leaving = gone
            if gone and not state.held:
                self.states.remove(state)
        for address in listed:
            log.warning("joins: %s", address)
            self.states.append(ServerState(self._client(address), None))

    def failure(self, patience: Patience) -> EngineFailure | None:
        """What to fail with, where no server is up and none is to be waited for."""
        now = time.monotonic()
        if any(state.up and (state.held or not state.leaving) for state in self.states):
            self._none_since = None
            return None
        self._none_since = self._none_since or now
        there = [state for state in self.states if not state.leaving]
        left_out = bool(there) and all(state.out for state in there)
        waiting = self.changes and now - self._none_since < self._seconds and not left_out
        if waiting or any(not state.out and state.failures < patience.tries for state in there):
            return None
        if not there:
            return EngineFailure(f"{self._roster.source}: no server for {self._seconds:g} s; expected one")
        return none_left(there)
