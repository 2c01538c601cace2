"""A reward of the user's own: found, fingerprinted, bounded, and never silently 0."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.execution.fingerprint import fingerprint
from flows.stage_table.stages import stage_table
from params.base import BadInput
from params.load import compose
from tasks.rewards.base import Verdict
from tasks.rewards.contract import find_reward
from tasks.rewards.testing import check, verdicts

SOURCE = """
import os, time
import numpy as np
from tasks.rewards.base import Verdict

def reward(gold: str, answer: str) -> float:
    if answer == "raise":
        raise ValueError("not today")
    if answer == "sleep":
        time.sleep(60)
    if answer == "exit":
        os._exit(3)
    if answer == "quit":
        raise SystemExit(1)
    if answer == "print":
        print("noise")
    odd = {"none": None, "text": "1", "nan": float("nan"), "list": [1.0], "true": True, "half": 0.5,
           "said": Verdict(0.0, "so it is"), "gave up": Verdict(None, "cannot say"), "mute": Verdict(None),
           "huge": -1e39, "noted": Verdict(1.0, notes={"size": np.float32(2.5)}),
           "odd notes": Verdict(1.0, notes={"digits": 10**5000}),
           "half a pair": Verdict(0.0, "no \\ud83d"), "odd": Verdict("x")}
    return odd.get(answer, float(gold == answer))
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "house").mkdir()
    (tmp_path / "house" / "__init__.py").touch()
    path = tmp_path / "house" / "rules.py"
    path.write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    return path


def test_it_is_judged_as_in_a_run(mine: Path) -> None:
    check("house.rules:reward", [("a", "a", 1.0), ("a", "b", 0.0), ("a", "half", 0.5), ("a", "true", 1.0)])
    with pytest.raises(
        AssertionError, match=r"1 of 2 differ\ngold 'a', answer 'a': 1.0 \(None\); expected 0.0"
    ):
        check("house.rules:reward", [("a", "a", 0.0), ("a", "b", 0.0)])


def test_what_is_no_reward_is_its_failure(mine: Path) -> None:
    name = "house.rules:reward"
    expected = {
        "raise": Verdict(None, "judge failed: ValueError: not today"),
        "sleep": Verdict(None, "timed out after 1 s"),
        "exit": Verdict(None, "judge died (exit code 3)"),
        "quit": Verdict(None, "judge died (exit code 1)"),
        "print": Verdict(0.0),
        "none": Verdict(None, f"{name} returned a NoneType; expected a number or a Verdict"),
        "text": Verdict(None, f"{name} returned a str; expected a finite number"),
        "nan": Verdict(None, f"{name} returned nan; expected a finite number"),
        "huge": Verdict(None, f"{name} returned -1e+39; expected a number that float32 holds"),
        "list": Verdict(None, f"{name} returned a list; expected a number or a Verdict"),
        "said": Verdict(0.0, "so it is"),
        "gave up": Verdict(None, "cannot say"),
        "noted": Verdict(1.0, notes={"size": 2.5}),
        "half a pair": Verdict(0.0, "no ?"),
        "mute": Verdict(None, f"{name} gave no reward and no reason"),
        "odd": Verdict(None, f"{name} returned a str; expected a number or a Verdict"),
    }
    found = verdicts(name, [("a", answer) for answer in expected], {"timeout_seconds": 1.0})
    assert dict(zip(expected, found, strict=True)) == expected
    (odd,) = verdicts(name, [("a", "odd notes")])
    assert (odd.reward, str(odd.error)[:25]) == (None, "judge failed: ValueError:")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("house.rules:rewrd", r"no 'rewrd' in .*rules\.py; did you mean 'reward'\?"),
        ("house.rule:reward", r"no module 'house\.rule'; expected house/rule\.py in the current directory"),
        ("house.rules:", "expected package.module:function"),
        ("house.rules", "expected package.module:function"),
        ("house/rules:reward", "expected package.module:function"),
        ("a:b:c", "expected package.module:function"),
        ("house.broken:reward", r"broken\.py:1: not Python"),
    ],
)
def test_a_wrong_name_is_known_before_anything_runs(mine: Path, name: str, message: str) -> None:
    mine.with_name("broken.py").write_text("def reward(:\n")
    with pytest.raises(BadInput, match=message):
        find_reward(name, "task.reward")


def test_its_source_is_in_the_fingerprint(mine: Path) -> None:
    params = compose("nano", "sums", "grpo", ["task.reward=house.rules:reward", "engine.name=transformers"])
    assert params.task.reward.name == "house.rules:reward"

    def prints() -> dict[str, str]:
        return {
            name: fingerprint(stage_table()[name], 1, params, {})
            for name in ("rollout", "evaluate", "update")
        }

    before = prints()
    mine.write_text(SOURCE + "\n# changed")
    after = prints()
    assert {name for name in before if before[name] != after[name]} == {"rollout", "evaluate"}


def test_options_go_with_a_name_alone() -> None:
    settings = ["task.reward=math", "task.reward.timeout_seconds=3"]
    assert compose("nano", "sums", "grpo", settings).task.reward.model_extra == {"timeout_seconds": 3}
    settings = ["task.reward=a.b:c", "task.reward.timeout_seconds=3"]
    chosen = compose("nano", "sums", "grpo", settings).task.reward
    assert (chosen.name, chosen.model_extra) == ("a.b:c", {"timeout_seconds": 3})
