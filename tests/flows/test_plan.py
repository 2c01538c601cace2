"""The capacity model against what was measured, its laws, and the command."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows import cli
from flows.planner import capacity
from flows.planner.capacity import GIB, MachineUse, Work
from flows.planner.memory_gate import known_shape
from flows.planner.plan import PlanOptions, machine_of, plan, shape_of
from params.base import BadInput
from params.load import PRESETS, read_yaml

MEASURED = json.loads((Path(__file__).parents[2] / "benchmarks" / "measured.json").read_text())
FACTOR = 1.25
"""Within which every prediction for the measured machine lies."""
CPU, _ = machine_of("cpu")
SMALL = shape_of("smollm2-135m")
HERE = MachineUse(cache=GIB / 2)

works = st.builds(
    Work,
    problems=st.integers(1, 64),
    samples=st.integers(1, 16),
    prompt=st.integers(1, 500),
    response=st.integers(1, 500),
)


def within(predicted: float, measured: float, factor: float = FACTOR) -> bool:
    return 1 / factor < predicted / measured < factor


def work(row: dict[str, Any]) -> Work:
    return Work(row["problems"], row["samples"], row["prompt"], row["response"])


@pytest.mark.parametrize("row", MEASURED["updates"], ids=lambda row: row["shape"])
def test_an_update_is_predicted(row: dict[str, Any]) -> None:
    assert within(capacity.update_flops(SMALL, work(row), 16) / 1e12, row["tflop"], 1.05)
    assert within(capacity.update_seconds(SMALL, work(row), CPU, HERE), row["seconds"])
    assert within(sum(capacity.trainer_memory(SMALL, work(row), CPU, HERE).values()) / GIB, row["peak_gib"])


@pytest.mark.parametrize(
    "row", MEASURED["rounds"], ids=lambda row: f"{row['shape']} {row.get('engine', 'vllm')}"
)
def test_a_round_is_predicted(row: dict[str, Any]) -> None:
    chosen = [
        f"rollout.problems_per_round={row['problems']}",
        f"rollout.samples_per_problem={row['samples']}",
        *(["engine.name=vllm"] if "engine" not in row else []),  # else what `auto` is on two cores
    ]
    asked = PlanOptions(
        "smollm2-135m", "arithmetic", "grpo", chosen, prompt=row["prompt"], response=row["response"]
    )
    found = plan(asked)
    assert within(found["round_seconds"], row["seconds"])
    assert within(found["memory_needed_gib"] + MEASURED["server_gib"], row["peak_gib"])
    assert within(found["seconds"]["sampling"], row.get("sampling", found["seconds"]["sampling"]))


def told(capfd: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    with pytest.raises(SystemExit):
        cli.main(["plan", "--json", *words])
    found: dict[str, Any] = json.loads(capfd.readouterr().out)
    return found


@pytest.mark.parametrize(
    "row", MEASURED["sampling_in_process"], ids=lambda row: f"{row['model']} {row['dtype']}"
)
def test_sampling_in_the_trainers_process_is_predicted(
    row: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    settings = (
        f"rollout.problems_per_round={row['problems']}",
        f"rollout.samples_per_problem={row['samples']}",
        f"rollout.max_response_tokens={row['response']}",
        f"model.dtype={row['dtype']}",
        "engine.name=transformers",
    )
    words = [word for setting in settings for word in ("--set", setting)]
    found = told(capfd, "--model", row["model"], "--prompt-tokens", str(row["prompt"]), *words)["memory_gib"]
    engine = {part: value for part, value in found.items() if part.startswith("engine")}
    assert within(sum(engine.values()), row["added_gib"])
    assert not engine.keys() & {"engine: process", "engine: weights"}


def test_packed_layers_are_counted_where_they_are_made(capfd: pytest.CaptureFixture[str]) -> None:
    def packed(*settings: str) -> float:
        words = [word for setting in settings for word in ("--set", setting)]
        found = told(capfd, *words)["memory_gib"]
        return float(found.get("engine: packed layers", 0.0))

    ours = "engine.name=transformers"
    assert packed("engine.name=vllm") == 0.0
    weights = SMALL.linear + SMALL.head
    assert packed(ours, "update.adapter=full") * GIB == pytest.approx(2 * weights)
    assert packed(ours, "model.dtype=float32", "update.adapter=full") * GIB == pytest.approx(4 * SMALL.linear)
    assert packed(ours) > packed(ours, "update.adapter=full")
    gpus = told(capfd, "--gpus", "1", "--set", ours)["memory_gib"]
    assert "engine: packed layers" not in gpus


@pytest.mark.parametrize(
    ("name", "billions"), [("0.5b", 0.494), ("1.5b", 1.544), ("7b", 7.616), ("32b", 32.76), ("72b", 72.71)]
)
def test_shapes_have_the_weights_that_their_names_say(name: str, billions: float) -> None:
    assert shape_of(name).parameters / 1e9 == pytest.approx(billions, rel=2e-3)


LLAMA = {
    **{"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 128},
    **{"vocab_size": 100, "head_dim": None},
}
GPT2 = {"n_embd": 64, "n_head": 4, "n_layer": 2, "vocab_size": 100, "n_positions": 128}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (json.dumps(GPT2), "config.json: no 'hidden_size'; expected a whole number"),
        (
            json.dumps({**LLAMA, "num_key_value_heads": [1, 2]}),
            r"config.json: \[1, 2\] as 'num_key_value_heads'",
        ),
        (json.dumps({**LLAMA, "num_attention_heads": 0}), "config.json: 0 as 'num_attention_heads'"),
        (json.dumps(LLAMA)[:40], r"config.json: cannot be read \(.*\); expected a model's JSON"),
        ("[]", "config.json: holds list; expected a model's JSON object"),
    ],
)
def test_a_folder_whose_shape_is_not_told_is_one_line_and_stops_no_run(
    tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(BadInput, match=said) as refusal:
        shape_of(str(tmp_path))
    assert "\n" not in str(refusal.value)
    assert known_shape(str(tmp_path)) is None


def test_a_model_of_several_kinds_has_the_shape_of_its_language_model(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(LLAMA))
    plain = shape_of(str(tmp_path))
    config.write_text(json.dumps({"text_config": LLAMA, "vision_config": {"hidden_size": 1}}))
    assert known_shape(str(tmp_path)) == shape_of(str(tmp_path)) == plain
    assert (plain.kv_heads, plain.head_dim) == (4, 16)


def test_the_adapter_of_smollm2_is_the_measured_one() -> None:
    assert SMALL.adapter(16) == 4_884_480
    assert SMALL.parameters == pytest.approx(134.5e6, rel=1e-3)
    assert SMALL.kv_bytes() == 2 * 30 * 3 * 64 * 2


@settings(deadline=None)
@given(works)
def test_more_work_takes_no_less(some: Work) -> None:
    more = dataclasses.replace(some, problems=some.problems + 1)
    longer = dataclasses.replace(some, response=some.response + 8)
    for other in (more, longer):
        assert capacity.update_seconds(SMALL, other, CPU, HERE) > capacity.update_seconds(
            SMALL, some, CPU, HERE
        )
        one, two = (capacity.decoding(SMALL, w, CPU, HERE) for w in (some, other))
        assert one is not None
        assert two is not None
        assert two.seconds > one.seconds * (1 - 1e-9)


@settings(deadline=None)
@given(works, st.sampled_from([1, 2, 4, 8]))
def test_devices_share_the_update_and_what_is_sharded(some: Work, devices: int) -> None:
    alone, together = MachineUse(), MachineUse(devices=devices)
    h100, _ = machine_of("h100")
    shape = shape_of("7b")
    ratio = capacity.update_seconds(shape, some, h100, alone) / capacity.update_seconds(
        shape, some, h100, together
    )
    assert ratio == pytest.approx(devices)
    one, many = (capacity.trainer_memory(shape, some, h100, choice) for choice in (alone, together))
    assert one["weights"] == pytest.approx(devices * many["weights"])
    assert one["activations"] == many["activations"]


def test_training_everything_takes_sixteen_bytes_a_weight_beside_the_weights() -> None:
    h100, _ = machine_of("h100")
    parts = capacity.trainer_memory(shape_of("7b"), Work(1, 1, 1, 1), h100, MachineUse(adapter_rank=None))
    states = parts["trained weights, gradients, optimiser"]
    assert states == pytest.approx(8 * parts["weights"])


def test_a_cache_that_holds_few_responses_decodes_few_side_by_side() -> None:
    some, one = Work(8, 8, 45, 32), SMALL.kv_bytes() * 77
    wide, narrow = (capacity.decoding(SMALL, some, CPU, MachineUse(cache=n * one)) for n in (64, 16))
    assert wide is not None
    assert narrow is not None
    assert (wide.side_by_side, narrow.side_by_side) == (64, 16)
    assert capacity.decoding(SMALL, some, CPU, MachineUse(cache=0.5 * one)) is None


def test_a_model_too_large_for_a_device_is_served_by_several_and_one_too_large_for_all_fits_not() -> None:
    found = plan(PlanOptions("72b", "sql", "grpo", [], gpus=8))
    assert found["sampling"]["devices_a_server"] == 4
    assert plan(PlanOptions("7b", "sql", "grpo", [], gpus=8))["sampling"]["servers"] == 8
    alone = plan(PlanOptions("72b", "sql", "grpo", [], gpus=1))
    assert not alone["fits"]
    assert not alone["seconds"]


def test_every_figure_of_a_machine_says_where_it_is_from() -> None:
    for name, facts in read_yaml(PRESETS / "machines.yaml").items():
        machine, sources = machine_of(name)
        assert set(sources) | {"memory"} == {field.name for field in dataclasses.fields(machine)}
        assert all(math.isfinite(value) for value in dataclasses.astuple(machine))
        assert facts["title"]


def test_the_command_tells_people_and_machines(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["plan", "--model", "7b", "--gpus", "8", "--task", "sql", "--price", "2.5"])
    said = capfd.readouterr().out
    assert stopped.value.code in (0, None)
    assert "assumed: data sheet" in said
    assert "prompts of 405" in said
    assert "Cost: " in said
    with pytest.raises(SystemExit) as stopped:
        cli.main(["plan", "--model", "72b", "--gpus", "1", "--json"])
    assert stopped.value.code == 1
    assert json.loads(capfd.readouterr().out)["fits"] is False


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["plan", "--model", "70b"], "did you mean '7"),
        (["plan", "--gpus", "1", "--gpu", "h10"], "did you mean 'h100'?"),
        (["plan", "--set", "rollout.sampels=1"], "unknown"),
        (["engine", "serve", "--model", "nano"], "no config.json in it"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], said: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    err = capfd.readouterr().err
    assert said in err
    assert len(err.strip().splitlines()) == 1
