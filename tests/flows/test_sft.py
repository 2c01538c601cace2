"""The warm start through the command line, and methods that stand on demonstrations."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from flows.stage_table.stages import plan
from params.load import compose
from tests.flows.conftest import NANO, Workspace, events, kill_inside, outcomes

WARM = ("--set", "sft.epochs=2", "--set", "sft.demonstrations_per_step=8")


@pytest.mark.parametrize("method", ["grpo", "erpd-iterate", "dyjr"])
def test_the_rounds_begin_with_the_warm_start_and_the_base_stays_the_base(method: str) -> None:
    params = compose("nano", "sums", method, ["rounds=3", "sft={}", "rollout.lag=1", "evaluate.every=1"])
    planned = plan(params)
    nodes = {node.place: node for node in planned}
    learns = "distil" if params.distil else "update"
    first = {f"round-01/{learns}", "round-01/rollout", "round-02/rollout"}
    for place in first:
        assert nodes[place].inputs["policy"] == "sft"
    assert nodes[f"round-02/{learns}"].inputs["policy"] == f"round-01/{learns}"
    assert nodes["evaluate_sft"].inputs["policy"] == "sft"
    assert "policy" not in nodes["round-00/evaluate"].inputs
    assert nodes["round-01/evaluate"].inputs["policy"] == f"round-01/{learns}"
    order = list(nodes)
    assert all(
        order.index(place) < order.index(node.place) for node in planned for place in node.inputs.values()
    )
    without = plan(compose("nano", "sums", method, ["rounds=3"]))
    assert not {"sft", "evaluate_sft"} & {node.place for node in without}


def test_another_runs_policy_is_named() -> None:
    planned = plan(compose("nano", "sums", "grpo", ["sft.policy=earlier"]))
    assert planned["sft"].outside == {"policy": "earlier"}
    assert plan(compose("nano", "sums", "grpo", ["sft={}"]))["sft"].outside == {}


@pytest.mark.parametrize(
    ("method", "inputs"),
    [
        ("luffy", {"update": {"problems"}, "rollout": {"problems"}}),
        ("uft", {"update": set(), "rollout": {"problems"}}),
        ("grpo", {"update": set(), "rollout": {"problems"}}),
    ],
)
def test_an_update_reads_the_problems_only_for_their_demonstrations(
    method: str, inputs: dict[str, set[str]]
) -> None:
    planned = plan(compose("nano", "sums", method, ["rounds=2"]))
    for stage, wanted in inputs.items():
        found = set(planned.at(stage, 2).inputs) & {"problems", "replay", "replay_before", "pool"}
        assert found == wanted
    reads = planned.at("rollout", 1).stage.parameters(planned.params)
    assert ("method.replay" in reads) == (method == "uft")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["--set", "sft.policy=nobody"], "sft.policy: no run or artefact 'nobody'"),
        (["--set", "sft.epoch=3"], "sft.epoch: unknown key; did you mean 'epochs'?"),
        (
            ["--method", "luffy", "--set", "replay.admit=correct"],
            "luffy takes demonstrations alone; expected",
        ),
        (["--method", "uft", "--set", "method.replay.low=0.99"], "method.replay.low must not exceed"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(
    refused: Callable[[list[str], str], None], settings: list[str], said: str
) -> None:
    refused(["run", "--name", "it", *NANO, *settings], said)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_run_killed_in_its_warm_start_ends_with_the_same_bytes(empty: Workspace) -> None:
    kill_inside(empty.start("run", "--name", "it", "--json", *NANO, *WARM), "sft", 0.2)
    assert not (empty.root / "runs" / "it" / "sft").exists()
    empty.run(*WARM)
    first = empty.policy()
    assert set(outcomes(empty.run(*WARM)).values()) == {"cached"}
    page = (empty.root / "runs" / "it" / "report.html").read_text()
    assert "The rounds begin with a warm start on 64 demonstrations" in page
    scores = json.loads((empty.root / "runs" / "it" / "evaluate_sft" / "scores.json").read_text())
    assert 0.0 <= scores["mean_at_n"]["value"] <= 1.0
    for place in (empty.root / "artefacts").iterdir():
        if place.name.startswith(("sft", "rollout", "update")):
            (place / "manifest.json").unlink()
    empty.run(*WARM)
    assert empty.policy() == first
    empty.call("run", "--name", "other", *NANO, "--set", "sft.policy=it", "--set", "rounds=1")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_methods_on_demonstrations_are_compared_by_one_command(empty: Workspace) -> None:
    methods = ("grpo", "luffy", "uft", "echorl", "echorl-luffy")
    small = [
        *("--set", "engine.name=transformers"),
        *("--set", "model.warm_start_steps=20"),
        *("--set", "rollout.problems_per_round=4"),
        *("--set", "evaluate.bootstrap_samples=50"),
    ]
    asked = ["--methods", ",".join(methods), "--task", "arithmetic", "--seeds", "1", "--budget", "rounds=1"]
    said = events(empty.call("compare", *asked, "--name", "five", "--json", *small).stdout)
    assert {event["name"] for event in said if event["event"] == "run"} == {f"five-{m}-s0" for m in methods}
    joined = json.loads((empty.root / "runs/five-luffy-s0/round-01/update/metrics.json").read_text())
    shown = json.loads((empty.root / "runs/five-uft-s0/round-01/update/metrics.json").read_text())
    assert joined["replayed"] == 4
    assert shown["uft.nll"] > 0.0
