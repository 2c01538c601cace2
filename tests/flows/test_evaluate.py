"""``ostinato evaluate``: a run's policy and any folder on a set of one's own, cached, and pair by pair."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.commands import evaluate_command
from flows.commands.evaluate_command import EvaluateOptions
from tests.flows.conftest import Workspace


def options(folder: Path, **chosen: Any) -> list[str]:
    rows = [{"question": f"{n}+{n + 1}", "answer": str(2 * n + 1)} for n in range(12)]
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    problems = {"name": "jsonl", "path": str(path)}
    mine = {"problems": problems, "samples_per_problem": 2, "max_response_tokens": 8, **chosen}
    small = ["--engine", "transformers", "--set", "evaluate.bootstrap_samples=50", "--set", "threads=1"]
    return ["--sets", "mine", "--set", f"sets.mine={json.dumps(mine)}", *small, "--json"]


def test_a_run_against_its_base_and_from_cache(copied: Workspace) -> None:
    asked = ["evaluate", "--model", "it", "--against", "runs/it/model", *options(copied.root)]
    first = copied.call(*asked)
    found = json.loads(first.stdout)
    assert found["name"] == "evaluate-it"
    for scores in (found["sets"]["mine"], found["against_sets"]["mine"]):
        assert (scores["problems"], scores["samples"]) == (12, 24)
        assert 0 <= scores["mean_at_n"]["low"] <= scores["mean_at_n"]["high"] <= 1
    means = [found[part]["mine"]["mean_at_n"]["value"] for part in ("sets", "against_sets")]
    assert abs(found["differences"]["mine"]["mean_at_n"]["value"] - (means[0] - means[1])) < 1e-9
    kept = copied.root / "runs" / "evaluate-it" / "evaluation.json"
    assert json.loads(kept.read_text()) == found
    again = copied.call(*asked)
    assert json.loads(again.stdout) == found
    assert "made in" not in again.stderr
    assert again.stderr.count("cached in") == 5


def test_what_is_wrong_is_told_before_a_model_is_opened(copied: Workspace) -> None:
    wrong = copied.call("evaluate", "--model", "it", "--sets", "gsm9k", code=2)
    assert wrong.stderr.strip().endswith("no such preset; did you mean 'gsm8k'?")
    long = copied.call("evaluate", "--model", "it", *options(copied.root, max_response_tokens=400), code=2)
    assert "evaluate.sets.mine.max_response_tokens: 400; expected less than model.context" in long.stderr
    column = options(copied.root, problems={"name": "jsonl", "path": "mine.jsonl", "answer": "gold"})
    missing = copied.call("evaluate", "--model", "it", *column, code=2)
    assert "mine.jsonl:1: no 'gold'" in missing.stderr
    assert "evaluate-mine" not in missing.stderr
    many = options(
        copied.root, problems={"name": "arithmetic", "generators": ["sums"], "level": 1}, count=500
    )
    few = copied.call("evaluate", "--model", "it", *many, code=2)
    assert "evaluate.sets.mine.problems" in few.stderr
    assert "task." not in few.stderr
    folder = options(copied.root, problems={"name": "spider", "folder": "nowhere"})
    nowhere = copied.call("evaluate", "--model", "it", *folder, code=2)
    assert "nowhere/dev.json: no such file (evaluate.sets.mine.problems.folder)" in nowhere.stderr


def test_the_command_that_goes_on_has_the_name() -> None:
    options = EvaluateOptions("it", "gsm8k", "other", ["seed=1"], "mine")
    own = "ostinato evaluate --model it --sets gsm8k --name mine --set seed=1"
    assert evaluate_command._command(options, "it") == own
    assert "--name" not in evaluate_command._command(options, "other")


def test_a_folder_with_half_a_configuration_is_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, refused: Callable[[list[str], str], None]
) -> None:
    folder = tmp_path_factory.mktemp("torn")
    (folder / "config.json").write_text('{"hidden_size": ')
    refused(["evaluate", "--model", str(folder), "--sets", "gsm8k"], "config.json: cannot be read")
