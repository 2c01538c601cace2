"""A stage that could not be made, though the input was right."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from params.errors import OstinatoError

_LEARNING = "update.tokens_per_micro_batch or update.head_chunk"
_SAMPLING = "engine.memory_fraction or engine.max_sequences"


class StageFailure(OstinatoError):
    """Says in one line what happened and what to do. Everything finished before it is intact."""


class NotFinite(StageFailure):
    """Several optimiser steps in a row had a loss or a gradient that is not a finite number."""


@contextmanager
def memory_errors(stage: str) -> Iterator[None]:
    """Around a stage: memory that runs out, of the machine or a GPU, becomes a ``StageFailure``."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch's is a RuntimeError
        text = str(error)
        gpu = re.search(r"\bout of memory\b|_ALLOC_FAILED\b", text)
        if not (gpu or isinstance(error, MemoryError) or "can't allocate memory" in text):
            raise
        asked = re.search(r"allocate ([\d.,]+ ?[KMGTPE]?i?B|\d+ bytes)", text)
        frames = (frame.f_globals["__name__"] for frame, _ in traceback.walk_tb(error.__traceback__))
        sampled = any(name.startswith("tasks.engines.") for name in frames)
        raise StageFailure(
            f"{stage}: out of {'GPU ' if gpu else ''}memory{f' (asked for {asked[1]})' if asked else ''}; "
            f"a smaller {_SAMPLING if sampled else _LEARNING} needs less"
        ) from error
