"""Evaluation sets: published layouts, presets, stages of their own, memory, resuming, and pairs."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from flows.execution.fingerprint import fingerprint
from flows.execution.fingerprint import own_files as stage_files
from flows.stage_table.stages import Plan, plan
from params.base import BadInput
from params.evaluation import set_presets
from params.load import compose
from params.schema import Params
from params.views import of_set
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.store import Store
from tasks.artefacts.tables import read_table
from tasks.core.context import Context
from tasks.core.stage import Job
from tasks.engines.base import EngineFailure
from tasks.evaluate import evaluate as evaluation
from tasks.evaluate.evaluate import evaluate
from tasks.evaluate.paired import differences
from tasks.prepare.benchmark import benchmark
from tasks.rollout import parts
from tests.conftest import RunStage
from tests.tasks.evaluate.test_evaluate import answers
from tests.tasks.problems.test_sql_benchmarks import bird_folder, spider_folder

LAYOUTS: dict[str, dict[str, Any]] = {
    "gsm8k": {"question": "2+3?", "answer": "2+3 = <<2+3=5>>5\n#### 5"},
    "math500": {"problem": "2+3?", "solution": "s", "answer": "5", "subject": "Algebra", "level": 2},
    "aime24": {"id": 1, "problem": "2+3?", "solution": "s", "answer": "005", "url": "u", "year": "2024"},
    "aime25": {"problem": "2+3?", "answer": "5", "id": "0"},
    "amc23": {"id": 1, "question": "2+3?", "answer": "5.0", "url": "u"},
    "minerva": {"question": "2+3?", "answer": "5"},
    "olympiadbench": {"id": 1, "question": "2+3?", "final_answer": ["5"], "error": None},
    "brumo25": {"problem_idx": 1, "problem": "2+3?", "answer": "5", "problem_type": ["Algebra"]},
    "hmmt25": {"problem_idx": 1, "problem": "2+3?", "answer": "5", "problem_type": ["Algebra"]},
    "beyond-aime": {"problem": "2+3?", "answer": 5},
}
"""A row of each as it is published."""


def written(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def parameters(sets: dict[str, Any], *more: str) -> Params:
    small = ["engine.name=transformers", "evaluate.bootstrap_samples=50", "model.context=96", *more]
    return compose("nano", "sums", "grpo", [f"evaluate.sets={json.dumps(sets)}", *small])


def sums(folder: Path, rows_of: int, **options: Any) -> dict[str, Any]:
    rows = [{"question": f"{n}+{n}", "answer": str(2 * n)} for n in range(rows_of)]
    problems = {"name": "jsonl", "path": str(written(folder, rows))}
    return {"problems": problems, "max_response_tokens": 6, **options}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_preset_reads_the_published_layout_from_a_local_file(
    run_stage: RunStage, tmp_path: Path, name: str
) -> None:
    path = written(tmp_path, [LAYOUTS[name]])
    params = parameters({name: {"problems": {"path": str(path)}}})
    made = run_stage(benchmark, of_set(params, name))
    (row,) = read_table(made.file("held_out.parquet")).to_pylist()
    assert row["question"] == "2+3?"
    assert float(row["answer"]) == 5
    assert row["level"] == (2 if name == "math500" else 1)


def test_every_preset_is_a_set_with_room_for_its_k() -> None:
    assert set(LAYOUTS) | {"spider", "bird"} == set(set_presets())
    chosen = compose("nano", "sums", "grpo", [f"evaluate.sets=[{','.join(set_presets())}]"]).evaluate.sets
    assert list(chosen) == set_presets()
    assert chosen["aime24"].ks == (1, 16)
    changed = compose(
        "nano", "sums", "grpo", ["evaluate.sets=[aime24, gsm8k]", "sets.aime24.samples_per_problem=64"]
    )
    assert list(changed.evaluate.sets) == ["aime24", "gsm8k"]
    assert changed.evaluate.sets["aime24"].ks == (1, 64)
    assert (
        compose(
            "nano", "sums", "grpo", [f"evaluate.sets={json.dumps(changed.model_dump()['evaluate']['sets'])}"]
        )
        == changed
    )


@pytest.mark.parametrize("name", ["spider", "bird"])
def test_a_development_set_is_read_from_its_folder_without_the_training_files(
    run_stage: RunStage, tmp_path: Path, name: str
) -> None:
    published = tmp_path / name
    {"spider": spider_folder, "bird": bird_folder}[name](published)
    for path in [*published.rglob("train*.json"), *published.rglob("train*.sqlite")]:
        path.unlink()
    params = parameters({name: {"problems": {"folder": str(published)}}}, "model.context=512")
    made = run_stage(benchmark, of_set(params, name))
    held_out = read_table(made.file("held_out.parquet"))
    assert held_out.num_rows > 0
    assert set(held_out["source"].to_pylist()) == {name}
    read = stage_files(plan(params).table[f"set-{name}"], params)
    assert {path.name for path in read} >= {"dev.json"}
    assert not any("train" in path.name for path in read)


def test_missing_columns_and_wrong_names_are_one_line(run_stage: RunStage, tmp_path: Path) -> None:
    path = written(tmp_path, [{"question": "2+3?", "gold": "5"}])
    params = parameters({"aime24": {"problems": {"path": str(path)}}})
    with pytest.raises(BadInput, match=r"rows.jsonl:1: no 'problem'; .*'question'|known: gold, question"):
        run_stage(benchmark, of_set(params, "aime24"))
    with pytest.raises(BadInput, match="no such preset; did you mean 'gsm8k'"):
        parameters({"gsm8": {}})
    with pytest.raises(BadInput, match="pass_at exceeds samples_per_problem"):
        parameters({"gsm8k": {"pass_at": [8]}})


def test_a_count_is_drawn_by_the_seed_in_the_order_of_the_file(run_stage: RunStage, tmp_path: Path) -> None:
    drawn = {}
    for seed in (0, 1):
        params = parameters({"mine": sums(tmp_path, 30, count=8)}, f"seed={seed}")
        table = read_table(run_stage(benchmark, of_set(params, "mine")).file("held_out.parquet"))
        drawn[seed] = [int(text.split("+")[0]) for text in table["question"].to_pylist()]
        assert len(drawn[seed]) == 8
        assert drawn[seed] == sorted(drawn[seed])
    assert drawn[0] != drawn[1]


def test_examples_do_not_come_from_what_is_asked(
    run_stage: RunStage, tiny_model: Artefact, tmp_path: Path
) -> None:
    chosen = sums(tmp_path, 6, prompt={"examples": 2})
    with pytest.raises(BadInput, match="would be drawn from the problems that are asked"):
        run_stage(benchmark, of_set(parameters({"mine": chosen}), "mine"))
    aside = tmp_path / "test"
    aside.mkdir()
    rows = [{"question": f"{n}-{n}", "answer": "0"} for n in range(4)]
    chosen["problems"]["held_out_path"] = str(written(aside, rows))
    made = run_stage(benchmark, of_set(parameters({"mine": chosen}), "mine"))
    assert read_table(made.file("held_out.parquet")).num_rows == 4
    assert read_table(made.file("train.parquet")).num_rows == 3
    asked = of_set(parameters({"mine": chosen}, "model.context=256"), "mine")
    scores = run_stage(evaluate, asked, model=tiny_model, problems=made).json("scores.json")
    assert scores["problems"] == 4


def nodes(params: Params) -> Plan:
    return plan(params)


def test_a_set_is_two_stages_whose_settings_are_nobody_elses(tmp_path: Path) -> None:
    usual = parameters({"one": sums(tmp_path, 4), "two": sums(tmp_path, 4, every=1)}, "rounds=3")
    stages = nodes(usual)
    assert stages.rounds("set-one") == [0]
    assert stages.rounds("evaluate-one") == [0, 3]
    assert stages.rounds("evaluate-two") == [0, 1, 2, 3]
    assert stages["round-03/evaluate-one"].inputs["policy"] == "round-03/update"
    changed = parameters(
        {"one": sums(tmp_path, 4, temperature=0.5), "two": sums(tmp_path, 4, every=1)}, "rounds=3"
    )

    def identities(params: Params) -> dict[str, str]:
        table = nodes(params).table
        return {name: fingerprint(table[name], 0, params, {}) for name in table}

    before, after = identities(usual), identities(changed)
    assert {name for name in before if before[name] != after[name]} == {"evaluate-one"}


def evaluated(
    tiny_model: Artefact, problems: Artefact, params: Params, out: Path, store: Store | None = None
) -> dict[str, Any]:
    out.mkdir()
    with Context(scratch=out / "scratch", store=store) as context:
        inputs = {"model": tiny_model, "problems": problems}
        evaluate(Job(of_set(params, "mine"), 0, inputs, out, context, "fingerprint"))
        context.whole()
    found: dict[str, Any] = json.loads((out / "scores.json").read_text())
    return found


def test_mean_at_n_with_its_own_sampling(run_stage: RunStage, tiny_model: Artefact, tmp_path: Path) -> None:
    chosen = sums(tmp_path, 5, samples_per_problem=4, pass_at=[1, 2], temperature=0.7, top_p=0.9)
    params = parameters({"mine": chosen})
    problems = run_stage(benchmark, of_set(params, "mine"))
    found = evaluated(tiny_model, problems, params, tmp_path / "out")
    assert (found["problems"], found["samples"], found["samples_per_problem"]) == (5, 20, 4)
    assert set(found["pass_at"]) == {"1", "2"}
    assert found["greedy"]["value"] is not None
    assert found["entropy"] is None
    without = parameters({"mine": {**chosen, "greedy": False}})
    other = evaluated(tiny_model, problems, without, tmp_path / "other")
    assert other["greedy"]["value"] is None
    assert other["mean_at_n"] == found["mean_at_n"]


def test_an_interrupted_evaluation_goes_on_and_ends_the_same(
    run_stage: RunStage, tiny_model: Artefact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In parts of two problems, with a stop after the third part: those are not sampled again."""
    params = parameters({"mine": sums(tmp_path, 9, samples_per_problem=8)})
    problems = run_stage(benchmark, of_set(params, "mine"))
    whole = evaluated(tiny_model, problems, params, tmp_path / "whole")
    monkeypatch.setattr(evaluation, "PART_ANSWERS", 16)
    asked: list[int] = []
    kept, most = parts.sample, [3]

    def counted(job: Job, stage: str, of: pa.Table, *options: Any) -> Any:
        if len(asked) == most[0]:
            raise EngineFailure("the engine died")
        asked.append(of.num_rows)
        return kept(job, stage, of, *options)

    monkeypatch.setattr(parts, "sample", counted)
    store = Store(tmp_path / "workspace")
    store.root.mkdir()
    with pytest.raises(EngineFailure):
        evaluated(tiny_model, problems, params, tmp_path / "broken", store)
    assert asked == [2, 2, 2]
    most[0] = 99
    found = evaluated(tiny_model, problems, params, tmp_path / "again", store)
    assert asked == [2, 2, 2, 2, 1, 9]
    assert found == whole
    assert list(store.artefacts.iterdir()) == []
    tables = [read_table(tmp_path / name / "answers.parquet") for name in ("whole", "again")]
    assert tables[0].select(["response_ids", "seed"]) == tables[1].select(["response_ids", "seed"])


@pytest.mark.long
@pytest.mark.timeout(900)
def test_mean_at_256_holds_no_more_in_memory_than_what_fits_one_part(
    run_stage: RunStage, tiny_model: Artefact, tmp_path: Path
) -> None:
    """Of 40 problems: 3,840 answers, one part, against 10,240, three; Python's objects, at their peak."""

    def peak(samples: int) -> int:
        chosen = sums(tmp_path, 40, samples_per_problem=samples, max_response_tokens=2, reward="similarity")
        params = parameters({"mine": chosen})
        problems = run_stage(benchmark, of_set(params, "mine"))
        tracemalloc.start()
        found = evaluated(tiny_model, problems, params, tmp_path / str(samples))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (found["samples"], set(found["pass_at"])) == (40 * samples, {"1", str(samples)})
        return most

    peak(2)  # what is loaded once and stays
    once, many = peak(96), peak(256)
    assert many < 1.2 * once


def test_differences_are_those_of_a_problem_with_itself() -> None:
    new = answers([[1, 1], [0, 1], [1, 1], [None, 0]], [1, 1, 0, 0], [1] * 4)
    old = answers([[0, 1], [0, 1], [0, 0]], [0, 1, 0], [1] * 3)
    found = differences(new, old, 0.95, 200, seed=0)
    assert found["problems"] == 3
    assert found["mean_at_n"]["value"] == pytest.approx((0.5 + 0 + 1) / 3)
    assert found["greedy"]["value"] == pytest.approx(1 / 3)
    assert found["mean_at_n"]["low"] <= found["mean_at_n"]["value"] <= found["mean_at_n"]["high"]
    backwards = differences(old, new, 0.95, 200, seed=0)
    assert backwards["mean_at_n"]["value"] == pytest.approx(-found["mean_at_n"]["value"])
    same = differences(new, new, 0.95, 200, seed=0)
    assert (same["mean_at_n"]["low"], same["mean_at_n"]["high"]) == (0.0, 0.0)
    none = differences(new, new.filter(pc.equal(new["level"], 2)), 0.95, 200, seed=0)
    assert none["mean_at_n"]["value"] is None
