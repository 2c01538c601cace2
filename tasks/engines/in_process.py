"""transformers' continuous batching on the trainer's own weights: no second copy, nothing to hand over, but
for ``engine.dtype: float8``, which rounds a copy.

The library seeds the global generator and draws for whichever responses share a batch. Here every token is
drawn with a number that belongs to (the response's seed, position): its company does not matter.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedModel
from transformers.generation.continuous_batching.requests import GenerationOutput

from params.base import BadInput
from params.schema import Params
from tasks.core.seeds import seed
from tasks.engines import float8
from tasks.engines.base import EngineFailure, Request, Response, Sampling, identity, ignore
from tasks.policy.policy import Policy

PAGE = 32
BATCH_TOKENS = 512
CPU_SIDE_BY_SIDE = 32
"""Responses in a batch at most: for want of a kernel for ragged batches, each attends to all keys, masked."""

_Told = tuple[list[int], list[float], list[float]]
"""Ids and log-probabilities of the likeliest tokens, and entropies, position after position."""


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
    ) -> list[Response]:
        """See ``Engine``."""
        done: dict[int, Response] = {}
        if not requests:
            return []
        config, families = self._plan(requests, sampling.max_tokens)
        drawing = _Drawing(requests, families, sampling)
        with self._running(config, sampling, drawing) as manager:
            tokens, since = 0, time.monotonic()
            while len(done) < len(requests):
                output = manager.get_result(timeout=0.5)
                if output is not None:
                    index = drawing.index[output.request_id]
                    done[index] = _response(output, sampling, drawing)
                    finished(index, done[index])
                elif not manager.is_running():
                    raise EngineFailure(f"transformers: ended after {len(done)} of {len(requests)} responses")
                if drawing.tokens > tokens:
                    tokens, since = drawing.tokens, time.monotonic()
                    tell(len(done), tokens)
                elif time.monotonic() - since > self._params.reply_timeout:
                    raise EngineFailure(f"transformers: no token in {self._params.reply_timeout} s")
        return [done[index] for index in range(len(requests))]

    def sleep(self) -> None:
        """Nothing to do: its cache lives as long as a call of ``generate``."""

    def close(self) -> None:
        """Nothing to free but a rounded copy: the weights are the trainer's."""
        self._rounded = None

    @property
    def _network(self) -> PreTrainedModel:
        return self._policy.network if self._rounded is None else self._rounded.network

    def _plan(
        self, requests: Sequence[Request], max_tokens: int
    ) -> tuple[ContinuousBatchingConfig, list[list[int]]]:
        """How batches are cut, and which requests form a family: one prompt, run once for all of them."""
        longest = max(len(r.prompt_ids) + (r.max_tokens or max_tokens) for r in requests)
        pages = math.ceil(longest / PAGE)
        affordable = max(1, self._memory() // (pages * PAGE * self._bytes_per_token()))
        side_by_side = min(len(requests), self._params.max_sequences, affordable)
        if self._policy.device.type == "cpu":
            side_by_side = min(side_by_side, CPU_SIDE_BY_SIDE)
        families = _families(requests)
        if len(requests) > affordable:  # a family's responses are in memory from its first token on
            families = [[index] for index in range(len(requests))]
        return ContinuousBatchingConfig(
            page_size=PAGE,
            num_blocks=pages * (len(requests) if len(families) < len(requests) else side_by_side),
            max_requests_per_batch=side_by_side,
            max_batch_tokens=max(BATCH_TOKENS, side_by_side),
            safety_margin=0.0,
            allow_block_sharing=False,
            use_async_batching=False,
            use_cuda_graph=False,
            return_logprobs=True,
            auto_switch_to_flash=False,
            seed=0,
        ), families

    def _memory(self) -> int:
        device = self._policy.device
        if device.type == "cuda":
            return int(torch.cuda.mem_get_info(device)[0] * self._params.memory_fraction)
        return int(self._params.kv_cache_gib * 2**30)

    def _bytes_per_token(self) -> int:
        """Keys and values of one position in all layers."""
        config = self._network.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return int(2 * config.num_hidden_layers * heads * width * self._network.dtype.itemsize)

    @contextmanager
    def _running(
        self, config: ContinuousBatchingConfig, sampling: Sampling, drawing: _Drawing
    ) -> Iterator[Any]:
        """A manager at work on all requests. It has them before it starts: no batch depends on timing."""
        network = self._network
        devices = [network.device] if network.device.type == "cuda" else []
        # The model's own would bring top-k, temperature and a length.
        plain = GenerationConfig(
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=sampling.max_tokens,
            eos_token_id=list(sampling.stop_ids),
            num_return_sequences=drawing.family_size,
        )
        with torch.random.fork_rng(devices=devices):
            manager: Any = network.init_continuous_batching(plain, config)  # type: ignore[operator]
            manager.warmup()  # makes the parts, one of which seeds the global generator
        runner = manager.batch_processor.model_runner
        drawing.batch, runner._sample = runner.inputs_and_outputs, drawing.sample
        for name, prompt, most in drawing.prompts:
            manager.add_request(list(prompt), request_id=name, max_new_tokens=most)
        manager.start()
        try:
            yield manager
        finally:
            gc.freeze()  # it collects garbage: among all of a program's objects that takes as long as a round
            try:
                manager.stop(block=True, timeout=30.0, hard_stop=True)
                manager.destroy()
            finally:
                gc.unfreeze()


class _Drawing:
    """Draws tokens: u in [0, 1) is of (seed, position), the token is where the cumulated p passes u."""

    batch: Any
    """The library's account of which requests the rows of a step belong to."""

    def __init__(self, requests: Sequence[Request], families: list[list[int]], sampling: Sampling) -> None:
        self.family_size = len(families[0])
        firsts = [requests[members[0]] for members in families]
        self.prompts = [(str(f), r.prompt_ids, r.most(sampling)) for f, r in enumerate(firsts)]
        self.index: dict[str, int] = {}
        for f, members in enumerate(families):
            names = [str(f), *(f"{f}__child#{child}" for child in range(len(members) - 1))]
            self.index.update(zip(names, members, strict=True))
        self.tokens = 0
        self.ended: set[str] = set()
        self.told: dict[str, _Told] = {name: ([], [], []) for name in self.index}
        self._seeds = {name: requests[index].seed for name, index in self.index.items()}
        self._sampling = sampling

    def sample(self, scores: Tensor, out: Tensor) -> None:
        """A token for each row of ``scores`` [1, n, V]; ``out`` [2, n] takes ids and log-probabilities."""
        states = [future.state for future in self.batch.requests_in_batch if future.has_new_token]
        if not states:  # prompts alone
            return
        count, temperature, top = len(states), self._sampling.temperature, self._sampling.top
        logs = torch.log_softmax(scores[0, :count].float() / (temperature or 1.0), dim=-1)
        if temperature and (self._sampling.top_k or self._sampling.top_p < 1.0):
            logs = _truncated(logs, self._sampling)
        if temperature == 0.0:
            chosen = logs.argmax(dim=-1, keepdim=True)
        else:
            draws = [seed(self._seeds[state.request_id], "token", state.position_offset) for state in states]
            u = torch.tensor([[(draw >> 10) / 2**53] for draw in draws], dtype=torch.float64)
            mass = logs.double().exp_().cumsum_(dim=-1)
            chosen = torch.searchsorted(mass, u.to(mass.device) * mass[:, -1:], right=True)
            chosen.clamp_(max=mass.shape[1] - 1)
        out[0, :count] = chosen.squeeze(1)
        out[1, :count] = logs.gather(1, chosen).squeeze(1).view(torch.int32)
        if top:
            likely = logs.topk(top, dim=-1)
            rows = zip(states, likely.indices.tolist(), likely.values.tolist(), strict=True)
            for state, ids, logp in rows:
                self.told[state.request_id][0].extend(ids)
                self.told[state.request_id][1].extend(logp)
        if self._sampling.ends:
            self._end(states, chosen.squeeze(1).tolist(), self._sampling.ends)
        if self._sampling.entropy:
            spread = -torch.linalg.vecdot(logs.exp(), logs)
            for state, value in zip(states, spread.tolist(), strict=True):
                self.told[state.request_id][2].append(value)
        self.tokens += count

    def _end(self, states: list[Any], chosen: list[int], ends: Callable[[Sequence[int]], bool]) -> None:
        """Have the library take the tokens that complete a response for its end tokens."""
        for state, token in zip(states, chosen, strict=True):
            if ends([*state.generated_tokens, token]):
                state._eos_token_ids = {*state._eos_token_ids, token}
                self.ended.add(state.request_id)


def _truncated(logs: Tensor, sampling: Sampling) -> Tensor:
    """Log-probabilities [n, V] with all but the likeliest tokens at -inf, and the rest made to sum to 1."""
    falling, ids = logs.sort(dim=-1, descending=True, stable=True)
    if sampling.top_k:
        falling[:, sampling.top_k :] = -math.inf
    mass = falling.softmax(-1)
    falling[mass.cumsum(-1) - mass >= sampling.top_p] = -math.inf  # what is before it reaches top-p already
    return torch.empty_like(logs).scatter_(1, ids, falling.log_softmax(-1))


def _families(requests: Sequence[Request]) -> list[list[int]]:
    """Requests with one prompt together, where all prompts have as many; else each alone."""
    by_prompt: dict[tuple[tuple[int, ...], int | None], list[int]] = {}
    for index, request in enumerate(requests):
        by_prompt.setdefault((request.prompt_ids, request.max_tokens), []).append(index)
    sizes = {len(members) for members in by_prompt.values()}
    if len(sizes) == 1 and all(len(prompt) > 1 for prompt, _ in by_prompt):
        return list(by_prompt.values())
    return [[index] for index in range(len(requests))]


def _response(output: GenerationOutput, sampling: Sampling, drawing: _Drawing) -> Response:
    told, ended = drawing.told.pop(output.request_id), output.request_id in drawing.ended
    if output.error is not None:
        raise EngineFailure(f"transformers: {output.error}")
    tokens, logp = tuple(output.generated_tokens), tuple(output.logprobs)
    reason = "stop" if ended or (tokens and tokens[-1] in sampling.stop_ids) else "length"
    likely, spread = tuple(told[0]), tuple(told[2])
    made = Response(tokens, logp, reason, likely, tuple(told[1]), spread)
    if not made.complete(sampling):
        raise EngineFailure(
            f"transformers: {len(tokens)} tokens with {len(logp)} log-probabilities, {len(likely)} of likely "
            f"tokens, {sampling.top} a token, and {len(spread)} entropies"
        )
    return made


def open_engine(base: Path, trainer: Callable[[], Policy], params: Params, scratch: Path) -> InProcess:
    """As ``tasks.engines.selection`` opens it."""
    return InProcess(trainer(), params)
