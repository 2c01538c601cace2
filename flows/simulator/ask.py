"""What ``ostinato plan --simulate`` is asked, and its answer."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

from flows.environment import workspace
from flows.execution.overlap import overlaps
from flows.planner.plan import settings_of
from flows.simulator import sweep
from flows.simulator.figured import figured
from flows.simulator.lengths import Lengths
from flows.simulator.like import earlier
from flows.simulator.options import SimulateOptions
from flows.simulator.pool import Outages, Servers, StepTime
from flows.simulator.simulate import Setting, Simulation
from flows.simulator.speeds import Series, Speeds
from flows.stage_table.stages import table_of
from params.load import changed
from params.schema import Params
from tasks.core.device import sees_gpu, side_by_side

ROUNDS = 60
"""That are simulated at most."""
FIXED_SHARE = 0.5
"""Of a step with all responses under way, what does not depend on their number; of a speed that is given."""
CPU_CORES = 2
"""Of the measured machine."""


@dataclass(frozen=True)
class _Known:
    """What all settings have in common."""

    asked: SimulateOptions
    params: Params
    speeds: Speeds
    lengths: Lengths
    servers: Servers
    cores: int
    on_gpu: bool

    @property
    def apart(self) -> bool:
        """Whether servers sample on machines of their own."""
        return bool(self.params.engine.servers or self.asked.servers or self.asked.server_speeds)

    @property
    def asks_servers(self) -> bool:
        """Whether it is servers that sample, of which there could be more."""
        return self.apart or self.params.engine.name == "server"

    @property
    def choice(self) -> sweep.Choice:
        """The run's own."""
        rollout = self.params.rollout
        servers = 1 if rollout.shards > 1 else len(self.servers.speeds)
        return {"lag": rollout.lag, "servers": servers, "shards": rollout.shards}

    def other(self, choice: sweep.Choice) -> Setting:
        """The run with another lag, servers as fast as the first, and shards; it overlaps if it can."""
        words = [f"rollout.{name}={choice[name]}" for name in ("lag", "shards")]
        engines = choice["servers"] if self.asks_servers else choice["shards"]
        speeds = self.servers.speeds
        if self.asks_servers or choice["shards"] != self.params.rollout.shards:
            speeds = speeds if engines == len(speeds) else speeds[:1] * engines
        return self.setting(changed(self.params, [*words, "rollout.overlap=null"]), speeds)

    def setting(self, params: Params, speeds: tuple[float, ...]) -> Setting:
        """The run with these parameters, and engines of these speeds."""
        rollout, threads = params.rollout, (params.threads or self.cores) if self.cores else 0
        free = rollout.lag > 0 and rollout.overlap is not False
        return Setting(
            params=params,
            servers=replace(self.servers, speeds=speeds, dealt=rollout.shards > 1),
            overlap=free if self.apart else overlaps(params, self.on_gpu),
            cores=self.cores,
            engine_cores=0 if self.apart else threads * len(speeds),
            trainer_cores=threads,
            outages=Outages(self.asked.losses_per_hour, self.asked.back_after, self.asked.seed),
            seed=self.asked.seed,
        )


def simulate(asked: SimulateOptions) -> dict[str, Any]:
    """The chosen setting's figures, the ``sweep``, the ``best`` of it and ``why``, and where what was taken
    is from. Raises ``BadInput``."""
    known, kept = _known(asked), dict[Any, Any]()
    own = known.setting(known.params, known.servers.speeds)
    first = Simulation(own, known.speeds, known.lengths, kept)
    figures = known.choice | {"overlap": own.overlap} | first.figures() | {"uneven": first.uneven()}
    servers = len(known.servers.speeds) if known.params.rollout.shards == 1 else 1
    choices = sweep.choices(None if known.asks_servers else servers)
    rows = [_row(known, choice, kept) for choice in choices]
    return {
        "like": asked.like,
        "model": None if asked.like else asked.plan.model,
        "chosen": figures,
        "sweep": rows,
        "best": sweep.best(rows),
        "why": sweep.sentence(rows),
        "step": {"fixed": known.speeds.step.fixed, "each": known.speeds.step.each},
        "cores": known.cores,
        "sources": dict(known.speeds.sources),
    }


def _row(known: _Known, choice: sweep.Choice, kept: dict[Any, Any]) -> dict[str, Any]:
    setting = known.other(choice)
    found = Simulation(setting, known.speeds, known.lengths, kept).figures()
    told = ("rounds_per_hour", "idle", "rounds_behind", "servers_idle", "tokens_per_second")
    return choice | {"overlap": setting.overlap} | {name: found[name] for name in told}


def _known(asked: SimulateOptions) -> _Known:
    """What is taken from an earlier run or from the planner's figures, and then from the options."""
    known = _like(asked, asked.like) if asked.like else _reckoned(asked)
    params, servers, lengths = known.params, known.servers, known.lengths
    sources = dict(known.speeds.sources)
    if params.rounds > ROUNDS:
        sources["rounds"] = f"the first {ROUNDS} of {params.rounds}"
        params = changed(params, [f"rounds={ROUNDS}"])
    if known.apart:
        usual = (1.0,) * (asked.servers or len(servers.speeds))
        servers = replace(servers, speeds=asked.server_speeds or usual, whole_groups=False)
    if asked.lengths:
        lengths = Lengths(asked.lengths[0], asked.lengths[1])
        sources["lengths"] = f"log-normal, mean {lengths.mean:g}, sigma {lengths.sigma:g}"
    speeds = _overridden(asked, params, replace(known.speeds, sources=sources), servers)
    return replace(known, params=params, speeds=speeds, lengths=lengths, servers=servers)


def _like(asked: SimulateOptions, run: str) -> _Known:
    on_gpu, available = sees_gpu(), len(os.sched_getaffinity(0))
    cores = available if asked.cores is None and not on_gpu else asked.cores or 0
    found = earlier(workspace(), run, lambda params: _servers_of(params, on_gpu))
    params = changed(found.params, asked.plan.settings)
    return _Known(asked, params, found.speeds, found.lengths, _servers_of(params, on_gpu), cores, on_gpu)


def _reckoned(asked: SimulateOptions) -> _Known:
    plan = asked.plan
    on_gpu, params = plan.gpus > 0, settings_of(plan)
    cores = CPU_CORES if asked.cores is None and not on_gpu else asked.cores or 0
    engine, servers = params.engine, _servers_of(params, on_gpu)
    elsewhere = bool(engine.servers or asked.servers or asked.server_speeds)
    found = figured(plan, params, elsewhere or 0 not in (engine.gpus or (0,)))
    servers = replace(servers, capacity=min(servers.capacity, found.side_by_side))
    if engine.name in ("auto", "vllm") and len(servers.speeds) == 1:
        servers = replace(servers, speeds=(1.0,) * found.servers)
    return _Known(asked, params, found.speeds, Lengths(found.mean), servers, cores, on_gpu)


def _servers_of(params: Params, on_gpu: bool) -> Servers:
    """Those with which a run samples, all of one speed."""
    engine = params.engine
    named = len(engine.servers) + engine.start_servers
    count = named or params.rollout.shards
    return Servers(
        (1.0,) * count,
        side_by_side(engine, on_gpu),
        whole_groups=engine.name == "transformers",
        dealt=not named and params.rollout.shards > 1,
    )


def _overridden(asked: SimulateOptions, params: Params, speeds: Speeds, servers: Servers) -> Speeds:
    """With the speeds that the options say."""
    rollout, sources = params.rollout, dict(speeds.sources)
    if asked.step_seconds:
        speeds = replace(speeds, step=StepTime(*asked.step_seconds))
        sources["step"] = "--step-seconds"
    elif asked.tokens_per_second:
        responses = rollout.problems_per_round * rollout.samples_per_problem
        together = min(servers.capacity, -(-responses // len(servers.speeds)))
        whole = together / asked.tokens_per_second
        speeds = replace(speeds, step=StepTime(FIXED_SHARE * whole, (1 - FIXED_SHARE) * whole / together))
        sources["step"] = (
            f"--tokens-per-second, of a server with {together} under way; half of a step's time is assumed "
            "to be fixed"
        )
    if asked.update_seconds or asked.learned_tokens_per_second:
        usual = sum(speeds.learned.values()) / len(speeds.learned)
        seconds = asked.update_seconds or usual / (asked.learned_tokens_per_second or 1.0)
        policies = [row.name for row in table_of(params).values() if row.makes_policies()]
        learned = {} if asked.update_seconds else {1: usual}
        rest = {**speeds.rest, **{name: Series({1: seconds}) for name in policies}}
        speeds = replace(speeds, rest=rest, learned=learned)
        sources["updates"] = "--update-seconds" if asked.update_seconds else "--learned-tokens-per-second"
    return replace(speeds, sources=sources)
