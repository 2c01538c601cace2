"""Tensors that make room on a device for a while."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class Elsewhere:
    """Moves tensors and brings them back; whoever holds one holds the same object all the while."""

    def __init__(self) -> None:
        self._moved: list[tuple[Tensor, torch.device]] = []

    def move(self, tensors: Iterable[Tensor], device: torch.device) -> None:
        """Move what is not there yet."""
        for tensor in tensors:
            if tensor.device != device:
                self._moved.append((tensor, tensor.device))
                tensor.data = tensor.data.to(device)

    def bring_back(self) -> None:
        """Each to where it was."""
        for tensor, device in self._moved:
            tensor.data = tensor.data.to(device)
        self._moved.clear()
