"""What the workers of a vLLM server can do for us beside what vLLM's can: mixed into them by
``--worker-extension-cls tasks.engines.vllm_extension.Extension`` and called through ``/collective_rpc``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tasks.core.parent_death import die_with
from tasks.engines.vllm_kernels import use_kernels


class Extension:
    """Mixed into vLLM's worker."""

    def ostinato_hello(self) -> dict[str, Any]:
        """How the server was started. From here on the worker takes kernels that it would not by itself, and
        dies with its server: alone, a server that is killed leaves its workers, and their memory, behind."""
        die_with(os.getppid())
        use_kernels()
        worker: Any = self
        model = worker.model_config
        return {
            "dtype": str(model.dtype).removeprefix("torch."),
            "max_model_len": model.max_model_len,
            "logprobs_mode": str(model.logprobs_mode),
            "max_logprobs": model.max_logprobs,
            "lora": worker.vllm_config.lora_config is not None,
        }

    def ostinato_reload(self, weights: str) -> None:
        """Take the weights of this Hugging Face folder. One that cannot be read changes nothing; a reload
        that breaks off would leave a model without weights, which ends the server at the next request."""
        if not (Path(weights) / "config.json").is_file():
            raise FileNotFoundError(f"{weights} cannot be read on the server's machine")
        worker: Any = self
        worker.reload_weights(weights_path=weights)
        renew_tied_head(worker.model_runner.model)


def renew_tied_head(model: Any) -> None:
    """A reload leaves out a head that shares the embeddings' weights: on CPU its packed copy stays old."""
    head = getattr(model, "lm_head", None)
    if head is not None and model.config.tie_word_embeddings:
        head.quant_method.process_weights_after_loading(head)
