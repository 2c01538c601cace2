"""Work spread over simulated servers that come, go, fail, hang and slow down: every piece is done once."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from params.engine import Engine
from tasks.engines.base import Response
from tasks.engines.dispatch import Dispatch
from tasks.engines.http import Lost
from tasks.engines.members import Members
from tasks.engines.roster import Roster
from tasks.engines.server_state import Patience, ServerState

PATIENCE = Patience(
    first=0.001,
    longest=0.01,
    watch=0.01,
    look=0.004,
    losses=1 << 30,
    overdue_known=3,
    overdue_least=0.005,
)
HANG_SECONDS = 30.0


class Simulated:
    """A server that answers, fails or hangs by chance, as often as ``trouble`` says and well after that."""

    def __init__(self, address: str, chance: random.Random, trouble: int) -> None:
        self.address, self.trouble = address, trouble
        self._chance, self._lock = chance, threading.Lock()
        self._slow = chance.choice((0.0, 0.001, 0.01))
        self._hangs = False
        self._under_way: dict[threading.Event, int] = {}
        self.did: list[int] = []

    def _what(self, *kinds: str) -> str:
        with self._lock:
            kind = self._chance.choice(kinds) if self.trouble > 0 else "well"
            self.trouble -= kind != "well"
            return kind

    def do(self, index: int) -> Response:
        ended = threading.Event()
        with self._lock:
            self._under_way[ended] = index
        kind = self._what("well", "well", "well", "fails", "hangs", "late")
        try:
            self._hangs = self._hangs or kind == "hangs"
            if ended.wait(HANG_SECONDS if kind == "hangs" else self._slow + 0.02 * (kind == "late")):
                raise Lost(f"{self.address}: aborted")
            if kind in ("fails", "hangs"):
                raise Lost(f"{self.address}: {kind}")
            self.did.append(index)
            return Response((index,), (-0.5 * index,), "length")
        finally:
            with self._lock:
                del self._under_way[ended]

    def healthy(self) -> None:
        if self._hangs:
            self._hangs = False
            raise Lost(f"{self.address}: no health")

    def abort(self, number: int | None = None) -> None:
        with self._lock:
            for ended, index in self._under_way.items():
                if number in (None, index):
                    ended.set()

    def connect(self, state: ServerState) -> None:
        kind = self._what("well", "fails")
        time.sleep(self._slow)
        if kind == "fails":
            state.lose(f"{self.address}: not reached", PATIENCE)
        else:
            state.up = True


class Lists(Roster):
    """Names other servers at each look, and all of them in the end."""

    def __init__(self, addresses: list[str], chance: random.Random, looks: int) -> None:
        super().__init__(Engine(name="server", servers_file="simulated"))
        self._all, self._chance, self._left = addresses, chance, looks

    def look(self) -> tuple[str, ...]:
        self._left -= 1
        count = self._chance.randint(0, len(self._all)) if self._left > 0 else len(self._all)
        return tuple(self._chance.sample(self._all, count))


def run(dispatch: Dispatch) -> dict[int, Response]:
    """Its result; fails where it does not end."""
    made: list[Any] = []
    thread = threading.Thread(target=lambda: made.append(dispatch.run()), daemon=True)
    thread.start()
    thread.join(60.0)
    assert made, "it hangs, or has failed"
    return made[0]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1 << 32),
    sizes=st.lists(st.integers(1, 8), min_size=1, max_size=12),
    servers=st.integers(1, 5),
    capacity=st.integers(1, 6),
    turns=st.integers(1, 3),
)
def test_every_piece_is_done_exactly_once(
    seed: int, sizes: list[int], servers: int, capacity: int, turns: int
) -> None:
    chance = random.Random(seed)
    clients: list[Simulated] = []

    def client(address: str) -> Any:
        clients.append(Simulated(address, random.Random(chance.random()), chance.randint(0, 6)))
        return clients[-1]

    addresses = [f"http://10.0.0.{n}:8001" for n in range(servers)]
    members = Members([], Lists(addresses, chance, chance.randint(0, 20)), client, 60.0)
    first = sum(sizes)
    heard: list[int] = []
    coming: list[tuple[int, int | None]] = []
    follows: dict[int, int] = {}

    def finished(index: int, response: Response) -> None:
        heard.append(index)
        assert response.token_ids == (index,)
        if index + first < turns * first:
            coming.append((index + first, index))
            follows[index + first] = index

    def more() -> list[tuple[int, int | None]] | None:
        found, coming[:] = list(coming), []
        return None if len(heard) == turns * first else found

    made = run(
        Dispatch(
            members,
            grouped(sizes),
            capacity,
            Simulated.do,  # type: ignore[arg-type]
            lambda state: state.client.connect(state),  # type: ignore[attr-defined]
            finished,
            PATIENCE,
            more if turns > 1 else None,
        )
    )
    assert sorted(heard) == sorted(made) == list(range(turns * first))
    assert all(response.token_ids == (index,) for index, response in made.items())
    assert set(range(turns * first)) <= {index for one in clients for index in one.did}
    assert not any(state.held for state in members.states)


def grouped(sizes: Iterable[int]) -> list[list[int]]:
    """Groups of these sizes, of indices that go up."""
    found: list[list[int]] = []
    count = 0
    for size in sizes:
        found.append(list(range(count, count + size)))
        count += size
    return found
