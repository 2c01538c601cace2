"""Servers in processes, which are killed, stopped and added at random while a round is sampled."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.artefacts.artefact import Artefact
from tasks.engines.base import Response
from tests.tasks.engines.server_world import PATIENCE, SAMPLING, World, expected, requests

pytestmark = pytest.mark.long
SERVERS = 3
"""At the beginning."""
KINDS = ("kill", "stop", "strike", "add")
QUICK = replace(PATIENCE, watch=0.2, overdue_known=5, overdue_least=0.5)


class Processes(World):
    """Servers in processes, and a file that lists them."""

    def __init__(self, model: Artefact, scratch: Path) -> None:
        super().__init__(model, scratch)
        self.file = scratch / "servers.txt"
        self.listed: dict[str, int] = {}
        """Process ids, by address."""
        self.coming: list[str] = []
        (scratch / "shelf").mkdir()
        command = [sys.executable, "-m", "tests.tasks.engines.server_process"]
        self.starter = subprocess.Popen(
            [*command, str(model.path), str(scratch / "shelf")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def add(self) -> None:
        assert self.starter.stdin is not None
        assert self.starter.stdout is not None
        self.starter.stdin.write("one\n")
        self.starter.stdin.flush()
        pid, address = self.starter.stdout.readline().split()
        self.listed[address] = int(pid)
        self.write()

    def write(self) -> None:
        beside = self.file.with_suffix(".new")
        beside.write_text("".join(f"{address}\n" for address in self.listed))
        beside.replace(self.file)

    def disturb(self, chance: random.Random) -> str:
        """Add one, or do something to one, but to the last that is well."""
        if not self.coming:
            self.coming = chance.sample(KINDS, len(KINDS))
        what = self.coming.pop() if len(self.listed) > 1 else "add"
        if what == "add":
            self.add()
            return what
        pid = self.listed.pop(chance.choice(sorted(self.listed)))  # killed or stopped, it stays in the file
        if what == "strike":
            self.write()
        else:
            os.kill(pid, signal.SIGKILL if what == "kill" else signal.SIGSTOP)
        return what

    def close(self) -> None:
        super().close()
        self.starter.communicate()


@pytest.fixture
def world(tiny_model: Artefact, tmp_path: Path) -> Iterator[Processes]:
    made = Processes(tiny_model, tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("weights", ["folder", "http"])
def test_nothing_is_lost_whatever_becomes_of_the_servers(world: Processes, weights: str) -> None:
    for _ in range(SERVERS):
        world.add()
    engine = world.engine(
        QUICK,
        servers=(),
        servers_file=str(world.file),
        weights=weights,
        health_timeout=5,
        start_timeout=60,
    )
    engine.load(world.policy().path)
    asked = requests(20)
    undisturbed = engine.generate(asked, SAMPLING)
    chance, done = random.Random(7), list[str]()
    heard: list[int] = []

    def disturb(index: int, response: Response) -> None:
        heard.append(index)
        if len(heard) % 10 == 5:
            done.append(world.disturb(chance))

    for policy in (world.policy(2).path, world.scratch / "policy-1"):
        engine.load(policy)
        heard.clear()
        disturbed = engine.generate(asked, SAMPLING, finished=disturb)
        assert sorted(heard) == list(range(len(asked)))
        expected(engine, asked)(disturbed)
    assert set(done) == set(KINDS)
    for one, other in zip(undisturbed, disturbed, strict=True):
        assert one.token_ids == other.token_ids
        assert one.logp == pytest.approx(other.logp, abs=1e-5)
