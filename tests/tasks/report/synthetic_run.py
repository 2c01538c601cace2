"""A finished or half-finished run that no model made, for the report: realistic numbers, real artefacts."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from params.load import compose
from params.schema import Params
from tasks.artefacts.artefact import Artefact, Source, seal, write_json
from tasks.artefacts.record import Record, Step
from tasks.artefacts.tables import ROLLOUTS, write_table
from tasks.evaluate.scores import ANSWERS, scores, tally
from tests.conftest import ROLES

HELD_OUT = 48
HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


def skill(round: int, rounds: int, level: int) -> float:
    """The chance of a right answer: low, then rising along an S."""
    reached = 1 / (1 + np.exp(-9 * (round / rounds - 0.38)))
    return float(np.clip(0.16 + 0.74 * reached - 0.09 * (level - 1), 0.02, 0.97))


class SyntheticRun:
    """Writes ``runs/NAME`` the way the flow does."""

    def __init__(
        self,
        directory: Path,
        rounds: int = 20,
        hostile: bool = False,
        replays: bool = False,
        **settings: Any,
    ) -> None:
        self.replays = replays
        self.measured: dict[str, dict[str, float]] = {}  # by stage, beside its seconds
        extra = [f"{key}={value}" for key, value in settings.items()]
        settings = [f"rounds={rounds}", "evaluate.every=5", *extra]
        self.params: Params = compose("nano", "arithmetic", "grpo", settings)
        self.directory = directory
        self.hostile = hostile
        self.record = Record(
            name=directory.name,
            command=f"ostinato run --model nano --task arithmetic --method grpo --name {directory.name}",
            params=self.params.model_dump(mode="json"),
            started="2026-03-01T02:00:00+00:00",
        )
        self._made: dict[str, Artefact] = {}
        self._chance = np.random.default_rng(7)
        draws = self._chance.integers(2, 99, size=(HELD_OUT, 2))
        self.questions = [
            (f"held-out-{i:03d}", f"{a} + {b} =", str(a + b), i % 3 + 1) for i, (a, b) in enumerate(draws)
        ]
        if hostile:
            self.questions[0] = ("held-out-000", f"1 + 1 = {HOSTILE}", "2", 1)

    def write(self, through: int | None = None, evaluated: bool = True, cached: int = 0) -> Path:
        """Everything up to the round ``through``; the first ``cached`` rounds come from the cache."""
        rounds = self.params.rounds
        last = rounds if through is None else through
        for place in ("model", "problems"):
            self._artefact(place, 0, {}, lambda out: write_json(out / "facts.json", {}), 2.1, cached > 0)
        for round in range(last + 1):
            old = 0 < round <= cached
            if round:
                self._round(round, old)
            due = round == 0 or round % self.params.evaluate.every == 0 or round == rounds
            if evaluated and due:
                inputs = {"model": "model", "problems": "problems"} | (
                    {"policy": f"round-{round:02d}/update"} if round else {}
                )
                self._artefact(
                    f"round-{round:02d}/evaluate",
                    round,
                    inputs,
                    lambda out, r=round: self._evaluate(out, r),
                    9.4,
                    old,
                )
        self.record.seconds = sum(step.seconds for step in self.record.steps) + 6.0
        self.record.finished = last == rounds
        self.record.write(self.directory)
        return self.directory

    def _round(self, round: int, old: bool) -> None:
        here, before = f"round-{round:02d}", f"round-{round - 1:02d}"
        policy = {"policy": f"{before}/update"} if round > 1 else {}
        replay = {"replay": f"{before}/replay"} if round > 1 else {}
        inputs = {"model": "model", "problems": "problems", **policy}
        self._artefact(f"{here}/rollout", round, inputs, lambda out: self._rollout(out, round), 6.2, old)
        self._artefact(
            f"{here}/replay",
            round,
            {"rollout": f"{here}/rollout", **replay},
            lambda out: self._replay(out, round),
            0.1,
            old,
        )
        self._artefact(
            f"{here}/update",
            round,
            {"model": "model", "rollout": f"{here}/rollout", **policy, **replay},
            lambda out: self._update(out, round),
            8.3,
            old,
        )

    def _artefact(
        self, place: str, round: int, inputs: dict[str, str], fill: Any, seconds: float, old: bool
    ) -> None:
        out = self.directory / place
        out.mkdir(parents=True)
        fill(out)
        stage = place.rpartition("/")[2]
        taken = float(seconds * self._chance.uniform(0.85, 1.2))
        seal(
            out,
            stage=stage,
            role=ROLES[stage],
            round=round,
            fingerprint=f"{hash_text(place)}",
            seed=self.params.seed,
            params={},
            inputs={
                name: Source(stage=a.manifest.stage, fingerprint=a.fingerprint, digest=a.digest)
                for name, a in ((name, self._made[source]) for name, source in inputs.items())
            },
            code={"tasks.x": hash_text("code")},
            versions={"torch": "2.13.0", "transformers": "5.19.0"},
            measured={"stage_seconds": taken, **self.measured.get(stage, {})},
        )
        self._made[place] = artefact = Artefact.open(out)
        self.record.steps.append(
            Step(
                place=place,
                stage=stage,
                role=ROLES[stage],
                round=round,
                fingerprint=artefact.fingerprint,
                digest=artefact.digest,
                outcome="cached" if old else "made",
                seconds=0.04 if old else taken,
            )
        )

    def _answer(self, gold: str, chance: float) -> tuple[str, float | None, str | None, bool]:
        draw = self._chance.random()
        if draw < chance:
            return gold, 1.0, None, False
        if draw > 0.995:
            return "9" * 30, None, "the judge took longer than 5 s", True
        if draw > 0.97:
            return "the answer is " * 4, 0.0, "no number in the answer", True
        return (
            str(int(gold) + int(self._chance.integers(1, 12)) * int(self._chance.choice([-1, 1]))),
            0.0,
            None,
            False,
        )

    def _row(
        self, problem: str, group: int, sample: int, gold: str, chance: float, round: int
    ) -> dict[str, Any]:
        text, reward, error, cut = self._answer(gold, chance)
        length = len(text) + (0 if cut else 1)
        surprise = 0.25 + 1.1 * (1 - chance)
        return {
            "problem_id": problem,
            "group": group,
            "sample": sample,
            "prompt_ids": [1, 2, 3],
            "response_ids": list(range(length)),
            "behaviour_logp": (-self._chance.exponential(surprise, length)).tolist(),
            "finish_reason": "length" if cut else "stop",
            "reward": reward,
            "reward_error": error,
            "policy": "p",
            "round": round,
            "seed": 1,
            "response": text,
        }

    def _evaluate(self, out: Path, round: int) -> None:
        rows = []
        for group, (problem, question, gold, level) in enumerate(self.questions):
            chance = skill(round, self.params.rounds, level)
            for sample in range(self.params.evaluate.samples_per_problem + 1):
                greedy = sample == self.params.evaluate.samples_per_problem
                row = self._row(
                    problem,
                    group,
                    0 if greedy else sample,
                    gold,
                    min(1.0, chance * 1.1) if greedy else chance,
                    round,
                )
                rows.append({**row, "question": question, "answer": gold, "level": level, "greedy": greedy})
        if self.hostile:
            rows[0]["response"] = HOSTILE
            rows[0]["reward"], rows[0]["reward_error"] = 0.0, f"unreadable: {HOSTILE}"
        answers = pa.Table.from_pylist(rows, schema=ANSWERS)
        moved = round / self.params.rounds
        figures = {
            "tokens": 4000,
            "entropy": 1.42 * np.exp(-1.9 * moved),
            "rank_probabilities": [0.58 + 0.33 * moved, 0.17 - 0.1 * moved, 0.08 - 0.055 * moved],
            "kl_to_base": 0.62 * moved**1.4,
        }
        write_table(out / "answers.parquet", answers)
        write_json(out / "scores.json", scores(tally(answers), figures, self.params, round))

    def _rollout(self, out: Path, round: int) -> None:
        rows = []
        for group in range(self.params.rollout.problems_per_round):
            level = group % 3 + 1
            chance = skill(round - 1, self.params.rounds, level)
            for sample in range(self.params.rollout.samples_per_problem):
                row = self._row(f"train-{group}", group, sample, "57", chance, round)
                rows.append({name: row.get(name) for name in ROLLOUTS.names})
        write_table(out / "rollouts.parquet", pa.Table.from_pylist(rows, schema=ROLLOUTS))

    def _replay(self, out: Path, round: int) -> None:
        """A buffer that keeps ten responses of each of the last four rounds, where the run replays."""
        cohorts = {
            str(born): {"age": round - born, "kept": 10} for born in range(max(1, round - 3), round + 1)
        }
        kept = cohorts if self.replays else {}
        said: dict[str, Any] = {"rows": 10 * len(kept), "cohorts": kept}
        if self.replays:
            said |= {"fill": 0.2 if round <= 3 else 0.05, "strata": {"8": 6, "7": 2, "3": 2}}
        write_json(out / "metrics.json", said)

    def _update(self, out: Path, round: int) -> None:
        noise = self._chance.normal(size=4)
        figures = {
            "loss": -0.01 + 0.004 * noise[0],
            "clip_fraction": abs(0.012 + 0.006 * noise[1]),
            "grad_norm": 0.9 * np.exp(-round / 18) + 0.08 * abs(noise[2]),
            "mismatch": 0.004 + 0.001 * abs(noise[3]),
            "mismatch_kl": 1e-5,
            "mismatch_p99": 0.04,
            "mismatch_p999": 0.2,
            "mismatch_above": 0.002,
            "mismatch_below": 0.001,
            "constant_groups": round / self.params.rounds / 2,
            "refused_steps": 0,
        }
        if self.replays and round > 1:
            figures["correction_cut"] = 0.125
            figures["mismatch_p99_by_age"] = {str(age): 0.04 + 0.1 * age for age in range(min(round, 6))}
            figures |= {"tokens": 900, "replayed_tokens": 100}
            figures["drift_by_age"] = {str(age): 0.002 * age for age in range(min(round, 4))}
            figures["penalty_by_age"] = {str(age): 0.004 * age for age in range(min(round, 4))}
            figures["replayed_by_age"] = {"0": 2, **{str(age): 3 for age in range(1, min(round, 4))}}
        write_json(out / "metrics.json", figures)


def hash_text(text: str) -> str:
    """A digest that looks like a fingerprint."""
    return hashlib.sha256(text.encode()).hexdigest()
