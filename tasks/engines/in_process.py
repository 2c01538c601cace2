"""The transformers engine: samples on the trainer's own weights. Nothing is handed over, and no second copy
is kept but for ``engine.dtype: float8``, which rounds one.

On a CPU, prompts are computed and held once for all of their responses, and turns that come up later go on in
the place of earlier ones (``decoding``). transformers' continuous batching does the rest: models that cannot
share prompts, and GPUs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from params.base import BadInput
from params.schema import Params
from tasks.core.device import NARROW, side_by_side
from tasks.engines import float8, forks
from tasks.engines.base import (
    EngineFailure,
    More,
    Request,
    Response,
    Sampling,
    identity,
    ignore,
    no_more,
)
from tasks.engines.continuous_batching import ContinuousBatching, bytes_per_token
from tasks.engines.decoding import Decoding, Family, Room, families
from tasks.engines.packed_layers import packed_layers, product, sharing_input
from tasks.engines.rescoring import rescored
from tasks.policy import distributed
from tasks.policy.load import head_weight
from tasks.policy.policy import Policy

NARROWEST = 256
"""Hidden states. Below, a call is one part: chosen, since a step is then small operations above all."""
FEW = 32
"""Responses that are one part: chosen."""


class InProcess:
    """Samples from a ``Policy`` that others train."""

    def __init__(self, policy: Policy, params: Params) -> None:
        if params.engine.dtype not in ("auto", "float8", params.model.dtype):
            raise BadInput(
                f"engine.dtype: {params.engine.dtype!r}, but the transformers engine shares the trainer's "
                f"weights; expected auto, float8 or model.dtype, {params.model.dtype!r}"
            )
        self._policy = policy
        self._rounded = float8.Rounded(policy, params) if params.engine.dtype == "float8" else None
        self._params = params.engine
        self._groups: list[list[nn.Module]] | None = None

    def load(self, policy: Path | None) -> None:
        """Hold this policy; the weights are the trainer's own or made of them here: nothing to compare."""
        self._policy.restore(policy)
        if self._rounded is not None:
            self._rounded.take(identity(policy))

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        tell: Callable[[int, int], None] = ignore,
        finished: Callable[[int, Response], None] = ignore,
        more: More = no_more,
    ) -> list[Response]:
        """See ``Engine``. Where further requests came up, log-probabilities in float32 are the trainer's own,
        of one pass over all: those of a batch are rounded as its company has it, which timing decides."""
        if not requests:
            return []
        if self._shares_prompts():
            asked, made = self._decoded(requests, sampling, tell, finished, more)
        else:
            batching = ContinuousBatching(self._policy, self._network, self._params)
            asked, made = batching.generate(requests, sampling, tell, finished, more)
        exact = self._network.dtype == torch.float32 and not sampling.truncates
        return rescored(self._policy, asked, made, sampling) if exact and len(asked) > len(requests) else made

    def sleep(self) -> None:
        """Nothing to do: its cache lives as long as a call of ``generate``."""

    def close(self) -> None:
        """Nothing to free but a rounded copy: the weights are the trainer's."""
        self._rounded = None

    @property
    def _network(self) -> PreTrainedModel:
        return self._policy.network if self._rounded is None else self._rounded.network

    def _shares_prompts(self) -> bool:
        plain = self._policy.layout.flat and distributed.world_size() == 1
        return plain and self._policy.device.type == "cpu"

    def _decoded(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        tell: Callable[[int, int], None],
        finished: Callable[[int, Response], None],
        more: More,
    ) -> tuple[list[Request], list[Response]]:
        asked, found, tokens = dict(enumerate(requests)), dict[int, Response](), 0
        with (
            _threads(self._network) as cores,
            packed_layers(self._network, self._sharing()),
            self._policy.passes(self._network),
        ):
            parts = self._parts(requests, sampling, more, asked)
            for added, done in forks.sampled(parts, cores, self._params.reply_timeout):
                tokens += added
                for index, response in done.items():
                    found[index] = response
                    finished(index, response)
                tell(len(found), tokens)
        if len(found) < len(asked):
            raise EngineFailure(f"transformers: ended after {len(found)} of {len(asked)} responses")
        return [asked[index] for index in sorted(asked)], [found[index] for index in sorted(found)]

    def _parts(
        self, requests: Sequence[Request], sampling: Sampling, more: More, asked: dict[int, Request]
    ) -> list[Callable[[], forks.Steps]]:
        """What processes may sample side by side. It does not depend on how many there are: neither do the
        responses. ``asked`` takes what comes up."""
        rows = side_by_side(self._params, self._policy.device.type == "cuda")
        memory = int(self._params.kv_cache_gib * 2**30) // bytes_per_token(self._network)
        width, found = self._network.config.get_text_config().hidden_size, families(requests)
        count = 1
        if NARROWEST <= width < NARROW and more is no_more and len(requests) > FEW:
            count = max(2, math.ceil(len(requests) / rows))
        head = product(head_weight(self._network).detach())

        def part(own: Sequence[Family]) -> forks.Steps:
            room = Room(rows, memory // min(count, forks.MOST))
            decoding = Decoding(self._network, own, sampling, room, more, head)
            yield from decoding.steps()
            asked.update(decoding.asked)

        cut = [found] if count == 1 else forks.split(found, count)
        return [functools.partial(part, own) for own in cut]

    def _sharing(self) -> list[list[nn.Module]]:
        if self._groups is None:
            self._groups = sharing_input(self._network)
        return self._groups


@contextmanager
def _threads(network: PreTrainedModel) -> Iterator[int]:
    """Inside the block, one thread for a narrow model: what two gain on its small products is lost many
    times over where one of them has to wait for its core. Two cores, 64 responses: 576 wide, one thread
    samples 310 tokens a second, two 432, or 108 beside one busy process; 896 wide, 289 and 474. How many
    there were before."""
    before = torch.get_num_threads()
    if network.config.get_text_config().hidden_size < NARROW:
        torch.set_num_threads(1)
    try:
        yield before
    finally:
        torch.set_num_threads(before)


def open_engine(base: Path, trainer: Callable[[], Policy], params: Params, scratch: Path) -> InProcess:
    """As ``tasks.engines.selection`` opens it."""
    return InProcess(trainer(), params)
