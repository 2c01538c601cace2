"""What outlives a stage is given back at the end of its run, all of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.core.context import Context
from tasks.core.errors import StageFailure


def test_all_is_closed_the_youngest_first_though_one_cannot_be(tmp_path: Path) -> None:
    closed = list[str]()

    class Resource:
        def __init__(self, name: str) -> None:
            self._name = name

        def close(self) -> None:
            closed.append(self._name)
            if self._name == "second":
                raise StageFailure("the second does not close")

    context = Context(tmp_path)
    for name in ("first", "second", "third"):
        context.keep(name, lambda name=name: Resource(name))  # type: ignore[misc]
    with pytest.raises(StageFailure, match="the second does not close"):
        context.close()
    assert closed == ["third", "second", "first"]
    context.close()
    assert len(closed) == 3
