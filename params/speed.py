"""Fields that are left out of fingerprints: they change how fast a stage runs and not what it makes."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field


class SpeedKnob:
    """Marks a field that is left out of fingerprints."""


class ReadElsewhere:
    """Marks a field that stages of its own read by its path, and those that read its section do not."""


Speed = SpeedKnob()
Elsewhere = ReadElsewhere()
Probability = Annotated[float, Field(ge=0.0, le=1.0)]


def lasting(section: type[BaseModel]) -> list[str]:
    """The fields of a section that change what a stage makes that reads the section."""
    left_out = (Speed, Elsewhere)
    return [
        name
        for name, field in section.model_fields.items()
        if not any(mark in field.metadata for mark in left_out)
    ]
