"""The optimiser's state is exact on disk, and one that is damaged or another's is refused whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from params.base import BadInput
from params.schema import Update
from tasks.policy.optimiser import MOMENTS, STATE, Optimiser


def trained(steps: int = 2) -> tuple[dict[str, torch.Tensor], Optimiser]:
    masters = {name: torch.ones(3, 2, requires_grad=True) for name in ("one", "two")}
    optimiser = Optimiser(masters, Update())
    for step in range(steps):
        for master in masters.values():
            master.grad = torch.full_like(master, 0.5 + step)
        optimiser.step(1.0)
    return masters, optimiser


def written(optimiser: Optimiser, folder: Path) -> list[bytes]:
    folder.mkdir()
    optimiser.save(folder)
    return [(folder / name).read_bytes() for name in (STATE, MOMENTS)]


def change(path: Path, **moments: torch.Tensor) -> None:
    save_file({**load_file(path), **moments}, path)


HARMS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "no counts": (STATE, Path.unlink),
    "no JSON": (STATE, lambda path: path.write_text("{")),
    "no text": (STATE, lambda path: path.write_bytes(b"\xff")),
    "a list": (STATE, lambda path: path.write_text("[]")),
    "other keys": (STATE, lambda path: path.write_text('{"steps": 1}')),
    "no number": (STATE, lambda path: path.write_text('{"steps": null, "refused_in_a_row": 0}')),
    "no moments": (MOMENTS, Path.unlink),
    "half": (MOMENTS, lambda path: path.write_bytes(path.read_bytes()[:-9])),
    "no header": (MOMENTS, lambda path: path.write_bytes(b"")),
    "other names": (MOMENTS, lambda path: save_file({"three.exp_avg": torch.ones(3, 2)}, path)),
    "first shape": (MOMENTS, lambda path: change(path, **{"two.exp_avg": torch.ones(2, 3)})),
    "second shape": (MOMENTS, lambda path: change(path, **{"two.exp_avg_sq": torch.ones(2, 3)})),
    "type": (MOMENTS, lambda path: change(path, **{"two.exp_avg": torch.ones(3, 2).half()})),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_state_that_cannot_be_taken_up_is_refused_whole(harm: str, tmp_path: Path) -> None:
    trained(2)[1].save(tmp_path)
    file, apply = HARMS[harm]
    apply(tmp_path / file)
    _, other = trained(5)
    before = written(other, tmp_path / "before")
    with pytest.raises(BadInput, match=file):
        other.load(tmp_path)
    assert written(other, tmp_path / "after") == before


def test_what_is_saved_is_taken_up(tmp_path: Path) -> None:
    trained(2)[1].save(tmp_path)
    _, other = trained(0)
    other.load(tmp_path)
    assert other.steps == 2
    assert written(other, tmp_path / "again") == [(tmp_path / name).read_bytes() for name in (STATE, MOMENTS)]
