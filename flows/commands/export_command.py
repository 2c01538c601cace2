"""``ostinato export``: the last policy of a run as a plain folder, which proves itself before it is there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Literal

from flows.environment import workspace
from flows.execution.runner import run_directory
from params.base import BadInput
from params.schema import Params
from tasks.artefacts.artefact import MOMENTS, Artefact
from tasks.artefacts.record import Record
from tasks.core.context import Context
from tasks.core.errors import StageFailure
from tasks.core.stage import Job
from tasks.report.card import card

CARD = "README.md"
TELLING = 0.01
"""Share of adapted weights that a merge leaves as they were, from which on that is told."""


def export_merged(name: str, target: Path, dtype: Literal["base", "float32"]) -> str:
    """Write the last finished policy of a run as a plain folder with merged weights, in the base's type or
    in float32, and a model card; what there is to say of it.

    Raises ``StageFailure`` where the folder, loaded again, does not give the policy's log-probabilities to
    ``engine.probe_tolerance``: then none is written.
    """
    import torch

    from tasks.policy.chat import Chat
    from tasks.policy.job_policy import job_policy

    directory = run_directory(workspace(), name)
    record = Record.read(directory)
    if target.exists():
        raise BadInput(f"--merged {target}: exists already; expected a folder that does not")
    policies = record.policies()
    if not policies:
        raise BadInput(f"{name}: has no finished policy yet; expected at least one round")
    last, remedy = policies[-1], f"`{record.command}` makes it again"
    made = Artefact.needed(directory / last.place, remedy, lacking=(MOMENTS,))
    base = Artefact.needed(directory / "model", remedy)
    new = target.with_name(f".{target.name}.part")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        with Context(scratch=new) as context:
            params = record.parameters()
            trainer = job_policy(Job(params, last.round, {"model": base}, new, context))
            trainer.restore(made.path)
            if template := Chat(trainer.tokenizer, params.task.prompt).template:  # what it was trained with
                trainer.tokenizer.chat_template = template
            lost = trainer.weights.merge_loss() if dtype == "base" else None
            trainer.merged(new, torch.float32 if dtype == "float32" else None)
            gap, moved = _proved(trainer, new, params, dtype)
        (new / CARD).write_text(card(directory, gap), encoding="utf-8")
        new.rename(target)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    said = f"{target}: the policy after round {last.round} of {name}, merged into its base; loaded again, it "
    said += f"gives its log-probabilities to {gap:.2g} nats"
    if not moved:
        said += "; they are the base model's on the tokens that were tried"
    if lost is None or lost < TELLING:
        return said
    return (
        f"{said}; {lost:.1%} of the adapted weights are what they were, for the base's type cannot tell so "
        "small a change (--dtype float32 keeps it)"
    )


def _proved(trainer: Any, folder: Path, params: Params, dtype: str) -> tuple[float, bool]:
    """The largest difference, in nats, between the log-probabilities of the policy and of the folder on a few
    fixed tokens; and whether the policy's are other than its base model's."""
    from tasks.engines.probe import Probe
    from tasks.policy.load import load_model

    probe = Probe(trainer.tokenizer, params.model.context)
    asked = (probe.prompts, probe.responses, 1.0)
    own = trainer.score(*asked).logp
    moved = bool((own != trainer.score(*asked, reference=True).logp).any())
    kept = {"bits": 16, **({"dtype": "float32"} if dtype == "float32" else {})}
    plain = params.model_copy(update={"model": params.model.model_copy(update=kept)})
    again = trainer.score(*asked, network=load_model(folder, plain, trainer.device)).logp
    apart, allowed = float((again - own).abs().mean()), params.engine.probe_tolerance
    if not apart < allowed:
        raise StageFailure(
            f"{folder}: loaded again, its log-probabilities differ from the policy's by {apart:.3f} nats on "
            f"average; expected less than engine.probe_tolerance, {allowed:g}"
        )
    return float((again - own).abs().max()), moved
