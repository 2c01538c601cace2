"""The errors of this package; apart, so that whoever catches one need not load boto3."""

from __future__ import annotations

from params.errors import OstinatoError


class RemoteTrouble(OstinatoError):
    """A bucket cannot do what is asked; the message is one line. What is here is as it was."""

    def __init__(self, text: str, lasting: bool = True, unknown: bool = False) -> None:
        super().__init__(text)
        self.unknown = unknown
        """Whether the store does not know what is asked for."""
        self.lasting = lasting
        """Whether asking again in the same run is futile."""


class Unreachable(RemoteTrouble):
    """Nobody answers there now: the network, a name that is not found, a store that is being started."""

    def __init__(self, text: str) -> None:
        super().__init__(text, lasting=False)


class RemoteDamaged(RemoteTrouble):
    """What lies in the bucket is not what its digest says."""

    def __init__(self, text: str) -> None:
        super().__init__(text, lasting=False)


class Elsewhere(OstinatoError):
    """Another machine makes what this one needs, and this one is not to wait for it (any longer)."""
