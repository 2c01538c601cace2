"""Fields that change how fast a stage runs and not what it makes: they are left out of fingerprints."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field


class SpeedKnob:
    """Marks a field that is left out of fingerprints."""


Speed = SpeedKnob()
Probability = Annotated[float, Field(ge=0.0, le=1.0)]


def lasting(section: type[BaseModel]) -> list[str]:
    """The fields of a section that change what is made."""
    return [name for name, field in section.model_fields.items() if Speed not in field.metadata]
