"""Updates by several processes: torch's elastic launcher starts them once a run, each trains its shard.

Parent, launcher and ranks meet in files of one folder. On one machine no port is opened but gloo's or NCCL's
own, on the loopback interface; several machines meet at ``update.meeting``. Whatever ends the parent or the
launcher ends the ranks.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import torch

from params.base import BadInput
from tasks.artefacts.artefact import write_json
from tasks.core.context import Cluster
from tasks.core.device import VISIBLE, named_gpus
from tasks.core.errors import NotFinite, StageFailure
from tasks.core.json_process import JsonProcess, ProcessFailure, ending, environment
from tasks.core.stage import Job
from tasks.policy.job_policy import policy_key, rest_policy

GROUP = "group.json"
"""How many ranks on how many machines, and where they meet."""
JOB = "job-{}.json"
"""The updates, counted from 1; the ranks wait for each."""
LOG = "ranks.log"
DEATH = "death.json"
"""Which rank ended first, and how, by the launcher's account."""
COMPLAINT = "complaint.json"
"""What a rank had to say that ends in one line."""

_ERRORS = {kind.__name__: kind for kind in (BadInput, StageFailure, NotFinite)}


def launched(job: Job) -> dict[str, float]:
    """``tasks.update.update.train`` on ``update.ranks`` processes a machine; what the first measured.

    They stay for the run's further updates. Raises what they raise, and ``StageFailure`` where one of them
    dies.
    """
    update = job.params.update
    if torch.cuda.is_available() and torch.cuda.device_count() < update.ranks:
        raise BadInput(
            f"update.ranks: {update.ranks}, but this machine has {torch.cuda.device_count()} GPUs; "
            "expected at most one rank a GPU"
        )
    rest_policy(job)
    key = ("ranks", *policy_key(job))
    ranks = job.context.keep(key, lambda: Ranks(job))
    try:
        return ranks.train(job)
    except BaseException:
        job.context.drop(key)
        raise


class Ranks:
    """The launcher and its ranks, which train one job after the other."""

    def __init__(self, job: Job) -> None:
        """Start them; they load the model when the first job comes."""
        update = job.params.update
        self._folder = Path(tempfile.mkdtemp(prefix="ranks-", dir=job.context.scratch))
        self._jobs = 0
        self._count = update.ranks * update.machines
        threads = max(1, (job.params.threads or os.cpu_count() or 1) // update.ranks)
        cluster = _cluster(job) if update.placed_by else None
        meeting = update.meeting or (cluster.meeting() if cluster else None)
        group = {
            **update.model_dump(include={"ranks", "machines", "rank_timeout"}),
            "meeting": meeting,
            "threads": threads,
        }
        write_json(self._folder / GROUP, group)
        self._placed = cluster.place_ranks(self._folder, update.machines) if cluster else None
        more = {VISIBLE: ",".join(named_gpus(update.gpus, "update.gpus"))} if update.gpus else {}
        command = [sys.executable, "-m", "tasks.update.rank_agent", str(os.getpid()), str(self._folder), "0"]
        env = {**launch_environment(meeting), **more}
        self._launcher = JsonProcess("update", command, env, self._folder / LOG)

    def train(self, job: Job) -> dict[str, float]:
        """One update; what the first rank measured."""
        self._jobs += 1
        placed = job.params.update.model_copy(update={"gpus": ()})  # those that the ranks see
        facts = {
            "params": job.params.model_copy(update={"update": placed}).model_dump(mode="json"),
            "round": job.round,
            "inputs": {name: str(artefact.path.resolve()) for name, artefact in job.inputs.items()},
            "out": str(job.out.resolve()),
        }
        write_json(self._folder / JOB.format(self._jobs), facts)
        try:
            while "measured" not in (message := self._launcher.receive()):
                job.context.tell(*message["tell"])
        except ProcessFailure as end:
            raise _failure(self._folder, self._count, end) from None
        return dict(message["measured"])

    def close(self) -> None:
        """End them."""
        self._launcher.close(0.0)
        if self._placed:
            self._placed.close()


def join(folder: Path, machine: int) -> JsonProcess:
    """Start the launcher of a further machine in the update whose launchers meet in ``folder``. Raises
    ``BadInput`` for a machine too many."""
    group = _read(folder / GROUP)
    if machine >= group["machines"]:
        raise BadInput(f"--machine {machine}: the run is on {group['machines']}; expected a smaller number")
    command = [sys.executable, "-m", "tasks.update.rank_agent", str(os.getpid()), str(folder), str(machine)]
    env = launch_environment(group["meeting"])
    return JsonProcess(f"machine {machine}", command, env, machine_log(folder, machine))


def machine_log(folder: Path, machine: int) -> Path:
    """What a further machine's ranks print."""
    return folder / f"machine-{machine}.log"


def launch_environment(meeting: str | None) -> dict[str, str]:
    """Of a launcher and its ranks, which talk over the loopback interface, or the one that leads to where the
    machines meet."""
    if meeting is not None:
        interface = _interface(meeting)
        talk = {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface}
        return environment(OMP_NUM_THREADS="1", **{n: os.environ.get(n, value) for n, value in talk.items()})
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    ours = {"GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback, "OMP_NUM_THREADS": "1"}
    no_store = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # it would listen on every interface
    return {**ours, **environment(**no_store)}


def _cluster(job: Job) -> Cluster:
    if job.context.cluster is None:
        raise BadInput("update.placed_by: ray: only ostinato run joins a cluster; expected null elsewhere")
    return job.context.cluster


def _interface(meeting: str) -> str:
    """The interface that leads to an address ``HOST:PORT``; raises ``BadInput`` where none does."""
    host, _, port = meeting.rpartition(":")
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, int(port)))  # sends nothing
            own = probe.getsockname()[0]
    except OSError as error:
        raise BadInput(
            f"update.meeting: {meeting}: {error}; expected an address of the first machine"
        ) from None
    found: Mapping[str, Any] = psutil.net_if_addrs()
    return next(name for name, addresses in found.items() if any(a.address == own for a in addresses))


def _failure(folder: Path, count: int, end: ProcessFailure) -> Exception:
    complaint, death = (_read(folder / name) for name in (COMPLAINT, DEATH))
    if complaint:
        return _ERRORS.get(complaint["kind"], StageFailure)(complaint["message"])
    if not death:
        return StageFailure(f"update: the launcher ended with {end.ended} (log: {folder / LOG})")
    return StageFailure(
        f"update: rank {death['rank']} of {count} ended with {ending(death['code'])} (log: {folder / LOG})"
    )


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.exists() else {}
