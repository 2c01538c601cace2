"""A published run is in the history of git, its bytes in the bucket by DVC, and comes back from there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flows.sync import publish
from params.base import BadInput
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.record import Record
from tasks.remote.errors import RemoteTrouble
from tests.buckets import SECRET, Bucket
from tests.flows.conftest import NANO, Workspace, events
from tests.flows.test_stores import use


def do(workspace: Workspace, *command: str, where: Path | None = None) -> str:
    done = subprocess.run(
        command,
        cwd=where or workspace.root,
        env=workspace.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout.strip()


@pytest.fixture
def repository(copied: Workspace, bucket: Bucket) -> Workspace:
    """The finished run's workspace as a repository of git and DVC, with other work in it."""
    people = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    copied.environment |= {**people, "DVC_NO_ANALYTICS": "1"}
    do(copied, "git", "init", "-q", ".")
    do(copied, "dvc", "init", "-q")
    (copied.root / ".gitignore").write_text("/runs/\n/artefacts/\n/.ostinato/\n")
    (copied.root / "mine.txt").write_text("one\n")
    do(copied, "git", "add", ".")
    do(copied, "git", "commit", "-qm", "first")
    return use(copied, bucket)


@pytest.mark.long
@pytest.mark.ci
@pytest.mark.timeout(600)
def test_any_published_policy_comes_back_by_git_and_dvc(
    repository: Workspace, bucket: Bucket, tmp_path: Path
) -> None:
    (repository.root / "mine.txt").write_text("two\n")
    do(repository, "git", "add", "mine.txt")
    run = ("run", "--name", "it", "--json", "--publish", *NANO)
    said = events(repository.call(*run).stdout)[-1]
    first = said["published"]["commit"]
    assert said["pushed"]["artefacts"]
    changed = set(do(repository, "git", "show", "--name-only", "--format=", first).splitlines())
    assert {f"published/it/{part}.dvc" for part in ("model", "policy", "problems")} <= changed
    assert "mine.txt" not in changed, "what a person had staged stays staged"
    assert do(repository, "git", "diff", "--cached", "--name-only") == "mine.txt"

    again = events(repository.call(*run).stdout)[-1]
    assert (again["published"]["commit"], again["pushed"]["bytes"]) == (first, 0)

    before = repository.policy()
    other = events(repository.call(*run, "--set", "update.learning_rate=1e-3").stdout)[-1]
    assert other["published"]["commit"] != first
    assert repository.policy() != before

    do(repository, "git", "clone", "-q", str(repository.root), str(tmp_path / "clone"))
    for commit, policy in ((first, before), (other["published"]["commit"], repository.policy())):
        do(repository, "git", "checkout", "-q", commit, where=tmp_path / "clone")
        do(repository, "dvc", "pull", "-q", where=tmp_path / "clone")
        place = tmp_path / "clone" / "published" / "it"
        made = Artefact.open(place / "policy")
        assert {name: made.file(name).read_bytes() for name in made.manifest.files} == policy
        for part in ("model", "problems"):
            Artefact.open(place / part)
        assert json.loads((place / "run.json").read_text())["finished"]
    config = (repository.root / ".dvc" / "config").read_text()
    assert f"{bucket.url}/dvc" in config
    assert SECRET not in config


def test_what_a_killed_process_left_is_neither_published_nor_committed(
    copied: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = copied.root / "published" / "it"
    for name in (".policy.999999999", ".policy.999999999.old", f".policy.{os.getpid()}"):
        (place / name).mkdir(parents=True)
        (place / name / "half.safetensors").write_text("half")
    record = Record.read(copied.root / "runs" / "it")
    assert publish._lay_out(copied.root, record) == place
    left = {path.name for path in place.iterdir()}
    assert left == {"model", "policy", "problems", "metrics.json", "run.json", "steps.jsonl"}
    (place / ".policy.1").mkdir()  # of a process whose number another one has by now
    done: list[list[str]] = []

    def run(command: list[str], *_: Any) -> subprocess.CompletedProcess[str]:
        done.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(publish, "_run", run)
    publish._commit(copied.root, "it", place, [])
    (added,) = (command for command in done if command[1] == "add")
    assert [path for path in added if path.startswith("published")] == [
        f"published/it/{name}" for name in ("metrics.json", "run.json", "steps.jsonl")
    ]


def test_a_command_that_never_ends_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "DVC_SECONDS", 0.01)
    with pytest.raises(RemoteTrouble, match=r"dvc add: did not end in 0\.01 s"):
        publish._dvc(tmp_path, "add", "x")
    monkeypatch.setattr(publish, "GIT_SECONDS", 0.3)
    with pytest.raises(BadInput, match=r"git -c: did not end in 0\.3 s"):
        publish._git(tmp_path, "-c", "alias.stay=!sleep 5", "stay")


def test_a_command_that_asks_hears_nothing(tmp_path: Path) -> None:
    script = "import sys, os; print(os.path.samestat(os.fstat(0), os.stat('/dev/null')), sys.stdin.read())"
    assert publish._run([sys.executable, "-c", script], tmp_path).stdout == "True \n"


@pytest.mark.parametrize(
    ("pipeline", "params"),
    [
        ("stages: {report: {outs: [runs/it/report.html]}}", "rounds: many"),
        ("stages: {report: {outs: [runs/it/report.html]}}", "rounds: [1"),
        ("stages:", "rounds: 1"),
        ("", "rounds: 1"),
        ("stages: [", "rounds: 1"),
    ],
)
def test_what_is_wrong_with_another_runs_pipeline_stops_no_publishing(
    tmp_path: Path, pipeline: str, params: str
) -> None:
    (tmp_path / "dvc.yaml").write_text(pipeline)
    (tmp_path / "params.yaml").write_text(params)
    record = Record(name="it", command="", params={}, started="")
    assert publish._is_pipeline(tmp_path, record) is False


def test_publishing_is_refused_before_anything_runs(empty: Workspace, bucket: Bucket) -> None:
    run = ("run", "--name", "it", "--publish", *NANO)
    assert "--publish: no remote is set" in empty.call(*run, code=2).stderr
    assert "is no repository of git and DVC" in use(empty, bucket).call(*run, code=2).stderr
    assert not (empty.root / "artefacts").exists()
