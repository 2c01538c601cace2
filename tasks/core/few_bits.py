"""bitsandbytes, which holds numbers in 8 and 4 bits, where it is installed."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from typing import Any

from params.base import BadInput
from params.schema import Params

NAME = "bitsandbytes"


def library(setting: str) -> Any:
    """The library, for what ``setting`` asks; raises ``BadInput`` where it is not installed."""
    if importlib.util.find_spec(NAME) is None:
        raise BadInput(
            f"{setting} needs {NAME}, which is not installed; expected it to be "
            f"(pip install -e '.[{NAME}]'), or the setting to be left out"
        )
    logging.getLogger(NAME).setLevel(logging.ERROR)  # it warns of kernels that it can do without
    return importlib.import_module(NAME)


def check(params: Params) -> None:
    """Raises ``BadInput`` where a setting needs the library and it is not installed."""
    if params.update.optimiser == "adamw_8bit":
        library("update.optimiser: adamw_8bit")
    if params.model.bits == 4:
        library("model.bits: 4")
