"""``signal``: S1, S2 and S3 at the sampled tokens, whitened; which reference is taken, on what evidence."""

from __future__ import annotations

import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.artefacts.artefact import Artefact, write_json
from tasks.artefacts.tables import read_table
from tasks.erpd.beside import beside, divergence_from, kept_states
from tasks.erpd.teach import snapshot
from tasks.erpd.trust_region import copied
from tasks.policy.full_vocabulary import PolicyStates, kl, policy_states
from tasks.policy.policy import Policy
from tests.conftest import as_artefact
from tests.tasks.conftest import Nano
from tests.tasks.erpd.conftest import Phases, best_of, everywhere, parameters, rows, tokens, words


def test_a_row_of_the_signal_is_a_row_of_the_rollouts(phases: Phases, nano: Nano) -> None:
    made = read_table(phases.signal.file("signal.parquet"))
    rollouts = read_table(nano.rollouts[0].file("rollouts.parquet"))
    for name in ("group", "sample"):
        assert made[name].to_pylist() == rollouts[name].to_pylist()
    lengths = [len(response) for response in rollouts["response_ids"].to_pylist()]
    assert [len(part) for part in made["signal.main"].to_pylist()] == lengths


@pytest.mark.parametrize("reference", ["base", "unlearned", "older", "student"])
def test_the_signal_is_the_whitened_log_ratio(phases: Phases, nano: Nano, reference: str) -> None:
    older = snapshot(phases.teach, "main", 2)  # stands for the base of an earlier round
    given = as_artefact_of(nano, older, f"older-{reference}")
    settings = (f"distil.signals.main.reference={reference}", "distil.signals.main.step=last")
    made = phases.signals(*settings, "distil.unlearned_step=2", round=3, older_1=given)
    teacher = everywhere(nano, snapshot(phases.teach, "main", 6))
    against = {"unlearned": snapshot(phases.unlearn, "unlearned", 2), "older": older}.get(reference)
    raw = (teacher - everywhere(nano, against)).gather(1, words(nano))[:, 0]
    torch.testing.assert_close(tokens(made, "raw.main"), raw, rtol=0.0, atol=1e-3)
    own = tokens(made, "raw.main").double()
    found = tokens(made, "signal.main").double()
    torch.testing.assert_close(found, (own - own.mean()) / own.std(correction=0), rtol=0.0, atol=1e-4)
    assert float(found.mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(found.std(correction=0)) == pytest.approx(1.0, abs=1e-6)
    said = made.json("metrics.json")["main"]
    assert said["live"] == (reference == "student")
    assert said["std"] == pytest.approx(float(own.std(correction=0)), rel=1e-5)


def as_artefact_of(nano: Nano, folder: Path, name: str) -> Artefact:
    """A policy as another round's artefact."""
    place = nano.folder / name
    shutil.copytree(folder, place)
    return as_artefact(place, "distil", 1)


@pytest.mark.parametrize(
    ("numerator", "reference"), [("base", "unlearned"), ("omitted", "unlearned"), ("teacher", "omitted")]
)
def test_a_term_may_be_replaced_or_left_out(
    phases: Phases, nano: Nano, numerator: str, reference: str
) -> None:
    made = phases.signals(
        f"distil.signals.main={{numerator: {numerator}, reference: {reference}, step: last}}"
    )
    of = {"teacher": snapshot(phases.teach, "main", 6), "unlearned": snapshot(phases.unlearn, "unlearned", 4)}
    upper, lower = (
        everywhere(nano, of.get(name)) if name != "omitted" else torch.zeros(1, 1)
        for name in (numerator, reference)
    )
    raw = (upper - lower).gather(1, words(nano))[:, 0]
    torch.testing.assert_close(tokens(made, "raw.main"), raw, rtol=0.0, atol=1e-3)


def test_before_the_first_round_the_older_student_is_the_base_model(phases: Phases) -> None:
    older, base = (phases.signals(f"distil.signals.main.reference={name}") for name in ("older", "base"))
    assert torch.equal(tokens(older, "signal.main"), tokens(base, "signal.main"))


@pytest.mark.parametrize("part", ["negative", "positive"])
def test_a_part_on_right_answers_is_taken_before_whitening(phases: Phases, nano: Nano, part: str) -> None:
    made = phases.signals(f"distil.signals.main.on_right={part}")
    table = read_table(nano.rollouts[0].file("rollouts.parquet"))
    lengths = torch.tensor([len(response) for response in table["response_ids"].to_pylist()])
    right = torch.tensor(table["reward"].to_pylist()).repeat_interleave(lengths) == 1.0
    raw = tokens(made, "raw.main").double()
    kept = raw.clamp(max=0.0) if part == "negative" else raw.clamp(min=0.0)
    wanted = torch.where(right, kept, raw)
    wanted = (wanted - wanted.mean()) / wanted.std(correction=0)
    torch.testing.assert_close(tokens(made, "signal.main").double(), wanted, rtol=0.0, atol=1e-4)
    assert bool(right.any())
    assert not bool(right.all())


def test_a_named_step_and_the_last_are_taken_too(phases: Phases, nano: Nano) -> None:
    for asked, step in ((2, 2), ("last", 6)):
        made = phases.signals(f"distil.signals.main.step={asked}")
        teacher = everywhere(nano, snapshot(phases.teach, "main", step))
        raw = (teacher - everywhere(nano, None)).gather(1, words(nano))[:, 0]
        torch.testing.assert_close(tokens(made, "raw.main"), raw, rtol=0.0, atol=1e-3)
        assert made.json("metrics.json")["main"]["steps"] == {"main": step}


def measured(nano: Nano, phases: Phases, name: str, gain: float | None, error: float | None) -> Artefact:
    """``validate`` with another gain of the best teacher."""
    said = phases.validate.json("metrics.json")
    best = str(said["teachers"]["main"]["best"])
    said["teachers"]["main"]["steps"][best] |= {"gain": gain, "error": error}
    folder = nano.folder / name
    folder.mkdir()
    write_json(folder / "metrics.json", said)
    (folder / "answers.parquet").write_bytes(phases.validate.file("answers.parquet").read_bytes())
    return as_artefact(folder, "validate", 1)


@pytest.mark.parametrize(
    ("gain", "error", "otherwise", "taken"),
    [
        (0.2, 0.1, "unlearned", {"base"}),
        (0.1, 0.1, "unlearned", {"unlearned"}),
        (-0.3, 0.1, "older", {"older"}),
        (None, None, "older", {"older"}),
        (0.0, 0.1, "ranked", {"unlearned", "older"}),
    ],
)
def test_auto_takes_the_base_while_the_teacher_beats_it(
    phases: Phases, nano: Nano, gain: float | None, error: float | None, otherwise: str, taken: set[str]
) -> None:
    settings = ("distil.signals.main.reference=auto", f"distil.signals.main.otherwise={otherwise}")
    validate = measured(nano, phases, f"gain-{gain}-{otherwise}", gain, error)
    policy, older = phases.distilled(), phases.distilled("distil.student.steps=1")
    given = {"validate": validate, "policy": policy, "older_1": older}
    said = phases.signals(*settings, round=2, **given).json("metrics.json")["main"]
    assert said["asked"] == "auto"
    assert said["reference"] in taken
    assert (said["gain"], said["error"], said["teacher_step"]) == (gain, error, best_of(phases))
    assert ("auc" in said) == (otherwise == "ranked")
    if otherwise == "ranked":
        known = {name: value for name, value in said["auc"].items() if value is not None}
        assert said["reference"] == (max(known, key=lambda name: known[name]) if known else "unlearned")


@pytest.mark.parametrize(("otherwise", "taken"), [("ranked", "unlearned"), ("older", "base")])
def test_auto_does_without_an_older_student_where_it_would_be_the_base(
    phases: Phases, nano: Nano, otherwise: str, taken: str
) -> None:
    settings = ("distil.signals.main.reference=auto", f"distil.signals.main.otherwise={otherwise}")
    validate = measured(nano, phases, f"first-round-{otherwise}", -0.3, 0.1)
    said = phases.signals(*settings, validate=validate).json("metrics.json")["main"]
    assert (said["reference"], said["gain"]) == (taken, -0.3)


def test_ranked_takes_what_orders_answers_best_or_nothing(phases: Phases) -> None:
    said = phases.signals("distil.signals.main.reference=ranked").json("metrics.json")["main"]
    known = {name: value for name, value in said["auc"].items() if value is not None}
    assert set(known) == {"base", "unlearned"}
    best = max(known, key=lambda name: known[name])
    assert said["reference"] == ("none" if known[best] + 2.0 * said["auc_error"] < 0.5 else best)
    assert said["pairs"] > 0


def test_several_teachers_are_weighed_by_their_spread(phases: Phases, nano: Nano) -> None:
    second = "distil.teachers.second={loss: sapo, steps: 4, problems_per_step: 4}"
    settings = (second, "distil.signals.main={weights: {main: 1.0, second: 3.0}, step: last}")
    said = phases.signals(*settings, teach=phases.taught(second)).json("metrics.json")["main"]
    assert set(said["factors"]) == {"main", "second"}
    taught = phases.taught(second)
    base = everywhere(nano, None)
    spread = {
        name: (everywhere(nano, snapshot(taught, name, None)) - base)
        .gather(1, words(nano))[:, 0]
        .std(correction=0)
        for name in ("main", "second")
    }
    typical = (spread["main"] + spread["second"]) / 2
    for name, weight in (("main", 0.25), ("second", 0.75)):
        assert said["factors"][name] == pytest.approx(float(weight * typical / spread[name]), rel=1e-3)
    assert phases.signal.json("metrics.json")["main"]["factors"] == {"main": 1.0}


@pytest.mark.parametrize("reference", ["base", "unlearned"])
def test_centring_takes_away_the_expectation_over_the_vocabulary(
    phases: Phases, nano: Nano, reference: str
) -> None:
    made = phases.signals(
        "distil.signals.main.normalisation=centred", f"distil.signals.main.reference={reference}"
    )
    base, teacher = (everywhere(nano, f) for f in (None, snapshot(phases.teach, "main", best_of(phases))))
    other = everywhere(nano, snapshot(phases.unlearn, "unlearned", 4)) if reference == "unlearned" else base
    contrast = teacher - other
    wanted = contrast.gather(1, words(nano))[:, 0] - (base.exp() * contrast).sum(-1)
    std = made.json("metrics.json")["main"]["std"]
    torch.testing.assert_close(tokens(made, "signal.main") * std, wanted, rtol=0.0, atol=1e-3)


@pytest.mark.parametrize("block_bytes", [1, 4096, 1 << 30])
def test_blocks_of_answers_give_what_all_at_once_do(phases: Phases, nano: Nano, block_bytes: int) -> None:
    """However few hidden states are held at once."""
    policy = Policy.open(nano.model.path, parameters())
    others = {"last": snapshot(phases.teach, "main", 6), "again": snapshot(phases.teach, "main", 6)}
    base, found = beside(policy, None, others, *rows(nano.rollouts[0]), 1.0, block_bytes)
    origin, teacher = everywhere(nano, None), everywhere(nano, others["last"])
    chosen = words(nano)
    torch.testing.assert_close(base, origin.gather(1, chosen)[:, 0], rtol=0.0, atol=1e-4)
    torch.testing.assert_close(found["last"].logp, teacher.gather(1, chosen)[:, 0], rtol=0.0, atol=1e-3)
    for values, one, other in (
        (found["last"].from_base, origin, teacher),
        (found["last"].to_base, teacher, origin),
    ):
        torch.testing.assert_close(values, (one.exp() * (one - other)).sum(-1), rtol=0.0, atol=1e-3)
    assert found["again"] is not found["last"]
    assert torch.equal(found["again"].logp, found["last"].logp)


@pytest.mark.parametrize("block_bytes", [1, 4096])
def test_states_of_two_policies_are_held_at_once_and_of_so_many_answers(
    phases: Phases, nano: Nano, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    """Of all that computes them beside the base: a signal, and the student's divergence."""
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0

    def counted(*given: Any) -> PolicyStates:
        nonlocal most
        made = policy_states(*given)
        alive.append(weakref.ref(made.hidden))
        held = [hidden for ref in alive if (hidden := ref()) is not None]
        most = max(most, sum(hidden.numel() * hidden.element_size() for hidden in held))
        return made

    policy = Policy.open(nano.model.path, parameters())
    given = (*rows(nano.rollouts[0]), 1.0)
    answer = max(map(len, given[1])) * policy_states(policy, *given).hidden[0].numel() * 4
    origin, whole = copied(policy), policy_states(policy, *given)
    policy.restore(snapshot(phases.teach, "main", 6))
    wanted = kl(policy_states(policy, *given), whole).double().mean()
    monkeypatch.setattr("tasks.erpd.beside.policy_states", counted)
    measure = divergence_from(policy, origin, *given, block_bytes)
    assert measure() == pytest.approx(float(wanted), abs=1e-6)
    assert measure() == pytest.approx(float(wanted), abs=1e-6)
    beside(policy, None, {"last": snapshot(phases.teach, "main", 6)}, *given, block_bytes)
    assert 0 < most <= 2 * max(block_bytes, answer) < whole.hidden.numel() * 4


def test_states_in_a_file_are_those_in_memory(phases: Phases, nano: Nano) -> None:
    policy = Policy.open(nano.model.path, parameters())
    folder, place = snapshot(phases.teach, "main", 6), nano.folder / "states"
    given = (*rows(nano.rollouts[0]), 1.0)
    kept = kept_states(policy, folder, *given, place, block_bytes=4096)
    torch.testing.assert_close(kept.hidden, policy_states(policy, *given).hidden, rtol=0.0, atol=1e-5)
    assert place.stat().st_size == kept.hidden.numel() * kept.hidden.element_size()
