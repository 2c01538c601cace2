"""What may be chosen: a typed schema and YAML presets."""

from params.base import BadInput, Choice, Config, nearest, validate
from params.schema import Params

__all__ = ["BadInput", "Choice", "Config", "Params", "nearest", "validate"]
