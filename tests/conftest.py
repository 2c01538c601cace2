"""Shared fixtures: one thread, a tiny random model, and stages run the way the flow runs them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from flows.stage_table.stages import stage_table
from params.schema import Params
from tasks.artefacts.artefact import Artefact, seal
from tasks.artefacts.role import Role
from tasks.core.context import Context
from tasks.core.stage import Job, Stage
from tasks.prepare import nano
from tests.buckets import bucket, conditional_server, s3_server, shared_bucket

__all__ = ["bucket", "conditional_server", "s3_server", "shared_bucket"]

torch.set_num_threads(1)

RunStage = Callable[..., Artefact]
ROLES = {name: row.role for name, row in stage_table().items()}


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    """A random two-layer Llama with the character tokenizer, as a ``model`` artefact."""
    folder = tmp_path_factory.mktemp("tiny-model")
    nano.save(nano.create(seed=0, hidden=32, layers=2, heads=2), folder)
    return as_artefact(folder, "model")


@pytest.fixture
def context(tmp_path: Path) -> Any:
    with Context(scratch=tmp_path / "scratch") as made:
        made.scratch.mkdir()
        yield made


@pytest.fixture
def run_stage(tmp_path: Path, context: Context) -> RunStage:
    """``run_stage(function, params, round=1, **inputs)``: the finished artefact."""
    count = iter(range(10_000))

    def run(stage: Stage, params: Params, round: int = 1, **inputs: Artefact | None) -> Artefact:
        out = tmp_path / f"artefact-{next(count)}"
        out.mkdir()
        given = {name: artefact for name, artefact in inputs.items() if artefact is not None}
        measured = stage(Job(params=params, round=round, inputs=given, out=out, context=context))
        return as_artefact(out, getattr(stage, "__name__", "stage"), round, measured)

    return run


def as_artefact(
    folder: Path, stage: str, round: int = 0, measured: dict[str, float] | None = None
) -> Artefact:
    """Seal a folder that a test filled by hand."""
    seal(
        folder,
        stage=stage,
        role=ROLES.get(stage, Role(kind="sample", label=stage, time_of="sampling")),
        round=round,
        fingerprint=f"{stage}-{round}",
        seed=0,
        params={},
        inputs={},
        code={},
        versions={},
        measured=measured or {},
    )
    return Artefact.open(folder)
