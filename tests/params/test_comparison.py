"""A study's file: what is wrong with it is said in one line; what is right becomes runs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from params.base import BadInput, validate
from params.comparison import Comparison, narrowed, read_study, trials
from params.load import PRESETS, presets, read_yaml

SMOKE = read_yaml(PRESETS / "labs" / "smoke.yaml")


@pytest.mark.parametrize("name", presets("labs"))
def test_every_study_becomes_runs(name: str) -> None:
    found, lab = read_study(name)
    runs = trials(found, narrowed(lab, None, None))
    assert len({run.name for run in runs}) == len(lab.arms) * lab.seeds
    assert {run.params.rounds for run in runs} == {lab.rounds}
    assert all(run.params.threads == 1 for run in runs)


def test_runs_go_arm_by_arm_and_settings_win() -> None:
    name, lab = read_study("smoke")
    runs = trials(name, narrowed(lab, None, 3), ["update.learning_rate=1e-3", "rounds=1"])
    assert [run.name for run in runs][:4] == [
        "smoke-slow-s0",
        "smoke-slow-s1",
        "smoke-slow-s2",
        "smoke-fast-s0",
    ]
    assert [run.params.seed for run in runs] == [0, 1, 2, 0, 1, 2]
    assert {run.params.update.learning_rate for run in runs} == {1e-3}
    assert {run.params.rounds for run in runs} == {1}


def test_the_first_arm_that_is_left_is_the_baseline() -> None:
    lab = validate(Comparison, {**SMOKE, "baseline": "fast"})
    assert narrowed(lab, None, None).baseline == "fast"
    assert narrowed(lab, ["slow"], None).baseline == "slow"
    assert list(narrowed(lab, ["fast", "slow"], None).arms) == ["slow", "fast"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lab: lab.update(sedes=1), r"sedes: unknown key; did you mean 'seeds'\?"),
        (lambda lab: lab["arms"]["fast"].update(methd=1), r"arms\.fast\.methd: .*did you mean 'method'\?"),
        (
            lambda lab: lab["metrics"]["evaluate.entropy"].update(lbel=1),
            r"metrics\.evaluate\.entropy\.lbel: .*",
        ),
        (lambda lab: lab["base"].update(modle=1), r"base\.modle: .*did you mean 'model'\?"),
        (lambda lab: lab.update(baseline="fsat"), r"baseline: no arm 'fsat'; did you mean 'fast'\?"),
        (lambda lab: lab["arms"].update({"Not good": {}}), "arms.Not good: expected a name"),
        (lambda lab: lab["metrics"].update(loss={}), "metrics.loss: expected STAGE.NAME"),
        (lambda lab: lab.update(seeds=0), "seeds: input should be greater than 0, got 0"),
        (lambda lab: lab.pop("question"), "question: missing"),
    ],
)
def test_bad_studies_are_one_line(change: Callable[[dict[str, Any]], Any], said: str) -> None:
    values = copy.deepcopy(SMOKE)
    change(values)
    with pytest.raises(BadInput, match=said) as caught:
        validate(Comparison, values)
    assert "\n" not in str(caught.value)


def test_a_file_of_ones_own_is_named_in_its_errors(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("title: x\narms: {a: {set: [rounds]}}\n")
    with pytest.raises(BadInput, match=r"mine\.yaml: question: missing"):
        read_study(str(path))
    with pytest.raises(BadInput, match="no such file"):
        read_study(str(tmp_path / "none.yaml"))
    with pytest.raises(BadInput, match="expected a file named in lower-case"):
        read_study(str(tmp_path / "Not good.yaml"))


def test_an_arm_is_named_in_the_errors_of_its_parameters() -> None:
    lab = validate(Comparison, {**SMOKE, "arms": {"slow": {}, "odd": {"set": ["updat.epochs=2"]}}})
    with pytest.raises(BadInput, match=r"smoke: arm odd: updat: unknown key; did you mean 'update'\?"):
        trials("smoke", lab)
