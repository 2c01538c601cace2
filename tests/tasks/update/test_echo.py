"""The echo through the real update: its gradient, what it costs when off, what it needs and tells."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from algorithms.contract import Recipe
from algorithms.echorl import steps
from algorithms.terms import Boundary
from flows.execution.validation import settled
from params.base import BadInput, Choice
from params.load import compose
from params.method import Method
from params.schema import Update
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.tables import read_table
from tasks.policy.boundaries import boundary_table
from tasks.policy.gradient import Step, accumulate
from tasks.policy.policy import Policy
from tasks.prepare import nano
from tasks.replay.replay import replay
from tasks.rollout.rollout import rollout
from tasks.update.annotations import annotated
from tasks.update.responses import Responses
from tasks.update.update import update
from tests.conftest import RunStage
from tests.tasks.conftest import Nano, nano_parameters
from tests.tasks.rollout_rows import parameters, rollout_artefact, rows

NEWLINE = 4 + nano.CHARACTERS.index("\n")
RIGHT = [[1.0, 1.0, 1.0], [1.0, 1.0]]
MIXED = [[1.0, 0.0, 1.0], [1.0, 1.0, 1.0], [0.0, 0.0, None]]
Make = Callable[..., Artefact]


def echo(**options: Any) -> Method:
    return Method(terms=(Choice(name="echorl", **{"coefficient": 0.5, **options}),))  # type: ignore[arg-type]


@pytest.fixture
def rollouts(tmp_path: Path) -> Make:
    """Rollouts of a few lines each, with entropies."""
    count = iter(range(1000))

    def make(rewards: Any = MIXED, entropy: bool = True, round: int = 1) -> Artefact:
        made = rows(rewards, round)
        generator = torch.Generator().manual_seed(7)
        for row in made:
            line = row["response_ids"]
            row["response_ids"] = [*line, NEWLINE, *line[:1], NEWLINE, *line]
            row["behaviour_logp"] += [-4.4] * (len(row["response_ids"]) - len(line))
            if entropy:
                row["entropy"] = torch.rand(len(row["response_ids"]), generator=generator).tolist()
        return rollout_artefact(tmp_path / f"rollout-{next(count)}", made, round)

    return make


def weights(artefact: Artefact) -> bytes:
    return artefact.file("adapter/adapter_model.safetensors").read_bytes()


def prepared(model: Artefact, artefact: Artefact, method: Method) -> tuple[Policy, Step]:
    """A policy with an adapter that is not zero, and the step that an update of all answers would take."""
    full = Update(adapter="full", tokens_per_micro_batch=64, head_chunk=5)
    params = parameters(full, method)
    policy = Policy.open(model.path, params)
    recipe = Recipe.of(method)
    answers = Responses.read(artefact.file("rollouts.parquet"), params)
    answers = annotated(answers, recipe.terms, _Job(params, artefact), policy)  # type: ignore[arg-type]
    batch = answers.batch(range(len(answers.responses)), 8)
    return policy, Step(answers.prompts, answers.responses, batch, recipe.on(batch))


class _Job:
    def __init__(self, params: Any, rollout: Artefact) -> None:
        self.params, self.inputs, self.round = params, {"rollout": rollout}, 1


def test_the_whole_gradient_of_groups_that_are_all_right_is_the_spans_likelihood(
    tiny_model: Artefact, rollouts: Make
) -> None:
    policy, step = prepared(tiny_model, rollouts(RIGHT), echo())
    spans = step.terms[1].spans
    assert len(spans) == 2
    assert any(span.stop < len(step.responses[span.response]) for span in spans)
    meter, _ = accumulate(policy, step, 1.0)
    found = [w.grad for w in policy.weights.masters.values() if w.grad is not None]
    loss = torch.zeros(())
    for span in spans:
        prompt, answer = list(step.prompts[span.response]), list(step.responses[span.response])[: span.stop]
        logs = policy.network(input_ids=torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        logp = logs[len(prompt) - 1 : -1].gather(1, torch.tensor(answer)[:, None])
        loss = loss - 0.5 * logp.mean() / len(spans)
    expected = torch.autograd.grad(loss, list(policy.weights.masters.values()))
    assert len(found) == len(expected)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=0.0, atol=1e-5 * max(1.0, float(two.abs().max())))
    assert meter.loss == pytest.approx(float(loss.detach()), rel=1e-5)


def test_terms_measured_apart_leave_the_gradient_as_it_is(tiny_model: Artefact, rollouts: Make) -> None:
    found = []
    for apart in (False, True):
        policy, step = prepared(tiny_model, rollouts(), echo())
        meter, _ = accumulate(policy, step, 1.0, apart=apart)
        found.append([w.grad for w in policy.weights.masters.values()])
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))
    said = meter.means()
    for name, alone in (("grpo", step.terms[:1]), ("echorl", step.terms[1:])):
        policy, _ = prepared(tiny_model, rollouts(), echo())
        accumulate(policy, Step(step.prompts, step.responses, step.batch, alone), 1.0)
        norm = math.sqrt(sum(float(w.grad.double().square().sum()) for w in policy.weights.masters.values()))
        assert said[f"{name}.grad_norm"] == pytest.approx(norm, rel=1e-5)
    whole = said["grpo.grad_norm"] + said["echorl.grad_norm"]
    assert said["echorl.grad_share"] == pytest.approx(said["echorl.grad_norm"] / whole)


def test_a_coefficient_of_zero_is_the_base_method_bit_for_bit(
    tiny_model: Artefact, rollouts: Make, run_stage: RunStage
) -> None:
    artefact = rollouts(entropy=False)  # which the term does not ask for then
    plain = run_stage(update, parameters(), model=tiny_model, rollout=artefact)
    for options in ({}, {"entropy": "policy"}, {"select": "random_clip"}):
        off = run_stage(
            update,
            parameters(method=echo(coefficient=0.0, **options)),
            model=tiny_model,
            rollout=artefact,
        )
        assert weights(off) == weights(plain)
        assert off.json("metrics.json") == plain.json("metrics.json")
    on = run_stage(update, parameters(method=echo()), model=tiny_model, rollout=rollouts())
    assert weights(on) != weights(plain)


def test_outside_its_rounds_the_echo_is_nothing(
    tiny_model: Artefact, rollouts: Make, run_stage: RunStage
) -> None:
    artefact = rollouts(entropy=False)  # outside nothing asks for them
    plain = run_stage(update, parameters(), 3, model=tiny_model, rollout=artefact)
    for rounds in ([1, 2], [4, 9]):
        early = run_stage(
            update, parameters(method=echo(rounds=rounds)), 3, model=tiny_model, rollout=artefact
        )
        assert weights(early) == weights(plain)
        assert early.json("metrics.json") == plain.json("metrics.json")
    inside = run_stage(
        update, parameters(method=echo(rounds=[3, 3])), 3, model=tiny_model, rollout=rollouts()
    )
    assert weights(inside) != weights(plain)
    assert inside.json("metrics.json")["echorl.spans"] > 0


def test_groups_that_are_all_right_move_only_with_an_echo(
    tiny_model: Artefact, rollouts: Make, run_stage: RunStage
) -> None:
    plain = run_stage(update, parameters(), model=tiny_model, rollout=rollouts(RIGHT))
    assert plain.json("metrics.json")["steps"] == 0
    on = run_stage(update, parameters(method=echo()), model=tiny_model, rollout=rollouts(RIGHT))
    assert on.json("metrics.json")["steps"] == 1
    told = read_table(on.file("spans.parquet"))["stop"].to_pylist()
    assert on.json("metrics.json")["trained_tokens"] == sum(told)  # nothing behind a span is computed
    moved = load_file(on.file("adapter/adapter_model.safetensors"))
    assert any(bool(t.any()) for n, t in moved.items() if ".lora_B." in n)
    wrong = run_stage(update, parameters(method=echo()), model=tiny_model, rollout=rollouts([[0.0, 0.0]]))
    assert wrong.json("metrics.json")["steps"] == 0
    assert "spans.parquet" not in wrong.manifest.files


def test_what_the_update_tells_of_its_spans(
    tiny_model: Artefact, rollouts: Make, run_stage: RunStage
) -> None:
    artefact = rollouts()
    settings = Update(tokens_per_micro_batch=64, lora_rank=2, epochs=2, minibatches=2, measure_terms=True)
    made = run_stage(update, parameters(settings, echo()), model=tiny_model, rollout=artefact)
    said = made.json("metrics.json")
    assert said["all_right_groups"] == pytest.approx(1 / 3)
    assert said["all_wrong_groups"] == pytest.approx(1 / 3)
    told = {row["problem_id"]: row for row in read_table(made.file("spans.parquet")).to_pylist()}
    table = read_table(artefact.file("rollouts.parquet")).to_pylist()
    assert said["echorl.spans"] == len(told) == 2
    for problem, row in told.items():
        best = max(
            (sum(answer["entropy"][a:b]) / (b - a), answer["sample"], b, len(answer["response_ids"]))
            for answer in table
            if answer["problem_id"] == problem and answer["reward"] == 1.0
            for a, b in steps([token == NEWLINE for token in answer["response_ids"]])
        )
        assert (row["sample"], row["start"], row["stop"], row["step_stop"]) == (best[1], 0, best[2], best[2])
        assert row["entropy"] == pytest.approx(best[0], rel=1e-6)
    assert said["echorl.span_length"] == sum(row["stop"] for row in told.values()) / 2
    assert 0 < said["echorl.span_share"] <= 1
    assert said["echorl.nll"] > 0
    assert 0 < said["echorl.grad_share"] < 1


def chosen(run: RunStage, model: Artefact, artefact: Artefact, minibatches: int, round: int = 1) -> Any:
    settings = Update(tokens_per_micro_batch=64, lora_rank=2, minibatches=minibatches)
    made = run(update, parameters(settings, echo(select="random_clip")), round, model=model, rollout=artefact)
    return read_table(made.file("spans.parquet")).to_pylist()


def test_a_random_clip_depends_on_the_round_and_not_on_the_minibatches(
    tiny_model: Artefact, rollouts: Make, run_stage: RunStage
) -> None:
    artefact = rollouts([[1.0] * 6] * 4)
    whole = chosen(run_stage, tiny_model, artefact, 1)
    assert chosen(run_stage, tiny_model, artefact, 2) == whole
    assert chosen(run_stage, tiny_model, artefact, 1, round=2) != whole


def test_entropies_of_the_policy_need_none_in_the_rollouts(
    tiny_model: Artefact, rollouts: Make, run_stage: RunStage
) -> None:
    artefact = rollouts(entropy=False)
    method = echo(entropy="policy")
    made = run_stage(update, parameters(method=method), model=tiny_model, rollout=artefact)
    policy = Policy.open(tiny_model.path, parameters())
    answers = Responses.read(artefact.file("rollouts.parquet"), parameters())
    scores = policy.score(answers.prompts, answers.responses, 1.0, entropy=True)
    assert scores.entropy is not None
    entropies = dict(
        zip(zip(answers.problem, answers.sample, strict=True), scores.split(scores.entropy), strict=True)
    )
    for row in read_table(made.file("spans.parquet")).to_pylist():
        mine = entropies[row["problem_id"], row["sample"]][row["step_start"] : row["step_stop"]]
        assert row["entropy"] == pytest.approx(float(mine.mean()), rel=1e-4)
    with pytest.raises(BadInput, match=r"holds no entropies; expected .*rollout.entropy: true"):
        run_stage(update, parameters(method=echo()), model=tiny_model, rollout=artefact)
    with pytest.raises(BadInput, match=r"rollout\.entropy: false keeps no entropies"):
        settled(compose("nano", "sums", "grpo", ["method.terms=[{name: echorl}]"]))


def test_the_preset_keeps_entropies_and_chooses_by_them(nano: Nano) -> None:
    params = nano_parameters("echorl")
    given = {"model": nano.model, "problems": nano.problems}
    sampled = nano.run(rollout, params, 1, **given)
    table, plain = (read_table(a.file("rollouts.parquet")) for a in (sampled, nano.rollouts[0]))
    assert table.drop(["entropy"]).equals(plain.drop(["entropy"]))
    assert plain["entropy"].null_count == plain.num_rows
    scores = Policy.open(nano.model.path, params).score(
        table["prompt_ids"].to_pylist(), table["response_ids"].to_pylist(), 1.0, entropy=True
    )
    assert scores.entropy is not None
    told = torch.tensor([value for row in table["entropy"].to_pylist() for value in row])
    torch.testing.assert_close(told, scores.entropy, atol=1e-4, rtol=0.0)
    other = nano_parameters("grpo", "method.terms=[{name: echorl, entropy: policy}]")
    one, two = (
        nano.run(update, p, 1, model=nano.model, rollout=r)
        for p, r in ((params, sampled), (other, nano.rollouts[0]))
    )
    spans = [read_table(a.file("spans.parquet")).drop(["sample", "entropy"]) for a in (one, two)]
    assert spans[0].num_rows > 0
    assert spans[0].equals(spans[1])


@pytest.mark.parametrize("method", ["dyjr", "drpo", "rlep"])
def test_the_echo_joins_other_methods(nano: Nano, method: str) -> None:
    term = "method.terms=[{name: echorl, entropy: policy, coefficient: 0.1}]"
    params = nano_parameters(method, term)
    buffer = None
    for round, given_rollouts in enumerate(nano.rollouts[:3], start=1):
        buffer = nano.run(replay, params, round, rollout=given_rollouts, replay=buffer)
    given = {"model": nano.model, "rollout": nano.rollouts[3], "replay": buffer}
    made, plain = (nano.run(update, p, 4, **given) for p in (params, nano_parameters(method)))
    said = made.json("metrics.json")
    assert said["echorl.spans"] > 0
    assert weights(made) != weights(plain)
    right = nano.rollouts[3].file("rollouts.parquet")
    fresh = {(r["problem_id"], r["sample"]) for r in read_table(right).to_pylist() if r["reward"] == 1.0}
    told = read_table(made.file("spans.parquet")).to_pylist()
    assert {(row["problem_id"], row["sample"]) for row in told} <= fresh
    assert len({row["group"] for row in told}) == len(told)
    if params.method.replay:
        assert said["replayed"] > 0


def words(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel({text: i for i, text in enumerate(texts)}, unk_token=texts[0]))
    made = PreTrainedTokenizerFast(tokenizer_object=core, unk_token=texts[0])
    made.add_special_tokens({"additional_special_tokens": ["<a\n;b>"]})
    return made


def test_boundaries_are_by_the_decoded_text() -> None:
    found = words(["<unk>", "a", "\n", "\n\n", ".\n", "x;", "!", "b"])
    table = boundary_table(found, Boundary(texts=("\n",)))
    assert table.tolist() == [False, False, True, True, True, False, False, False, False]
    assert boundary_table(found, Boundary(texts=(";",))).nonzero().flatten().tolist() == [5]
    assert boundary_table(found, Boundary(ids=(2, 3, 999))).nonzero().flatten().tolist() == [2, 3]
    assert boundary_table(found, Boundary(texts=("\n",))) is table
