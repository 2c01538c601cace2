"""The laws of a simulated run, and what the command says."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows import cli
from flows.simulator.lengths import Lengths
from flows.simulator.like import earlier, fitted
from flows.simulator.pool import Outages, Servers, StepTime, sample
from flows.simulator.simulate import Setting, Simulation, busy_seconds
from flows.simulator.speeds import Series, Speeds
from flows.simulator.sweep import best, choices, named, sentence
from params.base import BadInput
from params.load import compose
from params.schema import Params
from tasks.artefacts.record import Record
from tests.flows.conftest import Workspace
from tests.tasks.report.synthetic_run import SyntheticRun

STEPS = st.builds(StepTime, st.floats(0.001, 1.0), st.floats(0.0, 0.1))
GROUPS = st.lists(st.lists(st.integers(1, 200), min_size=1, max_size=6), min_size=1, max_size=12)
TIMES = st.floats(0.01, 20.0)
ROUNDS = 6


@functools.cache
def run_params(lag: int, every: int = 2, rounds: int = ROUNDS) -> Params:
    return compose(
        *("nano", "sums", "grpo"),
        [
            *(f"rounds={rounds}", f"rollout.lag={lag}", f"evaluate.every={every}"),
            *("rollout.problems_per_round=4", "rollout.samples_per_problem=4", "engine.name=transformers"),
        ],
    )


def speeds(step: StepTime, update: float = 1.0, evaluation: float = 0.0, around: float = 0.0) -> Speeds:
    rest = {"update": Series({1: update}), "evaluate": Series({0: evaluation})}
    return Speeds(
        step, rest, around={name: Series({1: around}) for name in ("rollout", "update", "evaluate")}
    )


def simulation(
    of: Speeds,
    lag: int = 1,
    lengths: Lengths | None = None,
    every: int = 2,
    rounds: int = ROUNDS,
    **more: Any,
) -> Simulation:
    asked = Setting(run_params(lag, every, rounds), **({"servers": Servers(), "overlap": lag > 0} | more))
    return Simulation(asked, of, lengths or Lengths(5.0, 0.7))


@settings(deadline=None)
@given(STEPS, TIMES, TIMES, st.integers(1, 3), st.integers(0, 9))
def test_a_lag_never_makes_a_run_slower(
    step: StepTime, update: float, evaluation: float, lag: int, seed: int
) -> None:
    of = speeds(step, update, evaluation, around=0.1)
    turns, beside = (simulation(of, each, seed=seed).figures() for each in (0, lag))
    assert beside["seconds"] <= turns["seconds"] * (1 + 1e-9)
    shared = simulation(of, lag, seed=seed, cores=1, engine_cores=1, trainer_cores=1).figures()
    assert beside["seconds"] * (1 - 1e-9) <= shared["seconds"]


@settings(deadline=None)
@given(STEPS, TIMES, TIMES, st.integers(0, 2))
def test_what_takes_turns_takes_the_sum_of_its_stages(
    step: StepTime, update: float, evaluation: float, lag: int
) -> None:
    run = simulation(speeds(step, update, evaluation, around=0.25), lag, overlap=False)
    found = run.figures()
    rollouts = sum(sample(run.groups(round), step, Servers()).seconds for round in range(1, ROUNDS + 1))
    evaluations = 1 + ROUNDS // 2
    parts = rollouts + ROUNDS * update + evaluations * evaluation + (2 * ROUNDS + evaluations) * 0.25
    assert found["seconds"] == pytest.approx(parts)
    assert found["rounds_per_hour"] == pytest.approx(3600 * ROUNDS / parts)


@settings(deadline=None)
@given(STEPS, TIMES, TIMES, st.integers(0, 3), st.integers(0, 2), st.floats(0.0, 30.0))
def test_no_run_is_faster_than_what_it_works_with(
    step: StepTime, update: float, evaluation: float, lag: int, cores: int, losses: float
) -> None:
    run = simulation(
        speeds(step, update, evaluation),
        lag,
        servers=Servers((1.0, 0.5), 8),
        outages=Outages(losses, 5.0),
        cores=cores,
        engine_cores=cores and 1,
        trainer_cores=cores and 1,
    )
    found = run.figures()
    for resource in ("engine", "trainer"):
        busy = busy_seconds(run.made, resource)
        assert found["rounds_per_hour"] * busy <= 3600 * ROUNDS * (1 + 1e-9)
        assert found["idle"][resource] == pytest.approx(1 - busy / found["seconds"], abs=1e-6)
    shares = [*found["idle"].values(), *found["servers_idle"], found["last_tenth"], run.uneven()]
    assert all(0 <= share <= 1 for share in shares)
    assert sum(found["answers_by_age"].values()) == pytest.approx(1)


@settings(deadline=None, max_examples=30)
@given(STEPS, TIMES, st.integers(0, 2), st.floats(0.0, 30.0), st.integers(0, 99))
def test_one_seed_gives_one_run(step: StepTime, update: float, lag: int, losses: float, seed: int) -> None:
    def told() -> dict[str, Any]:
        outages = Outages(losses, 5.0, seed)
        return simulation(speeds(step, update), lag, seed=seed, outages=outages).figures()

    assert told() == told()


def test_with_perfect_balance_a_lag_makes_a_long_run_twice_as_fast() -> None:
    same, of = Lengths(4.0), speeds(StepTime(0.25, 0.0), update=1.0)
    turns, beside = (simulation(of, lag, same, every=1000, rounds=200).figures()["seconds"] for lag in (0, 1))
    assert turns == pytest.approx(400)
    assert beside == pytest.approx(201)
    assert simulation(of, 1, same, every=1000, rounds=200).figures()["round_seconds"] == pytest.approx(1)
    on_one_core = {"cores": 1, "engine_cores": 1, "trainer_cores": 1}
    shared = simulation(of, 1, same, every=1000, rounds=200, **on_one_core).figures()["seconds"]
    assert shared == pytest.approx(400)


def test_staleness_is_the_lag_once_there_are_policies() -> None:
    for lag in (0, 1, 2):
        found = simulation(speeds(StepTime(0.1, 0.0)), lag).figures()
        ages = {str(age): 1 / ROUNDS for age in range(lag)} | {str(lag): (ROUNDS - lag) / ROUNDS}
        assert found["answers_by_age"] == pytest.approx(ages)


@settings(deadline=None)
@given(
    STEPS,
    st.lists(st.lists(st.integers(1, 99), min_size=4, max_size=4), min_size=1, max_size=16),
    st.integers(0, 2),
)
def test_twice_the_servers_are_never_slower_where_all_fits_side_by_side(
    step: StepTime, groups: list[list[int]], doublings: int
) -> None:
    few, many = (sample(groups, step, Servers((1.0,) * 2**n, 64)) for n in (doublings, doublings + 1))
    assert many.seconds <= few.seconds * (1 + 1e-9)


@settings(deadline=None)
@given(STEPS, GROUPS, st.integers(2, 8), st.integers(1, 16), st.booleans())
def test_several_servers_are_never_slower_than_one_whose_step_is_fixed(
    step: StepTime, groups: list[list[int]], count: int, capacity: int, whole: bool
) -> None:
    fixed = replace(step, each=0.0)
    one, many = (sample(groups, fixed, Servers((1.0,) * n, capacity, whole)) for n in (1, count))
    assert many.seconds <= one.seconds * (1 + 1e-9)


@settings(deadline=None)
@given(STEPS, GROUPS, st.integers(1, 4), st.integers(1, 16), st.booleans(), st.booleans())
def test_a_round_takes_its_longest_response_and_no_more_than_one_at_a_time(
    step: StepTime, groups: list[list[int]], count: int, capacity: int, whole: bool, dealt: bool
) -> None:
    found = sample(groups, step, Servers((1.0,) * count, capacity, whole, dealt))
    lengths = [length for group in groups for length in group]
    assert found.seconds >= max(lengths) * step.of(1) * (1 - 1e-9)
    assert found.seconds <= sum(lengths) * step.of(1) * (1 + 1e-9)
    assert found.seconds * count >= sum(lengths) * step.each * (1 - 1e-9)
    assert found.last <= found.seconds * (1 + 1e-9)


@settings(deadline=None)
@given(GROUPS, st.floats(1.0, 60.0), st.integers(1, 4), st.integers(0, 20))
def test_what_a_lost_server_held_is_done_by_the_others(
    groups: list[list[int]], per_hour: float, count: int, seed: int
) -> None:
    step, servers = StepTime(0.1, 0.01), Servers((1.0,) * count, 8)
    outages = Outages(per_hour, 30.0, seed)
    whole, lossy = (sample(groups, step, servers, 0.0, each) for each in (None, outages))
    assert lossy.seconds >= max(map(max, groups)) * step.of(1) * (1 - 1e-9)
    if min(next(outages.of(server))[0] for server in range(count)) >= whole.seconds:
        assert lossy == whole


def test_a_lost_server_costs_what_it_had_done() -> None:
    """One server, away from the middle of its response on: it begins anew when it is back."""
    outages = Outages(360.0, 7.0, seed=1)
    lost, back = next(outages.of(0))
    found = sample([[10]], StepTime((lost + 1.0) / 10, 0.0), Servers(), 0.0, outages)
    assert found.lost >= 1
    assert found.seconds >= back + lost + 1.0 - 1e-9


def test_servers_that_are_lost_sooner_than_they_sample_are_an_error() -> None:
    with pytest.raises(Exception, match="--losses-per-hour: servers are lost sooner"):
        sample([[1000] * 4], StepTime(1.0, 0.0), Servers(), 0.0, Outages(3600.0, 1.0))


@settings(deadline=None, max_examples=30)
@given(st.floats(0.001, 0.1), st.floats(0.0001, 0.01), st.integers(0, 99))
def test_a_step_is_found_again_from_rounds_that_it_made(fixed: float, each: float, seed: int) -> None:
    draws, servers = np.random.default_rng(seed), Servers()
    rounds = [draws.integers(1, 50, (4, 4)).tolist() for _ in range(8)]
    made = [sample(groups, StepTime(fixed, each), servers).seconds for groups in rounds]
    found = fitted(rounds, made, servers)
    assert (found.fixed, found.each) == pytest.approx((fixed, each), rel=1e-6)
    noisy = [seconds * draws.uniform(0.5, 2) for seconds in made]
    total = sum(sample(groups, fitted(rounds, noisy, servers), servers).seconds for groups in rounds)
    assert total == pytest.approx(sum(noisy))


def test_the_best_has_the_fewest_stale_rounds_of_those_that_are_nearly_as_fast() -> None:
    def row(lag: int, servers: int, rate: float) -> dict[str, Any]:
        return {"lag": lag, "servers": servers, "shards": 1, "rounds_per_hour": rate, "rounds_behind": lag}

    rows = [row(0, 8, 94.0), row(1, 2, 95.5), row(1, 4, 96.0), row(2, 8, 100.0)]
    assert named(best(rows)) == "lag 1, 2 servers"
    assert "96% of the fastest's (lag 2, 8 servers)" in sentence(rows)
    assert best([*rows, row(0, 8, 99.0)])["lag"] == 0
    assert len(list(choices(None))) == 12
    assert {(each["lag"], each["shards"]) for each in choices(1)} == {
        (lag, shards) for lag in (0, 1, 2) for shards in (1, 2, 4)
    }


def told(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["plan", "--simulate", *arguments])
    said = capfd.readouterr()
    assert stopped.value.code in (0, None), said.err
    return said.out


def test_the_command_simulates_a_machine_that_is_not_here(capfd: pytest.CaptureFixture[str]) -> None:
    asked = ["--model", "7b", "--gpus", "8", "--task", "sql", "--servers", "2", "--lengths", "200,0.8"]
    asked += ["--set", "rollout.lag=1", "--set", "rollout.max_response_tokens=512", "--set", "rounds=6"]
    found = json.loads(told(capfd, *asked, "--losses-per-hour", "20", "--json"))
    assert len(found["sweep"]) == 12
    assert found["chosen"]["overlap"]
    assert len(found["chosen"]["servers_idle"]) == 2
    assert found["best"] in found["sweep"]
    assert "Best by our rule: lag" in told(capfd, *asked)


def test_on_a_gpu_that_both_share_nothing_overlaps(capfd: pytest.CaptureFixture[str]) -> None:
    shared = ["--model", "7b", "--gpus", "4", "--set", "rollout.lag=1", "--set", "rounds=3", "--json"]
    assert not json.loads(told(capfd, *shared))["chosen"]["overlap"]
    apart = [*shared, "--set", "engine.name=vllm", "--set", "engine.gpus=[2, 3]"]
    assert json.loads(told(capfd, *apart))["chosen"]["overlap"]


def test_shards_overlap_with_the_update_where_a_lag_lets_them(capfd: pytest.CaptureFixture[str]) -> None:
    """As the run itself does: a part of a rollout holds the engine, not the trainer."""
    words = ["--step-seconds", "0.5,0", "--update-seconds", "40", "--lengths", "80,0", "--cores", "0"]
    found = json.loads(told(capfd, *words, "--set", "rounds=6", "--json"))
    rows = {(row["lag"], row["shards"]): row for row in found["sweep"]}
    assert [rows[lag, 2]["overlap"] for lag in (0, 1)] == [False, True]
    assert rows[1, 2]["rounds_per_hour"] > 1.2 * rows[0, 2]["rounds_per_hour"]


def test_speeds_can_be_said(capfd: pytest.CaptureFixture[str]) -> None:
    words = ["--step-seconds", "0.5,0", "--update-seconds", "7", "--lengths", "4,0", "--cores", "0"]
    found = json.loads(told(capfd, *words, "--set", "rounds=4", "--set", "rollout.lag=1", "--json"))
    assert found["chosen"]["stage_seconds"]["update"] == pytest.approx(7)
    assert found["step"] == {"fixed": 0.5, "each": 0.0}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--servers", "2"], "--servers: says something of a simulation; expected --simulate"),
        (["--simulate", "--like", "none"], "no such run"),
        (["--simulate", "--like", "it", "--gpus", "2"], "--gpus: --like it says it"),
        (["--simulate", "--lengths", "12"], "--lengths 12: expected 2 numbers"),
        (["--simulate", "--lengths", "0,1"], "--lengths: a mean of 0 tokens"),
        (["--simulate", "--tokens-per-second", "0"], "--tokens-per-second 0: expected a number above 0"),
        (["--simulate", "--tokens-per-second", "nan"], "expected a number above 0"),
        (["--simulate", "--step-seconds", "0,0"], "a step of no time"),
        (["--simulate", "--step-seconds", "1,1", "--tokens-per-second", "1"], "says the same"),
        (["--simulate", "--servers", "2", "--server-speeds", "1"], "--servers 2: 1 are in"),
        (["--simulate", "--losses-per-hour", "-1"], "expected a number of 0 or more"),
        (["--simulate", "--losses-per-hour", "1e8"], "--losses-per-hour 1e+08: expected at most 1e+06"),
        (["--simulate", "--step-seconds", "1e308,1e308"], "numbers of 0 or more with commas between, within"),
        (["--simulate", "--update-seconds", "1e300"], "--update-seconds 1e+300: expected a number above 0"),
        (["--simulate", "--price", "1"], "--price: a simulation has no cost"),
        (["--simulate", "--gpus", "1", "--set", "rollout.lag=1", "--set", "rollout.overlap=true"], "GPU"),
    ],
)
def test_bad_options_are_one_line(
    arguments: list[str], said: str, refused: Callable[[list[str], str], None]
) -> None:
    refused(["plan", *arguments], said)


def test_a_run_whose_answers_are_anothers_tells_no_speed_of_sampling(tmp_path: Path) -> None:
    SyntheticRun(tmp_path / "runs" / "branch", rounds=2).write()
    with pytest.raises(BadInput, match="--like branch: its rollouts are another run's answers; expected"):
        earlier(tmp_path, "branch", lambda params: Servers())
    sampled = SyntheticRun(tmp_path / "runs" / "it", rounds=2)
    sampled.measured["rollout"] = {"sampling_seconds": 3.0}
    sampled.write()
    assert earlier(tmp_path, "it", lambda params: Servers()).speeds.learned.keys() == {1, 2}


@pytest.mark.long
@pytest.mark.ci
def test_a_run_is_told_from_its_own_parts(
    finished: Workspace, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its stages measured of themselves adds up to what the run took by the clock."""
    monkeypatch.setenv("OSTINATO_HOME", str(finished.root))
    record = Record.read(finished.root / "runs" / "it")
    found = json.loads(told(capfd, "--like", "it", "--cores", "1", "--json"))["chosen"]
    once = [step.elapsed for step in record.steps if step.place in ("model", "problems")]
    assert found["seconds"] == pytest.approx(record.steps[-1].elapsed - max(once), rel=0.02)
    assert found["stage_seconds"]["update"] == pytest.approx(_measured(finished, "update") / 2, rel=1e-6)
    assert found["stage_seconds"]["rollout"] == pytest.approx(_measured(finished, "rollout") / 2, rel=1e-6)
    assert found["preparation_seconds"] == pytest.approx(max(once), rel=0.02)
    more = ["--set", "rollout.lag=1", "--servers", "2", "--lengths", "8,0.5", "--set", "rounds=5"]
    other = json.loads(told(capfd, "--like", "it", *more, "--json"))
    assert other["chosen"]["overlap"]
    assert other["chosen"]["rounds"] == 5


def _measured(of: Workspace, stage: str) -> float:
    manifests = (of.root / "runs" / "it").glob(f"round-*/{stage}/manifest.json")
    return sum(json.loads(path.read_text())["measured"]["stage_seconds"] for path in manifests)
