"""How vLLM is set up: the arguments of ``vllm.LLM`` and the environment of its process."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from params.schema import Params
from tasks.core import json_process
from tasks.core.device import VISIBLE, named_gpus, side_by_side
from tasks.engines.base import EngineFailure
from tasks.engines.vllm_build import on_gpu

PREFILL_TOKENS = 4096
CPU_BLOCK = 32
"""Positions in a block of the key-value cache on CPU. Samples of a prompt share its whole blocks alone, so a
small block saves most of the prefill; 32 is the smallest that the fast attention kernels take."""
MOST_LIKELY = 20
"""Likeliest tokens that may be asked for at a position: the bound of ``rollout.top_logprobs``."""
ENTROPY = "tasks.engines.vllm_entropy:EntropyProcessor"
"""The logits processor that notes entropies. It must have seen a step's tokens before the next one."""
ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""Settings of torch's allocator, which are the trainer's."""
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
LORA_WORDS = 258_048
"""Largest vocabulary of a model with adapters."""


def adapts(base: Path, params: Params) -> bool:
    """Whether LoRA adapters come at run time; else whole weights do. vLLM's kernels for them are for GPUs and
    take bfloat16, and ranks and vocabularies up to some size."""
    if params.update.adapter != "lora" or params.engine.dtype == "float8" or not on_gpu():
        return False
    config = json.loads((base / "config.json").read_text())
    words = int(config.get("vocab_size") or config.get("text_config", {}).get("vocab_size") or 0)
    fits = params.update.lora_rank <= LORA_RANKS[-1] and words <= LORA_WORDS
    return dtype(params) == "bfloat16" and fits


def dtype(params: Params) -> str:
    """The type that the weights are held in; those in float8 are rounded before."""
    named = params.engine.dtype
    return {"auto": params.model.dtype, "float8": "bfloat16"}.get(named, named)


def arguments(base: Path, params: Params, adapted: Sequence[str] = ()) -> dict[str, Any]:
    """The arguments of ``vllm.LLM``; ``adapted``: the linear layers that have an adapter, by the last part of
    their names, or none for all that vLLM knows, the head among them."""
    engine, model = params.engine, params.model
    options: dict[str, Any] = {
        "model": str(base.absolute()),
        "dtype": dtype(params),
        "trust_remote_code": model.trust_remote_code,
        "max_model_len": model.context,
        "max_num_seqs": side_by_side(engine, on_gpu()),
        "enable_prefix_caching": True,
        "logprobs_mode": "processed_logprobs",
        "max_logprobs": MOST_LIKELY,
        "generation_config": "vllm",
        "skip_tokenizer_init": True,
        "disable_log_stats": True,
        "seed": 0,
    }
    if on_gpu():
        options["gpu_memory_utilization"] = engine.memory_fraction
        if engine.sleep:
            options["enable_sleep_mode"] = True
        if engine.tensor_parallel > 1:
            options |= {"tensor_parallel_size": engine.tensor_parallel, "distributed_executor_backend": "mp"}
    else:
        options |= {
            "enforce_eager": True,
            "enable_chunked_prefill": False,  # a seeded request whose prompt is cut kills the CPU engine
            "max_num_batched_tokens": max(PREFILL_TOKENS, model.context),
            "block_size": CPU_BLOCK,
            "kv_cache_memory_bytes": int(engine.kv_cache_gib * 2**30),
        }
    if params.rollout.entropy:
        options |= {"logits_processors": [ENTROPY], "async_scheduling": False}
    if adapts(base, params):
        rank = next(rank for rank in LORA_RANKS if rank >= params.update.lora_rank)
        options |= {"enable_lora": True, "max_loras": 2, "max_lora_rank": rank}
        options |= {"lora_target_modules": list(adapted)} if adapted else {}
    return options


def environment(params: Params) -> dict[str, str]:
    """The environment of vLLM's process."""
    settings = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_HOST_IP": "127.0.0.1",
        "GLOO_SOCKET_IFNAME": "lo",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if params.rollout.entropy:
        settings["VLLM_USE_V2_MODEL_RUNNER"] = "0"  # the other one has them before the temperature
    if on_gpu():
        settings["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
        settings["VLLM_USE_FLASHINFER_SAMPLER"] = "0"  # it does not tell what a token's probability was
        if params.engine.gpus:
            settings[VISIBLE] = ",".join(named_gpus(params.engine.gpus, "engine.gpus"))
        if params.engine.sleep:  # whose allocator does not go with torch's expandable segments
            settings |= {name: "" for name in ALLOCATOR if name in os.environ}
    else:
        settings |= {
            "VLLM_CPU_OMP_THREADS_BIND": ",".join(str(core) for core in sorted(os.sched_getaffinity(0))),
            "TORCHDYNAMO_DISABLE": "1",  # one small function would be compiled for two seconds
            "KMP_BLOCKTIME": "1",  # milliseconds that threads spin before they sleep
            "THP_MEM_ALLOC_ENABLE": "1",  # tensors, and what the C library gives out, on pages of 2 MB where
            "GLIBC_TUNABLES": _joined(os.environ.get("GLIBC_TUNABLES"), "glibc.malloc.hugetlb=1"),  # allowed
        }
        openmp = Path(sys.prefix) / "lib" / "libiomp5.so"
        if openmp.is_file():
            settings["LD_PRELOAD"] = _joined(str(openmp), os.environ.get("LD_PRELOAD"))
    return json_process.environment(**settings)


def _joined(*parts: str | None) -> str:
    return ":".join(filter(None, parts))


def check_server(address: str, said: dict[str, Any], params: Params) -> None:
    """Raise ``EngineFailure`` unless the server was started for what is asked of it."""
    exact = {"dtype": dtype(params), "logprobs_mode": "processed_logprobs"}
    top = params.rollout.top_logprobs
    least = {"max_model_len": params.model.context, "max_logprobs": top and top + 1}
    wrong = [(name, value) for name, value in exact.items() if said[name] != value]
    small = [(name, f"{value} or more") for name, value in least.items() if said[name] < value]
    for name, wanted in (*wrong, *small):
        flag = name.replace("_", "-")
        raise EngineFailure(f"server {address}: runs with {flag} {said[name]}; expected --{flag} {wanted}")
