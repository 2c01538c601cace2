"""transformers' continuous batching: for models whose responses cannot share prompts, and for GPUs.

The library seeds the global generator and draws for whichever responses share a batch. Here every token is
drawn with a number that belongs to (the response's seed, position): its company does not matter. Only the
last digits of its log-probability tell of it; they are computed anew where timing had a say.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedModel
from transformers.generation.continuous_batching.requests import GenerationOutput

from params.engine import Engine
from tasks.core.device import side_by_side
from tasks.engines.base import (
    IDLE_SECONDS,
    POLL_SECONDS,
    EngineFailure,
    More,
    Request,
    Response,
    Sampling,
    no_more,
)
from tasks.engines.drawing import draw
from tasks.engines.turn_cache import TurnCache
from tasks.policy.policy import Policy

_Told = tuple[list[int], list[float], list[float]]
"""Ids and log-probabilities of the likeliest tokens, and entropies, position after position."""
PAGE = 32
BATCH_TOKENS = 512
CPU_SIDE_BY_SIDE = 32
"""Responses in a batch at most: for want of a kernel for ragged batches, each attends to all keys, masked."""
WAITING = 4
"""Turns whose keys and values are kept for the next one at most, as a multiple of those in a batch."""


class ContinuousBatching:
    """Samples from a policy's network, which may be a rounded copy of it."""

    def __init__(self, policy: Policy, network: PreTrainedModel, settings: Engine) -> None:
        self._policy, self._network, self._params = policy, network, settings

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        tell: Callable[[int, int], None],
        finished: Callable[[int, Response], None],
        more: More,
    ) -> tuple[list[Request], list[Response]]:
        """All requests, with those that came up, and their responses; see ``Engine.generate``."""
        asked, done, going = list(requests), dict[int, Response](), more is not no_more
        config, families = self._plan(requests, sampling, going)
        drawing = _Drawing(requests, families, sampling)
        with self._running(config, sampling, drawing) as manager:
            kept = TurnCache(manager.batch_processor) if going else None
            manager.start()
            tokens, since = 0, time.monotonic()
            while going or len(done) < len(asked):
                if going:
                    idle = len(done) == len(asked)
                    further = more(IDLE_SECONDS if idle else 0.0)
                    going = further is not None
                    for request in further or ():
                        assert kept is not None
                        self._join(manager, kept, drawing, len(asked), request)
                        asked.append(request)
                    if idle:
                        since = time.monotonic()
                        continue
                output = manager.get_result(timeout=POLL_SECONDS if going else 0.5)
                if output is not None:
                    index = drawing.index[output.request_id]
                    done[index] = _response(output, sampling, drawing)
                    finished(index, done[index])
                elif not manager.is_running():
                    raise EngineFailure(f"transformers: ended after {len(done)} of {len(asked)} responses")
                if drawing.tokens > tokens:
                    tokens, since = drawing.tokens, time.monotonic()
                    tell(len(done), tokens)
                elif time.monotonic() - since > self._params.reply_timeout:
                    raise EngineFailure(f"transformers: no token in {self._params.reply_timeout} s")
        return asked, [done[index] for index in range(len(asked))]

    def _join(self, manager: Any, kept: TurnCache, drawing: _Drawing, index: int, request: Request) -> None:
        """Add a request to those under way."""
        name = drawing.add(index, request)
        if request.follows is not None:
            kept.follow(name, drawing.names[request.follows])
        manager.num_return_sequences = 1
        manager.add_request(
            list(request.prompt_ids), request_id=name, max_new_tokens=request.most(drawing.sampling)
        )

    def _plan(
        self, requests: Sequence[Request], sampling: Sampling, going: bool
    ) -> tuple[ContinuousBatchingConfig, list[list[int]]]:
        """How batches are cut, and which requests form a family: one prompt, run once for all of them.

        ``going``: what follows a request fits with it into what ``sampling`` allows.
        """
        longest = max(
            len(r.prompt_ids) + (sampling.max_tokens if going else r.most(sampling)) for r in requests
        )
        pages = math.ceil(longest / PAGE)
        affordable = max(1, self._memory() // (pages * PAGE * bytes_per_token(self._network)))
        on_gpu = self._policy.device.type == "cuda"
        together = min(len(requests), side_by_side(self._params, on_gpu), affordable)
        if not on_gpu:
            together = min(together, CPU_SIDE_BY_SIDE)
        families = _families(requests)
        if len(requests) > affordable:  # a family's responses are in memory from its first token on
            families = [[index] for index in range(len(requests))]
        held = len(requests) if len(families) < len(requests) else together
        if going:
            held = max(held, min(len(requests), affordable, WAITING * together))
        return ContinuousBatchingConfig(
            page_size=PAGE,
            num_blocks=pages * held,
            max_requests_per_batch=together,
            max_batch_tokens=max(BATCH_TOKENS, together),
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

    @contextmanager
    def _running(
        self, config: ContinuousBatchingConfig, sampling: Sampling, drawing: _Drawing
    ) -> Iterator[Any]:
        """A manager that has all requests before it is started: no batch of theirs depends on timing."""
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
        try:
            yield manager
        finally:
            gc.freeze()  # it collects garbage: among all of a program's objects that takes as long as a round
            try:
                manager.stop(block=True, timeout=30.0, hard_stop=True)
                manager.destroy()
            finally:
                gc.unfreeze()


def bytes_per_token(network: PreTrainedModel) -> int:
    """Keys and values of one position in all layers."""
    config = network.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * width * network.dtype.itemsize)


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


class _Drawing:
    """Draws for the library, in place of its own sampler."""

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
        self.names = {index: name for name, index in self.index.items()}
        self._seeds = {name: requests[index].seed for name, index in self.index.items()}
        self.sampling = sampling

    def add(self, index: int, request: Request) -> str:
        """What a request that comes up is called."""
        name = f"then-{index}"
        self.index[name], self.names[index] = index, name
        self.told[name], self._seeds[name] = ([], [], []), request.seed
        return name

    def sample(self, scores: Tensor, out: Tensor) -> None:
        """A token for each row of ``scores`` [1, n, V]; ``out`` [2, n] takes ids and log-probabilities."""
        states = [future.state for future in self.batch.requests_in_batch if future.has_new_token]
        if not states:  # prompts alone
            return
        count = len(states)
        places = [(self._seeds[state.request_id], state.position_offset) for state in states]
        drawn = draw(scores[0, :count], places, self.sampling)
        tokens = [each.token for each in drawn]
        out[0, :count] = torch.tensor(tokens)
        out[1, :count] = torch.tensor([each.logp for each in drawn]).view(torch.int32)
        for state, each in zip(states, drawn, strict=True):
            told = self.told[state.request_id]
            told[0].extend(each.top_ids)
            told[1].extend(each.top_logp)
            told[2].extend(each.entropy)
        if self.sampling.ends:
            self._end(states, tokens, self.sampling.ends)
        self.tokens += count

    def _end(self, states: list[Any], chosen: list[int], ends: Callable[[Sequence[int]], bool]) -> None:
        """Have the library take the tokens that complete a response for its end tokens."""
        for state, token in zip(states, chosen, strict=True):
            if ends([*state.generated_tokens, token]):
                state._eos_token_ids = {*state._eos_token_ids, token}
                self.ended.add(state.request_id)
