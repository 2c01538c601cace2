"""vLLM in a process of its own: ``python -m tasks.engines.vllm_worker PARENT``, JSON lines in and out.

A line in is ``{"do": METHOD, ...arguments}``, or what comes up while others are sampled, ``{"prompts",
"requests", "last"}``. A line out is progress, ``{"tokens": ...}``, a finished response, ``{"index": ...}``,
or the reply, ``{"ok": ...}``, which ends the exchange. Whatever else is printed goes to the log. An error
ends the process; its last words stand in the log.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from tasks.core.json_worker import Parent
from tasks.engines.vllm_extension import renew_tied_head

PROGRESS_SECONDS = 0.25


def main(parent: int) -> None:
    """Serve one line after the other until the input ends."""
    starter = Parent(parent)
    gc.disable()  # a quarter of the start would be spent looking for garbage among modules
    worker = Worker(starter)
    for request in starter:
        method = getattr(worker, request.pop("do"))
        starter.send({"ok": method(**request)})
    os._exit(0)  # nothing to save, and the library takes seconds to say goodbye


class Worker:
    """Holds one ``vllm.LLM``. The public methods are what a line may ask for."""

    def __init__(self, parent: Parent) -> None:
        self._parent = parent
        self._llm: Any = None
        self._adapter: Any = None

    def open(self, options: dict[str, Any], architectures: list[str]) -> None:
        """Load the model that ``options``, the arguments of ``vllm.LLM``, name."""
        import vllm

        from tasks.engines.vllm_kernels import use_kernels

        for architecture in architectures:
            known = vllm.ModelRegistry.models.get(architecture)
            if known is not None:  # by class: otherwise a second process starts, only to look at it
                vllm.ModelRegistry.register_model(architecture, known.load_model_cls())
        gc.freeze()
        self._llm = vllm.LLM(**options)
        use_kernels()
        gc.freeze()
        gc.enable()

    def reload(self, weights: str) -> None:
        """Take the weights of this Hugging Face folder and forget what the old ones computed."""
        self._load(weights)
        self._forget()

    def sleep(self, level: int) -> None:
        """Give the GPU's memory back but for the process's own: cache and weights, which level 1 keeps in the
        host's memory and level 2 drops."""
        self._forget()
        self._llm.sleep(level=level)

    def wake(self, weights: str | None) -> None:
        """Take the memory again, and the weights of this Hugging Face folder where they were dropped."""
        if weights is None:
            self._llm.wake_up()
        else:
            self._llm.wake_up(tags=["weights"])
            self._load(weights)
            self._llm.wake_up(tags=["kv_cache"])
        self._forget()

    def adapt(self, adapter: str | None, name: str, number: int) -> None:
        """Sample with this LoRA adapter from now on; without any where it is null."""
        from vllm.lora.request import LoRARequest

        self._adapter = LoRARequest(name, number, adapter) if adapter is not None else None
        self._forget()

    def score(self, prompts: list[list[int]], responses: list[list[int]]) -> list[list[float]]:
        """Log-probabilities of each token of ``responses[i]`` after ``prompts[i]``, at temperature 1."""
        from vllm import SamplingParams

        asked = SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False)
        pairs = list(zip(prompts, responses, strict=True))
        whole = [{"prompt_token_ids": prompt + response} for prompt, response in pairs]
        outputs = self._llm.generate(whole, asked, use_tqdm=False, lora_request=self._adapter)
        return [
            _logp(response, output.prompt_logprobs[len(prompt) :])
            for (prompt, response), output in zip(pairs, outputs, strict=True)
        ]

    def generate(
        self,
        prompts: list[list[int]],
        requests: list[list[int]],
        temperature: float,
        stop_ids: list[int],
        top: int,
        entropy: bool,
        top_p: float,
        top_k: int,
        more: bool,
    ) -> int:
        """Sample a response for each ``[prompt's position, seed, tokens at most]``; says each as it is
        finished, with the ``top`` likeliest tokens of each position, and with ``entropy`` the
        distribution's. With ``more`` further ones come up, and join, until the last are said. How many."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        from tasks.engines import vllm_entropy

        self._forget()  # what was sampled before decides which blocks are at hand, and so how this one rounds
        engine, asked = self._llm.llm_engine, 0

        def add(prompts: list[list[int]], requests: list[list[int]]) -> None:
            nonlocal asked
            for prompt, seed, max_tokens in requests:
                how = SamplingParams(
                    temperature=temperature,
                    top_p=top_p,
                    top_k=top_k,
                    max_tokens=max_tokens,
                    seed=seed,
                    stop_token_ids=stop_ids,
                    ignore_eos=True,  # the stop tokens are the caller's
                    logprobs=top,  # the sampled token's comes in any case
                    detokenize=False,
                    output_kind=RequestOutputKind.FINAL_ONLY,
                    extra_args={vllm_entropy.NAME: asked} if entropy else None,
                )
                ids = {"prompt_token_ids": prompts[prompt]}
                engine.add_request(str(asked), ids, how, lora_request=self._adapter)
                asked += 1

        add(prompts, requests)
        tokens, told = 0, time.monotonic()
        while more or engine.has_unfinished_requests():
            if more and (self._parent.ready() or not engine.has_unfinished_requests()):
                further = self._parent.receive()
                add(further["prompts"], further["requests"])
                more = not further["last"]
                continue
            tokens += engine.get_num_unfinished_requests()
            for output in engine.step():
                if output.finished:
                    spread = vllm_entropy.take(int(output.request_id)) if entropy else []
                    self._parent.send(_finished(output, top, spread))
            if time.monotonic() - told > PROGRESS_SECONDS:
                told = time.monotonic()
                self._parent.send({"tokens": tokens})
        return asked

    def _load(self, weights: str) -> None:
        self._llm.collective_rpc("reload_weights", kwargs={"weights_path": weights})
        self._llm.apply_model(renew_tied_head)

    def _forget(self) -> None:
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("the prefix cache could not be reset")


def _finished(output: Any, top: int, spread: list[float]) -> dict[str, Any]:
    """A finished response as a message."""
    response = output.outputs[0]
    likely = [pair for entry in response.logprobs for pair in _likeliest(entry, top)]
    return {
        "index": int(output.request_id),
        "ids": list(response.token_ids),
        "logp": _logp(response.token_ids, response.logprobs),
        "finish": response.finish_reason,
        "top_ids": [token for token, _ in likely],
        "top_logp": [logp for _, logp in likely],
        "entropy": spread,
    }


def _likeliest(entry: dict[int, Any], top: int) -> list[tuple[int, float]]:
    """The ``top`` likeliest tokens of a position, in order; a sampled one that is not among them left out."""
    ranked = sorted((item.rank, token, item.logprob) for token, item in entry.items() if item.rank <= top)
    return [(token, logp) for _, token, logp in ranked]


def _logp(tokens: Sequence[int], entries: Sequence[dict[int, Any]]) -> list[float]:
    return [entry[token].logprob for token, entry in zip(tokens, entries, strict=True)]


if __name__ == "__main__":
    main(int(sys.argv[1]))
