"""How mathematical answers are read, and what is a matter of taste."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from tasks.rewards.base import Bounds


class Config(Bounds):
    """How answers are read."""

    extract: Literal["auto", "boxed", "hashes", "last_number"] = "auto"
    """Where the value stands, after any thinking and within ``<answer>`` tags. ``boxed``: in the last
    ``\\boxed{}``. ``hashes``: after the last ``####``, up to the end of its line. ``last_number``: the last
    number in digits. ``auto``: the last ``\\boxed{}`` that is closed, else after the last ``####``, else
    where the text says its answer or the last value in it."""
    max_answer_characters: PositiveInt = 8192
    """Of a longer answer, only so many characters of its end are read."""
    worked_out: bool = True
    """Where the right answer is a number, the answer must be one too: ``3 + 4`` is no answer to ``3 + 4``."""
    percent: Literal["lenient", "strict"] = "lenient"
    """``lenient``: 35 counts for 35 %, and 35 % for 35. ``strict``: 35 % is 0.35 and nothing else."""
    units: Literal["known", "ignore"] = "known"
    """``known``: two units of length, time, mass, volume, money or angle are compared, one alone is left out.
    ``ignore``: all are left out."""
    order: Literal["any", "given"] = "any"
    """Whether a list without brackets, ``4, 9``, may come in any order. Sets may, tuples may not."""
    tolerance: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Largest relative difference of two numbers that are equal; 0: none, but for decimals that are rounded
    correctly to six digits or more."""
