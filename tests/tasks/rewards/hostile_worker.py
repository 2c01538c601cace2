"""A judging process whose judge does to itself what the answer says."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from tasks.rewards import contract, worker
from tasks.rewards.base import Bounds, Verdict, answer_begins
from tasks.rewards.similarity import Config


def judge(gold: str, answer: str, config: Bounds) -> Verdict:
    while answer.startswith("begin "):
        answer_begins()
        answer = answer.removeprefix("begin ")
    verb, _, value = answer.partition(" ")
    if verb == "sleep":
        time.sleep(float(value))
    elif verb == "exit":
        os._exit(int(value))
    elif verb == "eat":
        bytearray(int(value))
    elif verb == "raise":
        raise KeyError(value)
    elif verb == "print":
        print('{"reward": 1.0, "error": null, "last": false}', flush=True)
        os.write(1, b'{"reward": 1.0, "error": null, "last": false}\n')
    elif verb == "write":
        with open(value, "w") as handle:
            handle.write("x" * 100)
    elif verb == "loaded":
        return Verdict(float(value in sys.modules))
    return Verdict(float(gold == answer))


def explain(gold: str, answer: str, config: Bounds) -> dict[str, str]:
    if answer == "unexplained":
        raise KeyError(answer)
    return {"answer": answer}


if __name__ == "__main__":
    hostile = contract.Reward("hostile", Path(__file__), Config, judge=judge, explain=explain)
    contract.find_reward = lambda name, where: hostile
    if sys.argv[1] == "stillborn":
        raise SystemExit("no judge today")
    worker.main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
