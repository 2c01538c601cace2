"""The warm start: what it learns, that it is the same every time, and what begins with it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from params.base import BadInput
from params.schema import Params
from tasks.artefacts.artefact import MANIFEST, Artefact, Source
from tasks.core.stage import Job
from tasks.policy.gradient import Step, accumulate
from tasks.policy.packing import Layout
from tasks.policy.policy import Policy
from tasks.rollout.rollout import rollout
from tasks.sft.sft import Examples, sft
from tasks.update.update import update
from tests.conftest import RunStage, as_artefact
from tests.tasks.conftest import Nano, nano_parameters
from tests.tasks.rollout.test_demonstrations import problems_artefact
from tests.tasks.update.test_update import weights


def settings(*more: str) -> Params:
    return nano_parameters("grpo", "sft.epochs=3", "sft.demonstrations_per_step=4", *more)


def test_the_held_out_loss_falls(nano: Nano, tmp_path: Path) -> None:
    alike = problems_artefact(tmp_path / "alike", [["is 4", "it is 4"]] * 6)
    made = nano.run(sft, settings("sft.epochs=6"), 0, model=nano.model, problems=alike)
    said = made.json("metrics.json")
    assert said["demonstrations"] == said["held_out_demonstrations"] == 12
    assert said["steps"] == 6 * 3
    assert len(said["losses"]) == len(said["held_out_losses"]) == 6
    assert said["losses"][-1] < said["losses"][0]
    assert said["held_out_loss"] == said["held_out_losses"][-1] < said["held_out_loss_base"]


def test_equal_runs_have_equal_bytes_and_another_seed_has_others(nano: Nano) -> None:
    given = {"model": nano.model, "problems": nano.problems}
    one, two = (nano.run(sft, settings(), 0, **given) for _ in range(2))
    assert one.digest == two.digest
    assert nano.run(sft, settings("seed=5"), 0, **given).digest != one.digest


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_the_loss_is_of_the_responses_alone_and_a_mean_over_their_tokens(
    nano: Nano, tmp_path: Path, adapter: str
) -> None:
    """Against plain cross-entropy, one example at a time, on the logits of the whole sequence."""
    params = settings(f"update.adapter={adapter}")
    policy = Policy.open(nano.model.path, params)
    examples = Examples([[1, 20, 21, 30], [1, 20, 21, 30], [1, 9]], [[5, 6, 2], [7, 2], [8, 9, 10, 2]])
    meter, _ = accumulate(policy, examples.step([0, 1, 2]), 1.0)
    found = {
        name: master.grad.clone()
        for name, master in policy.weights.masters.items()
        if master.grad is not None
    }
    total, count = torch.zeros(()), 0
    for prompt, response in zip(examples.prompts, examples.responses, strict=True):
        logits = policy.network(input_ids=torch.tensor([prompt + response])).logits[0].float()
        aimed = logits[len(prompt) - 1 : -1].log_softmax(-1)
        total = total - aimed.gather(-1, torch.tensor(response)[:, None]).sum()
        count += len(response)
    loss = total / count
    assert meter.loss == pytest.approx(float(loss.detach()), rel=1e-5)
    plain = torch.autograd.grad(loss, policy.weights.leaves(), allow_unused=True)
    assert len(found) == len(policy.weights.masters)
    for gradient, wanted in zip(found.values(), plain, strict=True):
        if wanted is not None:
            torch.testing.assert_close(gradient, wanted.float(), atol=2e-5, rtol=2e-3)


def test_packing_changes_nothing(nano: Nano) -> None:
    params = settings()
    examples = Examples.read(_job(nano, params), Policy.open(nano.model.path, params), "train")
    step: Step = examples.step(list(range(12)))
    losses = []
    for layout in (Layout(), Layout(share=False, flat=False)):
        policy = Policy.open(nano.model.path, params)
        policy.layout = layout
        losses.append(accumulate(policy, step, 1.0)[0].loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def _job(nano: Nano, params: Params) -> Job:
    given = {"model": nano.model, "problems": nano.problems}
    return Job(params=params, round=0, inputs=given, out=nano.folder, context=nano.context)


def test_the_rounds_go_on_from_it_with_an_optimiser_of_their_own(nano: Nano) -> None:
    given = {"model": nano.model, "problems": nano.problems}
    params = settings()
    start = nano.run(sft, params, 0, **given)
    assert "optimizer.safetensors" not in start.manifest.files
    sampled = nano.run(rollout, params, 1, **given, policy=start)
    made = nano.run(update, params, 1, model=nano.model, rollout=sampled, policy=start)
    assert made.json("metrics.json")["total_steps"] == 1
    assert any(
        not torch.equal(a, b) for a, b in zip(weights(made).values(), weights(start).values(), strict=True)
    )
    apart = nano.run(update, params, 1, model=nano.model, rollout=sampled)
    assert made.digest != apart.digest


def test_it_may_be_an_earlier_policy(nano: Nano) -> None:
    given = {"model": nano.model, "problems": nano.problems}
    first = nano.run(sft, settings(), 0, **given)
    taken = nano.run(sft, settings("sft.policy=some/run"), 0, **given, policy=first)
    assert all(torch.equal(weights(taken)[name], value) for name, value in weights(first).items())
    said = taken.json("metrics.json")
    assert said["held_out_loss"] == first.json("metrics.json")["held_out_loss"]
    other = first.manifest.inputs | {"model": Source(stage="model", fingerprint="f" * 64, digest="f" * 64)}
    strange = Artefact(first.path, first.manifest.model_copy(update={"inputs": other}))
    with pytest.raises(BadInput, match="trained from another base model"):
        nano.run(sft, settings("sft.policy=some/run"), 0, **given, policy=strange)


def test_no_demonstration_is_said(nano: Nano, run_stage: RunStage, tmp_path: Path) -> None:
    bare = problems_artefact(tmp_path / "bare", [None] * 4)
    with pytest.raises(BadInput, match="no training problem has a demonstration"):
        nano.run(sft, settings(), 0, model=nano.model, problems=bare)
    shown = problems_artefact(tmp_path / "long", [["1" * 40]] * 4)
    with pytest.raises(BadInput, match="the shortest of 4 demonstrations has 41 tokens"):
        nano.run(sft, settings(), 0, model=nano.model, problems=shown)


def test_held_out_demonstrations_that_are_too_long_have_no_loss(nano: Nano, tmp_path: Path) -> None:
    long = problems_artefact(tmp_path / "long", [["1" * 40]] * 4)
    mixed = tmp_path / "mixed"
    shutil.copytree(nano.problems.path, mixed)
    (mixed / MANIFEST).unlink()
    shutil.copy(long.file("held_out.parquet"), mixed)
    made = nano.run(sft, settings(), 0, model=nano.model, problems=as_artefact(mixed, "problems"))
    said = made.json("metrics.json")
    assert (said["held_out_loss"], said["held_out_demonstrations"]) == (None, 0)
    assert said["demonstrations"]
