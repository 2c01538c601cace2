"""A published run is in the history of git, its bytes in the bucket by DVC, and comes back from there."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tasks.artefacts.artefact import Artefact
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


def test_publishing_is_refused_before_anything_runs(empty: Workspace, bucket: Bucket) -> None:
    run = ("run", "--name", "it", "--publish", *NANO)
    assert "--publish: no remote is set" in empty.call(*run, code=2).stderr
    assert "is no repository of git and DVC" in use(empty, bucket).call(*run, code=2).stderr
    assert not (empty.root / "artefacts").exists()
