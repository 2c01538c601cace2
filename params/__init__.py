"""What may be chosen: a typed schema and YAML presets."""

from params.base import BadInput, Choice, Config, nearest, validate
from params.load import compose, presets, read_params
from params.schema import Params

__all__ = [
    "BadInput",
    "Choice",
    "Config",
    "Params",
    "compose",
    "nearest",
    "presets",
    "read_params",
    "validate",
]
