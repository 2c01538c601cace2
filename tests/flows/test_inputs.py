"""A base model and a data set that lie in a bucket."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from flows.execution.single_stage import run_stage
from params.base import BadInput
from params.load import compose
from tasks.artefacts.artefact import Artefact
from tasks.remote.errors import RemoteTrouble
from tests.buckets import Bucket, Exchange, proxied

SMALL = (
    *("engine.name=transformers", "threads=1", "task.train_count=6", "task.held_out_count=2"),
    *("rollout.problems_per_round=4", "rollout.max_response_tokens=16"),
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The workspace."""
    root = tmp_path / "home"
    root.mkdir()
    monkeypatch.setenv("OSTINATO_HOME", str(root))
    return root


def made(home: Path, stage: str, model: str, *settings: str) -> tuple[str, Artefact]:
    """How a stage came about, and its artefact."""
    params = compose(model, "jsonl" if stage == "problems" else "arithmetic", "grpo", (*SMALL, *settings))
    file = home / "params.yaml"
    file.write_text(yaml.safe_dump(params.model_dump(mode="json")))
    step = run_stage(stage, "it", 0, file)
    return step.outcome, Artefact.open(home / "runs" / "it" / step.place)


def rows(count: int, shift: int = 0) -> bytes:
    lines = [{"question": f"What is {i} + {shift}?", "answer": str(i + shift)} for i in range(count)]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def test_a_data_set_in_a_bucket_is_known_by_its_tag_and_fetched_once(
    bucket: Bucket, home: Path, tmp_path: Path
) -> None:
    bucket.put("sets/sums.jsonl", rows(9))
    (tmp_path / "sums.jsonl").write_bytes(rows(9))
    with proxied(bucket.endpoint, lambda exchange: None) as proxy:
        where = (
            f"task.problems.path=s3://{bucket.name}/sets/sums.jsonl",
            f"store.endpoint_url={proxy.address}",
        )
        outcome, first = made(home, "problems", "nano", *where)
        assert outcome == "made"
        assert proxy.gets("/sets/sums.jsonl") == 1
        assert made(home, "problems", "nano", *where)[0] == "cached"
        assert proxy.gets("/sets/sums.jsonl") == 1
    _, local = made(home, "problems", "nano", f"task.problems.path={tmp_path / 'sums.jsonl'}")
    assert first.digest == local.digest, "the same rows as from a file"
    assert first.manifest.params["task.problems"]["path"] == f"s3://{bucket.name}/sets/sums.jsonl"
    bucket.put("sets/sums.jsonl", rows(9, shift=1))
    where = (
        f"task.problems.path=s3://{bucket.name}/sets/sums.jsonl",
        f"store.endpoint_url={bucket.endpoint}",
    )
    outcome, second = made(home, "problems", "nano", *where)
    assert (outcome, second.digest == first.digest) == ("made", False)


def test_a_base_model_in_a_bucket_is_a_plain_folder(bucket: Bucket, home: Path, tiny_model: Artefact) -> None:
    for name in tiny_model.manifest.files:
        bucket.put(f"models/tiny/{name}", tiny_model.file(name).read_bytes())
    bucket.put("models/tiny-other/config.json", b"{}")
    where = ("model.context=64", f"store.endpoint_url={bucket.endpoint}")
    outcome, model = made(home, "model", f"s3://{bucket.name}/models/tiny", *where)
    assert outcome == "made"
    weights = "model.safetensors"
    assert model.file(weights).read_bytes() == tiny_model.file(weights).read_bytes()
    assert made(home, "model", f"s3://{bucket.name}/models/tiny", *where)[0] == "cached"


def test_what_is_not_there_or_changes_meanwhile_is_said(bucket: Bucket, home: Path) -> None:
    where = f"store.endpoint_url={bucket.endpoint}"
    with pytest.raises(BadInput, match=f"s3://{bucket.name}/none.jsonl: nothing is there"):
        made(home, "problems", "nano", f"task.problems.path=s3://{bucket.name}/none.jsonl", where)
    with pytest.raises(RemoteTrouble, match="no such bucket"):
        made(home, "problems", "nano", "task.problems.path=s3://no-such-bucket/x.jsonl", where)
    with pytest.raises(BadInput, match="without credentials") as info:
        made(home, "problems", "nano", "task.problems.path=s3://key:hush@bucket/x.jsonl", where)
    assert "hush" not in str(info.value)
    bucket.put("sums.jsonl", rows(9))

    def change(exchange: Exchange) -> None:
        if exchange.method == "GET" and "sums.jsonl" in exchange.path.partition("?")[0]:
            bucket.put("sums.jsonl", rows(9, shift=1))

    with proxied(bucket.endpoint, change) as proxy:
        settings = (
            f"task.problems.path=s3://{bucket.name}/sums.jsonl",
            f"store.endpoint_url={proxy.address}",
        )
        with pytest.raises(RemoteTrouble, match="it was changed while it was read"):
            made(home, "problems", "nano", *settings)
