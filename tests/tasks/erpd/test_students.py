"""``distil``: steps of the clipped surrogate on static answers, signals in turn; and what is ours."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from params.base import BadInput
from tasks.artefacts.artefact import Artefact, write_json
from tasks.artefacts.tables import read_table
from tasks.erpd.teach import snapshot
from tasks.erpd.teacher_scores import evaluate_teacher
from tests.conftest import as_artefact
from tests.tasks.conftest import Nano
from tests.tasks.erpd.conftest import (
    Phases,
    best_of,
    everywhere,
    is_base,
    parameters,
    same,
    weights,
    words,
)


def divergence(nano: Nano, made: Artefact) -> Tensor:
    """[T] KL(student | base), over the whole vocabulary."""
    base, student = everywhere(nano, None), everywhere(nano, made.path)
    return (student.exp() * (student - base)).sum(-1).double()


@pytest.mark.parametrize(("steps", "taken"), [(4, 4), (10, 10), (32, 32)])
def test_the_student_takes_so_many_steps_in_one_epoch(phases: Phases, steps: int, taken: int) -> None:
    said = phases.distilled(f"distil.student.steps={steps}", signal=phases.signal).json("metrics.json")
    tokens = len(read_table(phases.signal.file("signal.parquet")))
    assert said["steps"] == taken
    assert said["answers"] == tokens == 32
    assert said["stopped"] == "steps"
    assert said["budget"] is None
    used = sum(map(len, read_table(phases.signal.file("signal.parquet"))["signal.main"].to_pylist()))
    assert said["trained_tokens"] == used


def test_its_divergence_is_measured_without_any_budget(phases: Phases, nano: Nano) -> None:
    made = phases.distilled("distil.student.measured_answers=null", signal=phases.signal)
    assert made.json("metrics.json")["kl"] == pytest.approx(float(divergence(nano, made).mean()), rel=1e-2)


def test_fewer_answers_a_step_are_a_part_of_an_epoch(phases: Phases) -> None:
    said = phases.distilled("distil.student.answers_per_step=3", signal=phases.signal).json("metrics.json")
    used = sum(map(len, read_table(phases.signal.file("signal.parquet"))["signal.main"].to_pylist()))
    assert said["steps"] == 4
    assert 0 < said["trained_tokens"] < used


TWO = "distil.signals.second={reference: unlearned, step: last}"


def test_signals_are_used_one_after_the_other(phases: Phases) -> None:
    both = phases.signals(TWO, "distil.student.sequence=[{signal: main}, {signal: second}]")
    orders = {}
    for first, then in (("main", "second"), ("second", "main")):
        sequence = f"distil.student.sequence=[{{signal: {first}, steps: 3}}, {{signal: {then}}}]"
        made = phases.distilled(TWO, sequence, signal=both)
        assert made.json("metrics.json")["steps"] == 3 + 4
        assert made.json("metrics.json")["signals"] == [first, then]
        orders[first] = made
    assert not same(orders["main"].path, orders["second"].path)
    alone = "distil.student.sequence=[{signal: main, steps: 3}]"
    assert not same(phases.distilled(TWO, alone, signal=both).path, orders["main"].path)


@pytest.mark.parametrize("option", ["kl_coefficient=0.5", "entropy_coefficient=0.5", "clip_high=0.01"])
def test_an_option_of_the_loss_moves_the_student(phases: Phases, option: str) -> None:
    plain = phases.distilled(signal=phases.signal)
    made = phases.distilled(f"distil.student.{option}", signal=phases.signal)
    assert not same(plain.path, made.path)
    if option.startswith("entropy"):
        assert made.json("metrics.json")["entropy"] > plain.json("metrics.json")["entropy"]


def test_a_divergence_weight_keeps_the_student_nearer(phases: Phases) -> None:
    kl = [
        phases.distilled(
            f"distil.student.kl_coefficient={weight}", "distil.student.steps=16", signal=phases.signal
        ).json("metrics.json")["kl"]
        for weight in (0.0, 20.0)
    ]
    assert kl[1] < kl[0]


def test_a_live_denominator_differs_once_the_student_has_moved(phases: Phases) -> None:
    fixed, live = (phases.signals(f"distil.signals.main.reference={name}") for name in ("base", "student"))
    first = [phases.distilled("distil.student.steps=1", signal=each) for each in (fixed, live)]
    for name, tensor in weights(first[0].path).items():
        torch.testing.assert_close(weights(first[1].path)[name], tensor, rtol=0.0, atol=1e-3)
    later = [phases.distilled("distil.student.steps=8", signal=each) for each in (fixed, live)]
    away = [weights(each.path) for each in later]
    assert max(float((away[0][name] - away[1][name]).abs().max()) for name in away[0]) > 2e-3


def test_extrapolation_leads_further_towards_the_teacher(phases: Phases, nano: Nano) -> None:
    signals = [
        phases.signals("distil.signals.main.reference=student", f"distil.signals.main.extrapolation={power}")
        for power in (1.0, 2.0)
    ]
    first, second = (each.json("metrics.json")["main"] for each in signals)
    assert second["std"] == pytest.approx(2.0 * first["std"], rel=1e-5)
    steps = ("distil.student.steps=8", "distil.student.epochs=6", "distil.student.clip_high=10.0")
    base, teacher, one, two = (
        everywhere(nano, path).gather(1, words(nano))[:, 0]
        for path in (
            None,
            snapshot(phases.teach, "main", best_of(phases)),
            *(phases.distilled(*steps, "distil.student.clip_low=1.0", signal=each).path for each in signals),
        )
    )
    way = (teacher - base) / (teacher - base).norm()
    assert float((two - base) @ way) > float((one - base) @ way) > 0.0


def test_without_distillation_the_teacher_is_the_next_policy(phases: Phases) -> None:
    made = phases.distilled("distil.student.target=teacher", "distil.signals.main.step=4")
    assert same(made.path, snapshot(phases.teach, "main", 4))
    assert made.json("metrics.json")["steps"] == 0


def test_a_dropped_signal_leaves_the_base_as_it_is(phases: Phases, nano: Nano) -> None:
    said = phases.signal.json("metrics.json")
    said["main"]["reference"] = "none"
    folder = nano.folder / "dropped"
    folder.mkdir()
    write_json(folder / "metrics.json", said)
    (folder / "signal.parquet").write_bytes(phases.signal.file("signal.parquet").read_bytes())
    student = phases.distilled(signal=as_artefact(folder, "signal", 1))
    assert student.json("metrics.json")["kl"] == 0.0
    assert is_base(nano, student.path)


BUDGET = ("distil.student.budget=0.01", "distil.student.clip=4.0", "distil.student.epochs=3")


@pytest.mark.parametrize("reference", ["base", "unlearned", "student"])
def test_the_student_stays_within_its_budget(phases: Phases, nano: Nano, reference: str) -> None:
    made = phases.distilled(*BUDGET, f"distil.signals.main.reference={reference}")
    said = made.json("metrics.json")
    assert said["stopped"] == "budget"
    measured = float(divergence(nano, made).mean())
    assert said["kl"] == pytest.approx(measured, rel=1e-2)
    assert 0.94 * said["budget"] < measured <= said["budget"] * 1.001


def test_some_of_the_answers_may_stand_for_all(phases: Phases, nano: Nano) -> None:
    made = phases.distilled(*BUDGET, "distil.student.measured_answers=8", signal=phases.signal)
    response_ids = read_table(nano.rollouts[0].file("rollouts.parquet"))["response_ids"]
    parts = list(divergence(nano, made).split([len(response) for response in response_ids.to_pylist()]))
    found = float(torch.cat(parts[:: len(parts) // 8]).mean())
    assert made.json("metrics.json")["kl"] == pytest.approx(found, rel=1e-2)
    assert found <= 0.01 * 1.001


def test_the_divergence_is_measured_where_the_budget_may_be_left(phases: Phases) -> None:
    slow = ("distil.student.learning_rate=2e-5", "distil.student.epochs=60")
    said = phases.distilled(*BUDGET, *slow, signal=phases.signal).json("metrics.json")
    assert said["stopped"] == "budget"
    assert said["steps"] > 10
    assert said["measured"] < said["steps"]


def test_a_budget_out_of_reach_ends_with_the_steps(phases: Phases) -> None:
    said = phases.distilled("distil.student.budget=100.0", signal=phases.signal).json("metrics.json")
    assert (said["stopped"], said["steps"], said["last_share"]) == ("steps", 4, 1.0)


@pytest.mark.parametrize("reference", ["base", "unlearned"])
@pytest.mark.parametrize("spread", ["mean", "state"])
def test_the_exact_target_is_approached_within_the_budget(
    phases: Phases, nano: Nano, spread: str, reference: str
) -> None:
    settings = (
        *BUDGET,
        "distil.student.target=exact",
        f"distil.student.spread={spread}",
        f"distil.signals.main.reference={reference}",
        "distil.signals.main.step=last",
    )
    made = phases.distilled(*settings)
    said = made.json("metrics.json")
    assert 0.0 < said["kl"] <= 0.01
    assert (said["eta"] is None) == (spread == "state")
    base, student = everywhere(nano, None), everywhere(nano, made.path)
    teacher = everywhere(nano, snapshot(phases.teach, "main", 6))
    if reference == "unlearned":
        other = everywhere(nano, snapshot(phases.unlearn, "unlearned", 4))
        teacher = (base + teacher - other).log_softmax(-1)
    distance = [float((each.exp() * (each - teacher)).sum(-1).mean()) for each in (student, base)]
    assert distance[0] < distance[1]
    assert not list(nano.context.scratch.glob("states-*"))


def test_fresh_answers_are_the_students_own(phases: Phases, nano: Nano) -> None:
    settings = ("distil.student.answers=fresh", "distil.student.budget=0.2", "distil.student.clip=4.0")
    settings += ("distil.student.learning_rate=3e-4",)
    one, two = (phases.distilled(*settings) for _ in range(2))
    assert one.digest == two.digest
    said = one.json("metrics.json")
    assert said["answers"] == 2 * 32
    assert 0.0 < said["kl"] <= 0.2
    assert not list(nano.context.scratch.glob("sealed-*"))


def test_the_teacher_of_a_signal_is_evaluated(phases: Phases, nano: Nano) -> None:
    made = nano.run(
        evaluate_teacher,
        parameters("distil.signals.main.step=2", "evaluate.bootstrap_samples=20"),
        1,
        model=nano.model,
        problems=nano.problems,
        teach=phases.teach,
    )
    assert made.json("scores.json")["kl_to_base"] > 0.0
    assert weights(snapshot(phases.teach, "main", 2))


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("distil.student.budgte=1", "did you mean 'budget'"),
        ("distil.hold_out=0.5", "distil.hold_out: unknown key"),
        ("distil.teachers.main.loss=cross", "distil.teachers.main.loss"),
        (
            "distil.signals.main.teacher=mian",
            "distil.signals.main.teacher: mian: no such name; did you mean 'main'",
        ),
        ("distil.signals.main.step=3", "distil.signals.main.step: 3 is not kept; expected one of 2, 4, 6"),
        ("distil.signals.second={}", "distil.student.sequence: empty"),
        ("distil.student.sequence=[{signal: other}]", "distil.student.sequence: other: no such name"),
        ("distil.student.steps=33", "more than an epoch; expected answers for each, of 32"),
        ("distil.student.answers_per_step=9", "more than an epoch"),
        ("distil.teachers.main.steps=99", "keeps 50; expected 32 at most"),
        ("distil.validation.problems=17", "expected at most task.train_count, 24, together"),
        ("distil.evaluate_teacher=second", "distil.evaluate_teacher: second: no such name"),
        ("distil.student.target=exact", "exact is found for a budget"),
        (
            "distil.signals.main={reference: student, on_right: negative}",
            "signals.main: reference student takes the teacher as numerator and on_right all",
        ),
        (
            "distil.signals.main={reference: student, numerator: base}",
            "signals.main: reference student takes the teacher",
        ),
        ("method.replay={name: dyjr}", "method.replay"),
    ],
)
def test_impossible_options_are_refused_at_the_door(setting: str, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        parameters(setting)


def test_what_is_ours_takes_what_it_can(phases: Phases) -> None:
    fresh = ("distil.student.answers=fresh",)
    for more, says in (
        ("distil.signals.main.reference=student", "take a fixed reference"),
        ("distil.signals.main.on_right=negative", "the teacher and on_right all"),
    ):
        with pytest.raises(BadInput, match=says):
            parameters(*fresh, more)
    with pytest.raises(BadInput, match=r"unlearned_step: 3 is not kept; expected one of 2, 4"):
        parameters("distil.signals.main.reference=unlearned", "distil.unlearned_step=3")
