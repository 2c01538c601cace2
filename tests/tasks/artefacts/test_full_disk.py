"""A disk that is full, or becomes full, costs one line and nothing that was made before."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from params.base import BadInput
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.role import Role
from tasks.artefacts.store import Store


def _facts() -> dict[str, Any]:
    plain: dict[str, Any] = {"params": {}, "inputs": {}, "versions": {}, "measured": {}}
    return {"role": Role(kind="prepare", label="x"), "round": 0, "seed": 0, "code": {}, **plain}


def _file(folder: Path) -> dict[str, Any]:
    (folder / "a.json").write_text("{}")
    return _facts()


def _disk(folder: Path) -> dict[str, Any]:
    _file(folder)
    with Path("/dev/full").open("wb", buffering=0) as full:
        full.write(b"x")
    raise AssertionError("the device takes what it is given")


def _safetensors(folder: Path) -> dict[str, Any]:
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("fill", [_disk, _safetensors])
def test_what_was_made_is_kept(tmp_path: Path, fill: Any) -> None:
    store = Store(tmp_path)
    before = store.make("model", "a" * 64, _file)
    with pytest.raises(BadInput, match="no space left to make update; what was made before is kept"):
        store.make("update", "b" * 64, fill)
    Artefact.open(before.path).check()
    assert store.find("update", "b" * 64) is None
    assert not list((tmp_path / ".ostinato" / "building").iterdir())
    assert store.make("update", "b" * 64, _file).path.is_dir()


def test_another_error_of_safetensors_stays_what_it_is(tmp_path: Path) -> None:
    def fill(folder: Path) -> dict[str, Any]:
        raise SafetensorError("header too large")

    with pytest.raises(SafetensorError, match="header too large"):
        Store(tmp_path).make("update", "b" * 64, fill)


def test_a_disk_without_room_is_told_before_a_stage_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=5 * 2**20))
    with pytest.raises(BadInput, match="5 MiB free; expected at least 256 to make model"):
        Store(tmp_path).make("model", "a" * 64, _file)
    assert not (tmp_path / "artefacts").exists()


def test_a_workspace_that_is_not_made_yet_has_the_room_of_its_disk(tmp_path: Path) -> None:
    store = Store(tmp_path / "not" / "yet")
    store.need(0, "run")
    with pytest.raises(BadInput, match="MiB free; expected at least"):
        store.need(2**60, "run")
