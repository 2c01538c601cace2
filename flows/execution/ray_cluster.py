"""What a run has on the nodes of Ray: an actor for each shard of a rollout, and ranks of further machines."""

from __future__ import annotations

import importlib.util
import math
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from flows.execution import ray_session
from flows.execution.ray_actors import RankActor, ShardActor
from params.base import BadInput
from params.schema import Params
from tasks.core.errors import StageFailure

ATTEMPTS = 4
"""Of a shard, each in another actor: the actors before were killed, or their nodes died."""
START_SECONDS = 600.0
"""Without any actor, for a node to have room for one."""
LOOK_SECONDS = 1.0
CLOSE_SECONDS = 5.0
"""For an actor's engine to end by itself."""


@dataclass
class Member:
    """An actor, under way or up."""

    handle: Any
    """Ray's."""
    scratch: Path
    """A folder of its own."""
    up: bool = False
    """Whether it has answered."""


class RayCluster:
    """An actor for each shard, on a Ray of this run's own or the one that ``RAY_ADDRESS`` names; they start
    with the first shards. One that dies is replaced, and its shard goes to whichever is free first."""

    def __init__(self, workspace: Path, scratch: Path, params: Params) -> None:
        """``scratch``: a folder in the workspace for the run's files; ``params``: the whole run's."""
        self.workspace, self._scratch, self._params = workspace, scratch, params
        self._count = params.rollout.shards
        self._numbers = count()
        self._session: ray_session.Session | None = None
        self._starting: dict[Any, Member] = {}
        self._idle: list[Member] = []
        self._busy: dict[Any, tuple[Member, int]] = {}
        self._stillborn = 0
        """Actors in a row that have ended before they answered."""

    def each(self, shards: Sequence[Mapping[str, Any]], tell: Callable[[int], None]) -> list[str]:
        """The paths of the shards' artefacts, in their order; ``tell`` hears how many are done. Raises
        ``BadInput`` and ``StageFailure``."""
        session = self._opened()
        self._call_together(session)
        beside = math.ceil(self._count / session.nodes())
        threads = self._threads(session)
        waiting, lost, made = deque(range(len(shards))), Counter[int](), dict[int, str]()
        alone = time.monotonic()  # since when there is no actor
        tell(0)
        while len(made) < len(shards):
            while waiting and self._idle:
                index = waiting.popleft()
                self._deal(index, {**shards[index], "threads": threads, "beside": beside})
            alone = time.monotonic() if self._busy else alone
            if time.monotonic() > alone + START_SECONDS:
                raise StageFailure(f"rollout.shards: no node of the Ray cluster has {session.wanted}")
            for done in session.ready([*self._starting, *self._busy], LOOK_SECONDS):
                self._take(session, done, waiting, lost, made)
                tell(len(made))
        return [made[index] for index in range(len(shards))]

    def meeting(self) -> str:
        """A free port of this node, by the address that the others know."""
        host = self._opened().address()
        with socket.create_server((host, 0)) as free:
            return f"{host}:{free.getsockname()[1]}"

    def place_ranks(self, folder: Path, machines: int) -> PlacedRanks:
        """See ``tasks.core.context.Cluster``."""
        return PlacedRanks(self._opened(), folder, machines - 1)

    def close(self) -> None:
        """End the actors, and Ray unless it was there before."""
        if self._session is None:
            return
        if not self._busy:  # else it was interrupted, and they would not answer
            self._session.ready([one.handle.close.remote() for one in self._idle], CLOSE_SECONDS, all=True)
        for one in (*self._idle, *self._starting.values(), *(member for member, _ in self._busy.values())):
            self._session.kill(one.handle)
        self._session.close()

    def _opened(self) -> ray_session.Session:
        if self._session is None:
            self._session = ray_session.open_session(self._params, self.workspace, self._scratch, self._count)
        return self._session

    def _threads(self, session: ray_session.Session) -> int | None:
        """Of a node, for all its actors; None: its cores."""
        if self._params.threads or not session.own:
            return self._params.threads
        import torch

        return torch.get_num_threads()  # where the trainer computes beside, its share is left out

    def _call_together(self, session: ray_session.Session) -> None:
        """Have as many actors as shards: those that are there, if they still answer, and new ones."""
        for one, _ in self._busy.values():  # at what an error has left behind
            session.kill(one.handle)
        self._busy.clear()
        for one in self._idle:
            self._starting[session.opening(one.handle)] = one
        self._idle.clear()
        for _ in range(self._count - len(self._starting)):
            self._start(session)

    def _start(self, session: ray_session.Session) -> None:
        one = Member(session.actor(ShardActor), session.folder / f"shard-{next(self._numbers)}")
        self._starting[session.opening(one.handle)] = one

    def _deal(self, index: int, shard: Mapping[str, Any]) -> None:
        one = self._idle.pop()
        self._busy[one.handle.make.remote(shard, str(one.scratch))] = one, index

    def _take(
        self,
        session: ray_session.Session,
        done: Any,
        waiting: deque[int],
        lost: Counter[int],
        made: dict[int, str],
    ) -> None:
        """What an actor has answered, or that it is gone."""
        starting = self._starting.pop(done, None)
        one, index = (starting, None) if starting else self._busy.pop(done)
        try:
            answer = session.result(done)
        except ray_session.Gone as gone:
            session.kill(one.handle)
            if index is not None:
                waiting.appendleft(index)
                lost[index] += 1
                if lost[index] == ATTEMPTS:
                    raise StageFailure(
                        f"rollout: the process of a shard ended {ATTEMPTS} times: {gone}"
                    ) from None
            self._stillborn += not one.up
            if self._stillborn == ATTEMPTS * self._count:
                raise StageFailure(f"rollout.shards: no actor starts on the Ray cluster: {gone}") from None
            self._start(session)
            return
        one.up, self._stillborn = True, 0
        self._idle.append(one)
        match answer:
            case {"ok": path}:
                if index is not None:
                    made[index] = path
            case {"bad_input": text}:
                raise BadInput(text)
            case {"failed": text}:
                raise StageFailure(text)


class PlacedRanks:
    """Launchers of an update's ranks on other nodes, until it is closed."""

    def __init__(self, session: ray_session.Session, folder: Path, count: int) -> None:
        """Start one on each of ``count`` nodes, for the update whose launchers meet in ``folder``."""
        self._session = session
        self._actors = session.actors_elsewhere(RankActor, count)
        try:
            self._all(f"{count} further nodes", [session.opening(one) for one in self._actors])
            started = [one.start.remote(str(folder), n) for n, one in enumerate(self._actors, start=1)]
            self._all("the launchers on them", started)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End them, and their ranks."""
        for one in self._actors:
            self._session.kill(one)

    def _all(self, what: str, asked: list[Any]) -> None:
        if len(self._session.ready(asked, START_SECONDS, all=True)) < len(asked):
            raise StageFailure(f"update.placed_by: ray: {what} did not start within {START_SECONDS:g} s")
        for answer in map(self._session.result, asked):
            if "bad_input" in answer:
                raise BadInput(answer["bad_input"])


def require_ray(params: Params) -> None:
    """Raises ``BadInput`` where the run wants Ray and it is not installed, or a cluster and there is none."""
    placed = params.update.placed_by == "ray"
    if params.rollout.shards == 1 and not placed:
        return
    if importlib.util.find_spec("ray") is None:
        setting, usual = ("update.placed_by", "null") if placed else ("rollout.shards", "1")
        raise BadInput(
            f"{setting}: Ray is not installed; expected it to be, by pip install -e '.[ray]', or {usual}"
        )
    if placed and ray_session.own():
        raise BadInput("update.placed_by: ray: a Ray of the run's own has one node; expected RAY_ADDRESS")


def cluster_of(params: Params, workspace: Path, scratch: Path) -> RayCluster | None:
    """What a run's stages find as ``Context.cluster``; None where it uses no Ray."""
    wanted = params.rollout.shards > 1 or params.update.placed_by == "ray"
    return RayCluster(workspace, scratch, params) if wanted else None
