"""Any number of vLLM servers, seen from a stage: one policy on all, the work spread over those that run."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from params.schema import Params
from tasks.core import open_files
from tasks.core.device import side_by_side, start_timeout
from tasks.engines import float8, probe, vllm_options
from tasks.engines.base import (
    BASE,
    EngineFailure,
    More,
    Request,
    Response,
    Sampling,
    identity,
    ignore,
    no_more,
)
from tasks.engines.dispatch import Dispatch, groups
from tasks.engines.http import Client, Lost
from tasks.engines.members import Members
from tasks.engines.roster import Roster
from tasks.engines.server_state import Patience, ServerState
from tasks.engines.vllm_build import on_gpu
from tasks.engines.vllm_guard import KEY
from tasks.engines.vllm_http import ServerClient
from tasks.engines.vllm_launch import local_servers
from tasks.engines.weights_sender import Sender
from tasks.policy.policy import Policy, release_gpu

log = logging.getLogger(__name__)
TELL_SECONDS = 0.25


@dataclass(frozen=True)
class Weights:
    """What every server should hold."""

    name: str
    folder: Path
    """The merged model; the base model's own folder for that."""
    adapter: Path | None
    """For a server that takes adapters; ``None``: without any."""
    expected: Tensor
    """The trainer's scores of the probe."""


class Servers:
    """Holds one base model, and one policy at a time, on servers that it was told of or started itself."""

    def __init__(
        self,
        base: Path,
        policy: Callable[[], Policy],
        params: Params,
        scratch: Path,
        patience: Patience | None = None,
    ) -> None:
        """Start the servers that are ours, and open ``policy``, the trainer's, while they start; on a GPU
        before, as ``Vllm`` does."""
        open_files.allow_many()  # a socket for each request under way, at each server
        engine = params.engine
        self._base, self._params = base, params
        self._patience = patience or Patience()
        shared = Path(engine.weights_folder).expanduser() if engine.weights_folder else scratch
        self._folder = shared / f"weights-{os.getpid()}-{time.time_ns():x}"
        adapted = policy().weights.layer_names() if on_gpu() else []
        release_gpu()
        self._sender = Sender() if engine.weights == "http" else None
        ours = local_servers(base, params, scratch, adapted)
        seconds = start_timeout(engine, on_gpu())
        self._members = Members(ours, Roster(engine), self._client, seconds)
        self._states = self._members.states
        try:
            self._policy = policy()
        except BaseException:
            self.close()
            raise
        self._rounded = float8.Rounded(self._policy, params) if engine.dtype == "float8" else None
        self._probe = probe.Probe(self._policy.tokenizer, params.model.context)
        self._plain: Weights | None = None
        self._wanted: Weights | None = None

    def load(self, policy: Path | None) -> None:
        """See ``Engine``. A server that holds other weights afterwards is left out with a note; raises
        ``EngineFailure`` where none is left."""
        name = identity(policy, self._rounded is not None)
        if self._plain is None:
            self._policy.restore(None)
            scores = self._probe.scores(self._policy)
            self._plain = Weights(BASE, self._base, None, scores)
        old = self._wanted
        self._members.follow(self._members.look())
        self._policy.restore(policy)
        if old is None or name != old.name:
            self._wanted = self._made(policy, name)
            for state in self._states:
                state.out, state.failures = False, 0
        self._connect_all(everyone=old is None)
        self._sweep()

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        tell: Callable[[int, int], None] = ignore,
        finished: Callable[[int, Response], None] = ignore,
        more: More = no_more,
    ) -> list[Response]:
        """See ``Engine``. Fails only when no server is left."""
        if sampling.entropy:
            raise EngineFailure("server: tells of no entropies")
        asked, done, tokens, told = list(requests), 0, 0, time.monotonic()

        def further() -> list[tuple[int, int | None]] | None:
            found, count = more(0.0), len(asked)
            asked.extend(found or ())
            return None if found is None else [(count + i, r.follows) for i, r in enumerate(found)]

        def heard(index: int, response: Response) -> None:
            nonlocal done, tokens, told
            done, tokens = done + 1, tokens + len(response.token_ids)
            finished(index, response)
            if time.monotonic() - told > TELL_SECONDS:
                told = time.monotonic()
                tell(done, tokens)

        wanted = self._wanted
        if wanted is None:
            raise EngineFailure("server: nothing is loaded")
        self._refresh(wanted)
        dispatch = Dispatch(
            self._members,
            groups(requests, len(self._states)),
            side_by_side(self._params.engine, on_gpu()),
            lambda client, index: client.sample(asked[index], sampling, wanted.name, index),
            self._connect,
            heard,
            self._patience,
            None if more is no_more else further,
        )
        made = dispatch.run()
        tell(done, tokens)
        return [made[index] for index in range(len(asked))]

    def sleep(self) -> None:
        """Nothing to do: servers stay as they are."""

    def close(self) -> None:
        """End the servers that are ours; the others keep what they hold."""
        for state in self._states:
            if state.local is not None:
                state.local.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _client(self, address: str) -> ServerClient:
        engine = self._params.engine
        client = Client(address, os.environ.get(KEY))
        return ServerClient(client, engine.health_timeout, engine.reply_timeout, self._sender)

    def _made(self, policy: Path | None, name: str) -> Weights:
        """The policy that the trainer holds, where servers can read it."""
        if self._rounded is not None:
            self._rounded.take(name)
        elif policy is None:
            assert self._plain is not None
            return self._plain
        expected = self._probe.scores(self._rounded or self._policy)
        takes = self._params.update.adapter == "lora" and self._rounded is None
        folder = self._folder / name[:16]
        self._folder.mkdir(parents=True, exist_ok=True)
        adapter = None
        if takes and policy is not None:
            adapter = policy / "adapter"
            if self._params.engine.weights_folder:
                adapter = folder.with_name(folder.name + "-adapter")
                shutil.copytree(policy / "adapter", adapter, dirs_exist_ok=True)
        if not (takes and self._states and all(state.adapts for state in self._states)):
            (self._rounded or self._policy).merged(folder)
        return Weights(name, folder, adapter, expected)

    def _connect_all(self, everyone: bool) -> None:
        """Give the policy to every server, or to those that were up; wait for one where none is."""
        chosen = [state for state in self._states if everyone or state.up]
        while True:
            self._side_by_side(self._connect, chosen)
            if any(state.ready for state in self._states):
                return
            failure = self._members.failure(self._patience)
            if failure:
                raise failure
            again = [state.again - time.monotonic() for state in self._states if state.waits]
            time.sleep(max(0.0, min([self._patience.look, *again])))
            self._members.follow(self._members.look())
            chosen = [s for s in self._states if s.waits and s.again <= time.monotonic()]

    def _side_by_side(self, do: Callable[[ServerState], None], chosen: list[ServerState]) -> None:
        with ThreadPoolExecutor(max(1, len(chosen))) as pool:
            list(pool.map(do, chosen))

    def _sweep(self) -> None:
        """Remove the weights of before, unless a server that comes back is reading them."""
        with contextlib.ExitStack() as held:
            for state in self._states:
                if not state.lock.acquire(blocking=False):
                    return
                held.callback(state.lock.release)
            for folder in self._folder.glob("*"):
                if self._wanted is None or folder not in (self._wanted.folder, self._wanted.adapter):
                    shutil.rmtree(folder, ignore_errors=True)

    def _refresh(self, wanted: Weights) -> None:
        """Empty the prefix caches, and find out which servers have started anew since."""

        def look(state: ServerState) -> None:
            try:
                if state.client.holds() != wanted.name:
                    raise Lost(f"{state.client.address}: has started anew and holds no policy")
                state.client.forget()
            except Lost as lost:
                state.lose(str(lost), self._patience)
                state.again = 0.0

        self._side_by_side(look, [state for state in self._states if state.up])

    def _connect(self, state: ServerState) -> None:
        """Give one server the policy and verify that it holds it: up, lost or left out afterwards."""
        with state.lock:
            wanted = self._wanted
            assert wanted is not None
            try:
                if state.local is not None and state.local.ensure():
                    state.weights = None
                if state.up and state.weights == wanted.name:
                    return
                if state.up:
                    state.client.healthy()  # one that hangs would keep all waiting while it takes weights
                if state.weights is None or not state.up:
                    self._handshake(state)
                self._give(state, wanted)
            except Lost as lost:
                state.weights = None
                if str(lost) != state.reason:  # once, however often it is tried
                    log.warning("not reached: %s", lost)
                state.lose(str(lost), self._patience)
            except EngineFailure as failure:
                state.weights = None
                state.leave_out(str(failure))
            else:
                state.up, state.out, state.reason = self._wanted is wanted, False, ""

    def _handshake(self, state: ServerState) -> None:
        """Make sure that it is a server of this model, from its base weights on."""
        said = state.client.hello()
        vllm_options.check_server(state.client.address, said, self._params)
        state.adapts = bool(said["lora"])
        state.weights = None
        assert self._plain is not None
        self._give(state, self._plain)

    def _give(self, state: ServerState, weights: Weights) -> None:
        if state.weights == weights.name:
            return
        if state.adapts and (weights.adapter is not None or weights.folder == self._base):
            state.client.adapt(weights.adapter, weights.name)
        elif not weights.folder.is_dir():  # it joined when all took adapters
            raise EngineFailure(
                f"server {state.client.address}: takes no adapters, as the others do; it has to wait for the "
                "next policy, or expected --enable-lora"
            )
        else:
            state.client.take(weights.folder, weights.name)
        engine = torch.tensor(state.client.score(self._probe.prompts, self._probe.responses))
        try:
            probe.check(engine, weights.expected, self._params.engine.probe_tolerance)
            if state.weights is not None:
                probe.check_changed(engine, state.before[0], weights.expected, state.before[1])
        except EngineFailure as failure:
            raise EngineFailure(f"server {state.client.address}: {failure}") from None
        state.weights, state.before = weights.name, (engine, weights.expected)


open_engine = Servers
