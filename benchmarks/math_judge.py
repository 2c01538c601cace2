"""How often judges of mathematical answers are wrong, side by side, on pairs whose truth is known.

    python benchmarks/math_judge.py [--draws 4] [--seed 0] [--wrong]

The pairs are those of math_pairs.py. The judges are the product's, math-verify alone, verl's rules for
GSM8K and for MATH, TRL's accuracy reward, and the last number, each in a process that is killed after
--seconds: what hangs or fails rejects its answer. Three of them want a form, "####" or a box (TRL: or LaTeX
in dollar signs); `in its form` counts the right answers after "####" or in a box that are rejected. `--wrong`
lists what the product's judge gets wrong.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter

import shared
from math_pairs import Pair, counts, pairs

from params.base import Choice
from tasks.rewards.judge import Judge

JUDGES = {
    "ostinato": ("math", ""),
    "math-verify": ("math_rules:math_verify", ""),
    "TRL": ("math_rules:trl", r"\boxed"),
    "verl MATH": ("math_rules:verl_math", r"\boxed"),
    "verl GSM8K": ("math_rules:verl_gsm8k", "####"),
    "last number": ("math_rules:last_number", ""),
}
"""What judges, and the form that it wants, if any."""


def judged(name: str, found: list[Pair], seconds: float, workers: int) -> tuple[list[bool], int, float]:
    """Which answers are accepted, how many verdicts failed, and the milliseconds that an answer took."""
    court = Judge(Choice.model_validate({"name": name, "timeout_seconds": seconds}), workers)
    try:
        court.judge([("1", r"\boxed{1}")] * workers)
        began = time.perf_counter()
        verdicts = court.judge([(pair.gold, pair.answer) for pair in found])
        took = time.perf_counter() - began
    finally:
        court.close()
    failed = sum(verdict.reward is None for verdict in verdicts)
    return [verdict.reward == 1.0 for verdict in verdicts], failed, 1000 * took / len(found)


def _part(count: int, whole: int) -> str:
    return f"{count} ({100 * count / whole:.1f} %)"


def main() -> None:
    parser = shared.parser(__doc__)
    parser.add_argument("--draws", type=int, default=4, help="right answers of a kind")
    parser.add_argument("--each", type=int, default=3, help="answers of either label to a right answer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=5.0, help="for one answer")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--wrong", action="store_true", help="list the pairs that the product's judge gets wrong"
    )
    options = shared.arguments(parser, draws=1, each=1)
    paths = (str(shared.ROOT / "benchmarks"), str(shared.ROOT), os.environ.get("PYTHONPATH", ""))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))  # for the judging processes
    found = pairs(options.draws, options.each, options.seed)[: 60 if options.tiny else None]
    right = sum(pair.label for pair in found)
    wrong = len(found) - right
    print(f"{len(found)} answers of {len(list(counts(found)))} kinds, {right} right and {wrong} wrong\n")
    print(f"{'judge':13}{'false accepts':>18}{'false rejects':>18}{'in its form':>20}{'failed':>8}{'ms':>7}")
    figures: dict[str, dict[str, float]] = {}
    ours: list[bool] = []
    for name, (module, form) in JUDGES.items():
        accepted, failed, milliseconds = judged(module, found, options.seconds, options.workers)
        ours = ours or accepted
        accepts = sum(yes and not pair.label for pair, yes in zip(found, accepted, strict=True))
        rejected = [pair for pair, yes in zip(found, accepted, strict=True) if pair.label and not yes]
        formed = sum(pair.label and form in pair.answer for pair in found)
        unread = sum(form in pair.answer for pair in rejected)
        shown = f"{_part(accepts, wrong):>18}{_part(len(rejected), right):>18}"
        own = f"{unread} of {formed}" if form else ""
        print(f"{name:13}{shown}{own:>20}{failed:8}{milliseconds:7.1f}", flush=True)
        figures[name] = {
            "false_accepts": accepts,
            "false_rejects": len(rejected),
            "false_rejects_in_its_form": unread,
            "right_in_its_form": formed,
            "failed": failed,
            "milliseconds": round(milliseconds, 2),
        }
    mistaken = [(pair, yes) for pair, yes in zip(found, ours, strict=True) if yes != bool(pair.label)]
    kinds = Counter((pair.kind, yes) for pair, yes in mistaken)
    print(f"\n{'ostinato':18}{'false accepts':>20}{'false rejects':>20}")
    for kind, good, bad in counts(found):
        print(f"{kind:18}{f'{kinds[kind, True]} of {bad}':>20}{f'{kinds[kind, False]} of {good}':>20}")
    if options.wrong:
        for pair, yes in mistaken:
            word = "accepts" if yes else "rejects"
            print(f"{word} {pair.kind}: gold {pair.gold!r}, answer {pair.answer!r}")
    print(json.dumps({"right": right, "wrong": wrong, "judges": figures}))


if __name__ == "__main__":
    main()
