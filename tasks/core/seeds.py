"""Chance, derived: every draw comes from (run seed, stage, round, item) and from nothing else."""

from __future__ import annotations

import hashlib

import numpy as np


def seed(run_seed: int, stage: str, round: int, *item: int | str) -> int:
    """A seed in [0, 2^63) for one draw. Different arguments give unrelated seeds."""
    key = "\x1f".join(str(part) for part in (run_seed, stage, round, *item))
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") >> 1


def numpy_generator(run_seed: int, stage: str, round: int, *item: int | str) -> np.random.Generator:
    """A numpy generator for one draw."""
    return np.random.default_rng(seed(run_seed, stage, round, *item))
