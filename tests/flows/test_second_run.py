"""A run beside another: the earlier one of its name is kept, all are listed, one that learns nothing ends."""

from __future__ import annotations

import json

import pytest

from tasks.artefacts.record import Record
from tasks.artefacts.tables import read_table
from tests.flows.conftest import NANO, Workspace, outcomes


@pytest.mark.long
@pytest.mark.ci
def test_other_parameters_under_the_same_name_keep_the_earlier_run_and_say_so(copied: Workspace) -> None:
    runs = copied.root / "runs"
    before = Record.read(runs / "it")
    assert set(outcomes(copied.run("--set", "threads=2")).values()) == {"cached"}  # no other run
    said = copied.run("--set", "update.learning_rate=1e-3")
    (note,) = [event["text"] for event in said if event["event"] == "note"]
    assert "update.learning_rate" in note
    assert "→ 0.001; the earlier run is kept as it~1" in note
    kept = Record.read(runs / "it~1")
    assert [step.fingerprint for step in kept.steps] == [step.fingerprint for step in before.steps]
    assert (runs / "it~1" / "report.html").is_file()
    assert json.loads(copied.call("status", "it~1", "--json").stdout)["finished"]
    listed = {run["name"]: run for run in json.loads(copied.call("status", "--json").stdout)["runs"]}
    assert {name: run["state"] for name, run in listed.items()} == {"it": "finished", "it~1": "finished"}
    assert "it~1" in copied.call("status").stdout


@pytest.mark.long
@pytest.mark.ci
@pytest.mark.parametrize("body", ["return float('nan')", "raise KeyError('x')"])
def test_a_run_that_cannot_be_judged_ends_after_its_first_evaluation(prepared: Workspace, body: str) -> None:
    (prepared.root / "mine.py").write_text(
        f"def reward(gold, answer):\n    if (gold, answer) == ('1', '1'): return 1.0\n    {body}\n"
    )
    prepared.environment["PYTHONPATH"] += f":{prepared.root}"
    command = ["run", "--name", "it", *NANO, "--set", "task.reward=mine:reward"]
    failed = prepared.call(*command, code=1)
    assert "evaluate of round 0: 40 of 40 answers could not be judged" in failed.stderr
    assert "(40 times)" in failed.stderr
    assert len(failed.stderr.splitlines()) == 1
    again = prepared.call(*command, code=1)  # what was sampled is judged anew, and says the same
    note, same = again.stderr.splitlines(keepends=True)
    assert "round-00/evaluate: judges the answers of evaluate-" in note
    assert same == failed.stderr
    (run,) = json.loads(prepared.call("status", "--json").stdout)["runs"]
    assert run["state"] == "3 stages done"


@pytest.mark.long
@pytest.mark.ci
def test_answers_that_nobody_could_judge_are_judged_once_that_is_mended(prepared: Workspace) -> None:
    (prepared.root / "mine.py").write_text(
        "import pathlib\n\ndef reward(gold, answer):\n"
        f"    if answer != gold and not pathlib.Path({str(prepared.root / 'up')!r}).exists():\n"
        "        raise ConnectionError('down')\n    return float(answer == gold)\n"
    )
    prepared.environment["PYTHONPATH"] += f":{prepared.root}"
    command = ["run", "--name", "it", *NANO, "--set", "task.reward=mine:reward", "--set", "rounds=1"]
    failed = prepared.call(*command, code=1)
    assert "of 40 answers could not be judged" in failed.stderr
    answers = prepared.root / "runs/it/round-00/evaluate/answers.parquet"
    before = read_table(answers)
    (prepared.root / "up").touch()
    said = prepared.call(*command, "--json").stdout
    assert "round-00/evaluate: judges the answers of evaluate-" in said
    after = read_table(answers)
    assert after["response_ids"] == before["response_ids"]
    assert before["reward"].null_count > 30
    assert after["reward"].null_count == 0


@pytest.mark.long
@pytest.mark.ci
def test_problems_with_long_prompts_are_left_out_and_counted(empty: Workspace) -> None:
    lines = [{"question": f"{n} and {n}?", "answer": str(2 * n)} for n in range(12)]
    lines += [{"question": f"{n} " + "and " * 90, "answer": "1"} for n in range(3)]
    (empty.root / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    own = ["problems.path=mine.jsonl", "task.on_long_prompt=drop", "task.train_count=10", "rounds=1"]
    own += ["task.held_out_count=5", "model.context=128"]
    settings = [part for setting in own for part in ("--set", setting)]
    empty.run("--task", "jsonl", *settings)
    scores = json.loads((empty.root / "runs/it/round-00/evaluate/scores.json").read_text())
    assert scores["long_prompts"] == 3
    page = (empty.root / "runs/it/report.html").read_text()
    assert "3 problems left out" in page
