"""A stage that could not be made, though the input was right."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from params.errors import OstinatoError

_SHORT = re.compile(r"\bout of memory\b|_ALLOC_FAILED\b|can't allocate memory")


class StageFailure(OstinatoError):
    """Says in one line what happened and what to do. Everything finished before it is intact."""


class NotFinite(StageFailure):
    """Several optimiser steps in a row had a loss or a gradient that is not a finite number."""


@contextmanager
def memory_errors(stage: str) -> Iterator[None]:
    """Around a stage: memory that runs out, of the machine or a GPU, becomes a ``StageFailure``."""
    try:
        yield
    except (MemoryError, RuntimeError, StageFailure) as error:  # torch's is a RuntimeError
        text = str(error)
        frames = (frame.f_globals["__name__"] for frame, _ in traceback.walk_tb(error.__traceback__))
        sampling = any(name.startswith("tasks.engines.") for name in frames)
        short = isinstance(error, MemoryError) or _SHORT.search(text)
        if not short or (isinstance(error, StageFailure) and not sampling):
            raise
        gpu = "CUDA" in text or "CUBLAS" in text
        cache = "engine.memory_fraction" if gpu else "engine.kv_cache_gib"
        asked = re.search(r"allocate ([\d.,]+ ?[KMGTPE]?i?B\b|\d+ bytes)", text)
        raise StageFailure(
            f"{stage}: out of {'GPU ' if gpu else ''}memory{f' (asked for {asked[1]})' if asked else ''}; "
            + (
                f"a smaller {cache} or engine.max_sequences needs less"
                if sampling
                else "a smaller update.tokens_per_micro_batch or update.head_chunk needs less"
            )
        ) from error
