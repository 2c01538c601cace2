"""A run on paper: its own plan and schedule, with stages that take what is said of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from flows.execution.schedule import Schedule
from flows.simulator.lengths import Lengths
from flows.simulator.pool import Groups, Outages, Sampled, Servers, sample
from flows.simulator.speeds import Speeds
from flows.simulator.timeline import InTurn, Made, Work, timeline
from flows.stage_table.stages import Node, Plan
from params.schema import Params

ROLLOUT = "rollout"


@dataclass(frozen=True)
class Setting:
    """What is simulated."""

    params: Params
    servers: Servers
    overlap: bool
    cores: int = 0
    """Of this machine; 0: no two stages share any."""
    engine_cores: int = 0
    """Of them that sampling takes; 0: none."""
    trainer_cores: int = 0
    outages: Outages = field(default_factory=Outages)
    seed: int = 0


@dataclass
class Simulation:
    """One run. Equal settings give equal figures."""

    setting: Setting
    speeds: Speeds
    lengths: Lengths
    known: dict[Any, Any] = field(default_factory=dict)
    """Lengths, and how they were sampled; several simulations of the same speeds and seed may share it."""
    sampled: dict[int, Sampled] = field(default_factory=dict)
    """By round, how it was sampled."""

    @cached_property
    def plan(self) -> Plan:
        """The run's stages."""
        return Plan(self.setting.params)

    @cached_property
    def made(self) -> list[Made]:
        """Every stage, in the order in which they end."""
        order = Schedule(self.plan) if self.setting.overlap else InTurn(self.plan)
        return timeline(order, self._work, self.setting.cores)

    def groups(self, round: int) -> Groups:
        """The lengths of a round's responses."""
        if round not in self.known:
            rollout = self.setting.params.rollout
            size = rollout.problems_per_round, rollout.samples_per_problem
            self.known[round] = self.lengths.of(round, *size, rollout.max_response_tokens, self.setting.seed)
        found: Groups = self.known[round]
        return found

    def tokens(self, round: int) -> float:
        """Of a round's responses."""
        return float(sum(map(sum, self.groups(round))))

    def _work(self, node: Node, now: float) -> Work:
        speeds, seed, stage, round = self.speeds, self.setting.seed, node.stage, node.round

        def of(parts: Any, what: str) -> float:
            return float(parts[stage.name].at(round, seed, stage.name + what)) if stage.name in parts else 0.0

        seconds, around = of(speeds.rest, ""), of(speeds.around, "around")
        around += speeds.turn if self.setting.overlap else 0.0
        if stage.name == ROLLOUT:
            self.sampled[round] = self._sample(round, now + seconds)
            seconds += self.sampled[round].seconds
        elif stage.role.kind == "learn" and round:
            seconds *= speeds.share(round, self.tokens(round))
        else:
            seconds += of(speeds.sampling, "") * speeds.sampled_by / sum(self.setting.servers.speeds)
        cores = {
            "engine": self.setting.engine_cores,
            "trainer": self.setting.trainer_cores,
            "judge": min(1, self.setting.cores),
        }
        return Work(seconds, around, cores[stage.resource])

    def _sample(self, round: int, now: float) -> Sampled:
        step, servers, outages = self.speeds.step, self.setting.servers, self.setting.outages
        if outages.per_hour:
            return sample(self.groups(round), step, servers, now, outages)
        if (round, servers) not in self.known:
            self.known[round, servers] = sample(self.groups(round), step, servers)
        found: Sampled = self.known[round, servers]
        return found

    def figures(self) -> dict[str, Any]:
        """What it comes to; shares of 1, seconds, tokens."""
        rounds, made = self.setting.params.rounds, self.made
        of_rounds = [each for each in made if not each.node.stage.once]
        began = min(each.begin for each in of_rounds)
        seconds = max(each.settled for each in made) - began
        tokens = sum(self.tokens(round) for round in self.sampled)
        busy, stages = defaultdict[str, float](float), defaultdict[str, float](float)
        for each in of_rounds:
            busy[each.node.stage.resource] += each.end - each.begin
            stages[each.node.stage.name] += each.end - each.begin
        idle = {name: _share(1 - busy[name] / seconds) if seconds else 0.0 for name in ("engine", "trainer")}
        return {
            "rounds": rounds,
            "preparation_seconds": began,
            "seconds": seconds,
            "rounds_per_hour": 3600 * rounds / seconds if seconds else 0.0,
            "tokens_per_second": tokens / seconds if seconds else 0.0,
            "round_seconds": self._steady(seconds),
            "stage_seconds": {name: took / rounds for name, took in stages.items()},
            "idle": idle,
            **self._sampling(),
            **self._staleness(),
        }

    def _steady(self, seconds: float) -> float:
        """From the first policy to the last, a round."""
        ends = {each.node.round: each.settled for each in self.made if each.node.stage.makes_policies()}
        first, last = min(ends), max(ends)
        return (ends[last] - ends[first]) / (last - first) if last > first else seconds

    def _sampling(self) -> dict[str, Any]:
        sampled = list(self.sampled.values())
        took = sum(each.seconds for each in sampled)
        idle = np.array([each.idle for each in sampled]) if sampled else np.zeros((1, 1))
        weights = np.array([each.seconds for each in sampled]) if took else None
        return {
            "servers_idle": [_share(float(share)) for share in np.average(idle, axis=0, weights=weights)],
            "last_tenth": _share(sum(each.last for each in sampled) / took) if took else 0.0,
            "begun_anew": sum(each.lost for each in sampled) / max(1, len(sampled)),
        }

    def uneven(self) -> float:
        """The share of the sampling that would be saved if a round's responses were all equally long."""
        even = took = 0.0
        for round, sampled in self.sampled.items():
            groups = self.groups(round)
            mean = self.tokens(round) / sum(map(len, groups))
            alike = [[mean] * len(group) for group in groups]
            even += sample(alike, self.speeds.step, self.setting.servers).seconds
            took += sampled.seconds
        return _share(1 - even / took) if took else 0.0

    def _staleness(self) -> dict[str, Any]:
        """Of the policies that sampled, behind those that learned: rounds, and seconds in between."""
        rollouts = {each.node.round: each for each in self.made if each.node.stage.name == ROLLOUT}
        ages, waits = Counter[int](), []
        for each in self.made:
            node = each.node
            if not node.stage.makes_policies() or node.round not in rollouts:
                continue
            rollout = rollouts[node.round]
            ages[max(0, node.round - 1 - self._policy_of(rollout.node))] += sum(
                map(len, self.groups(node.round))
            )
            waits.append(each.begin - rollout.end)
        count = sum(ages.values())
        return {
            "rounds_behind": sum(age * answers for age, answers in ages.items()) / count if count else 0.0,
            "answers_by_age": {str(age): answers / count for age, answers in sorted(ages.items())},
            "seconds_before_learned": float(np.mean(waits)) if waits else 0.0,
        }

    def _policy_of(self, rollout: Node) -> int:
        place = rollout.inputs.get("policy")
        return self.plan[place].round if place else 0


def _share(value: float) -> float:
    """Kept within [0, 1] where rounding would leave it."""
    return min(1.0, max(0.0, value))


def busy_seconds(made: Sequence[Made], resource: str) -> float:
    """For how long a resource was at work in the rounds."""
    of_rounds = (each for each in made if not each.node.stage.once)
    return sum(each.end - each.begin for each in of_rounds if each.node.stage.resource == resource)
