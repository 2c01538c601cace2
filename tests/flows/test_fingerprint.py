"""A fingerprint changes with what changes a result, and with nothing else."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.execution.fingerprint import fingerprint, modules
from flows.execution.source import OURS, ROOT, SOURCE, SourceTree
from flows.stage_table.stages import plan, stage_table
from params.load import compose
from params.schema import Params
from tests.conftest import as_artefact

STAGES = stage_table()


def nano(*settings: str) -> Params:
    return compose("nano", "arithmetic", "grpo", ["engine.name=transformers", *settings])


def of(stage: str, params: Params, round: int = 1, source: SourceTree = SOURCE) -> str:
    return fingerprint(STAGES[stage], round, params, {}, source=source)


@pytest.mark.parametrize(
    ("setting", "touched"),
    [
        ("update.learning_rate=1e-3", {"update"}),
        ("method.objective.clip_high=0.5", {"update"}),
        ("replay.max_age=3", {"replay"}),
        ("evaluate.bootstrap_samples=10", {"evaluate"}),
        ("rollout.problems_per_round=5", {"rollout"}),
        ("rollout.temperature=0.9", {"rollout", "update", "evaluate"}),
        ("update.head_chunk=7", set()),
        ("task.reward_workers=3", set()),
        ("threads=1", set()),
        ("rounds=7", set()),
        ("seed=1", set(STAGES)),
    ],
)
def test_each_stage_depends_on_what_it_declares(setting: str, touched: set[str]) -> None:
    before, after = nano(), nano(setting)
    stages = {step.stage.name for step in plan(before)}
    assert {stage for stage in stages if of(stage, before) != of(stage, after)} == touched & stages


@pytest.mark.parametrize(
    ("setting", "touched"),
    [
        ("distil.student.steps=9", {"distil"}),
        ("distil.student.kl_coefficient=0.1", {"distil"}),
        ("distil.unlearned_step=5", {"signal"}),
        ("distil.signals.main.on_right=all", {"signal"}),
        ("distil.signals.main.step=20", {"signal", "evaluate_teacher"}),
        ("distil.validation.samples=9", {"validate"}),
        ("distil.teachers.main.wrong_weight=0.5", {"teach", "validate"}),
        ("distil.unlearn.learning_rate=1e-5", {"unlearn"}),
        ("update.learning_rate=1e-3", {"teach", "unlearn", "distil"}),
        ("update.warmup_steps=9", set()),
        ("update.epochs=9", set()),
        ("update.head_chunk=7", set()),
    ],
)
def test_each_phase_of_erpd_depends_on_its_own_section(setting: str, touched: set[str]) -> None:
    kept = ("distil.unlearn.snapshot_every=5", "distil.teachers.main.snapshot_every=10")
    given = (*kept, "distil.signals.main.step=best")
    before, after = (compose("nano", "sums", "erpd-weak", [*given, *more]) for more in ((), (setting,)))
    stages = {step.stage.name for step in plan(before)}
    assert stages >= {"unlearn", "teach", "validate", "signal", "distil", "evaluate_teacher"}
    assert "update" not in stages
    assert {stage for stage in stages if of(stage, before) != of(stage, after)} == touched


@pytest.mark.parametrize(
    ("setting", "touched"),
    [
        ("method.replay.coefficient=0.1", {"update"}),
        ("method.replay.share=0.2", {"update"}),
        ("method.replay.form=forward_kl", {"update"}),
        ("method.replay.least_right=4", {"base_pool", "update"}),
        ("method.replay.samples=16", {"base_pool", "update"}),
    ],
)
def test_the_base_models_answers_do_not_depend_on_how_they_are_used(setting: str, touched: set[str]) -> None:
    before, after = (compose("nano", "sums", "dph-rl", more) for more in ((), (setting,)))
    stages = {step.stage.name for step in plan(before)}
    assert {stage for stage in stages if of(stage, before) != of(stage, after)} == touched


def test_the_model_from_a_wheel_does_not_depend_on_the_task_or_seed() -> None:
    first = compose("smollm2-135m", "arithmetic", "grpo")
    second = compose("smollm2-135m", "arithmetic", "grpo", ["seed=1", "task.train_count=99"])
    assert of("model", first) == of("model", second)


def test_rounds_and_inputs_count(tmp_path: Path) -> None:
    params = nano()
    assert of("rollout", params, 1) != of("rollout", params, 2)
    digests = []
    for content in ("a", "b"):
        folder = tmp_path / content
        folder.mkdir()
        (folder / "x").write_text(content)
        given = {"model": as_artefact(folder, "model")}
        digests.append(fingerprint(STAGES["rollout"], 1, params, given))
    assert len({*digests, of("rollout", params)}) == 3


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Our packages in a place where they may be edited."""
    for package in OURS:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def edited(copy: Path, module: str, change: Callable[[str], str]) -> SourceTree:
    """The packages with one module changed."""
    path = copy.joinpath(*module.split(".")).with_suffix(".py")
    path.write_text(change(path.read_text()))
    return SourceTree(copy)


def test_labels_in_the_report_change_nothing(copy: Path) -> None:
    params = compose("nano", "sums", "drpo", ["engine.name=transformers"])
    assert "METRICS = " in (copy / "algorithms" / "drpo.py").read_text()
    source = edited(copy, "algorithms.drpo", lambda text: text.replace("Pulled back", "Drawn back"))
    assert of("update", params, source=source) == of("update", params)


def a_statement(text: str) -> str:
    return f"{text}\nADDED = 1\n"


@pytest.mark.parametrize(
    ("module", "touched"),
    [
        ("algorithms.grpo", {"update"}),
        ("algorithms.drpo", set()),
        ("algorithms.replay_buffer", {"replay", "update"}),
        ("tasks.engines.in_process", {"rollout", "evaluate"}),
        ("tasks.engines.vllm_child", set()),
        ("tasks.engines.vllm_worker", set()),
        ("tasks.engines.vllm_pool", set()),
        ("tasks.policy.full", set()),
        ("tasks.policy.adapter", {"rollout", "update", "evaluate"}),
        ("tasks.problems.arithmetic", {"problems", "model"}),
        ("tasks.problems.columns", set()),
        ("tasks.rewards.worker", {"rollout", "evaluate"}),
        ("tasks.rewards.math", {"rollout", "evaluate"}),
        ("tasks.rewards.sql", set()),
        ("tasks.report.run.page", set()),
        ("tasks.artefacts.store", set()),
    ],
)
def test_a_change_counts_where_the_run_stands_on_it(copy: Path, module: str, touched: set[str]) -> None:
    params = nano()
    source = edited(copy, module, a_statement)
    stages = {step.stage.name for step in plan(params)}
    assert {stage for stage in stages if of(stage, params, source=source) != of(stage, params)} == touched


@pytest.mark.parametrize(
    ("engine", "module"),
    [
        ("vllm", "tasks.engines.vllm_child"),
        ("vllm", "tasks.engines.vllm_worker"),
        ("server", "tasks.engines.vllm_pool"),
        ("server", "tasks.engines.vllm_entrypoint"),
    ],
)
def test_what_another_engine_stands_on_counts_for_its_runs(copy: Path, engine: str, module: str) -> None:
    servers = ["engine.start_servers=1"] if engine == "server" else []
    params = (
        nano(f"engine={{name: {engine}}}", *servers)
        if not servers
        else nano(f"engine={{name: {engine}, start_servers: 1}}")
    )
    source = edited(copy, module, a_statement)
    assert of("rollout", params, source=source) != of("rollout", params)
    assert of("update", params, source=source) == of("update", params)


def test_words_for_people_change_nothing(copy: Path) -> None:
    """A comment, a docstring, other quotes and other line breaks, in every module at once."""
    for path in (path for package in OURS for path in (copy / package).rglob("*.py")):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                node.body.insert(0, ast.Expr(ast.Constant("Other words.")))
        path.write_text(f"# A remark.\n{ast.unparse(ast.fix_missing_locations(_futures_first(tree)))}\n")
    params, source = compose("nano", "sql", "erpd", ["engine.name=transformers"]), SourceTree(copy)
    stages = {step.stage.name for step in plan(params)}
    assert {stage: of(stage, params, source=source) for stage in stages} == {
        stage: of(stage, params) for stage in stages
    }


def _futures_first(tree: ast.Module) -> ast.Module:
    """A second string before ``from __future__`` is no docstring, and Python refuses what follows it."""
    future = [n for n in tree.body if isinstance(n, ast.ImportFrom) and n.module == "__future__"]
    tree.body = [tree.body[0], *future, *(node for node in tree.body[1:] if node not in future)]
    return tree


def test_the_users_own_files_count(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    rows = [f'{{"question": "what is {i}?", "answer": "{i}"}}' for i in range(40)]
    settings = [
        f"task.problems={{name: jsonl, path: {data}}}",
        "task.train_count=20",
        "task.held_out_count=8",
    ]
    data.write_text("\n".join(rows))
    before = of("problems", nano(*settings))
    data.write_text("\n".join([*rows[:-1], '{"question": "what is new?", "answer": "1"}']))
    assert of("problems", nano(*settings)) != before


def test_the_closure_follows_imports_and_stays_inside_the_project() -> None:
    found = set(SOURCE.closure(("tasks.update.update",)))
    assert {"tasks.update.update", "algorithms.advantages", "algorithms.terms"} <= found
    assert all(name.partition(".")[0] in OURS for name in found)
    assert "algorithms.grpo" in modules(STAGES["update"], nano())
    assert "algorithms.grpo" not in modules(STAGES["rollout"], nano())
    problems = modules(STAGES["problems"], nano())
    assert not any(name.startswith("tasks.policy") for name in problems)


def test_imports_from_the_own_package_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "mine/__init__": "",
        "mine/objective": "from .helper import f\nfrom . import other\nfrom .deep import thing\n",
        "mine/helper": "f = 1\n",
        "mine/other": "",
        "mine/deep/__init__": "from .inner import thing\n",
        "mine/deep/inner": "from ..upper import thing\nfrom ...beyond import nothing\n",
        "mine/upper": "thing = 1\n",
        "beyond": "",
    }.items():
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = set(SourceTree().closure(("mine.objective",)))
    own = ("objective", "helper", "other", "deep", "deep.inner", "upper")
    assert found == {"mine", *(f"mine.{name}" for name in own)}


def test_every_input_comes_before_its_reader() -> None:
    done: set[str] = set()
    for node in plan(nano("rounds=4", "evaluate.every=3")):
        assert set(node.inputs.values()) <= done, node
        done.add(node.place)
    assert {"round-00/evaluate", "round-03/evaluate", "round-04/evaluate"} <= done
    assert "round-02/evaluate" not in done
