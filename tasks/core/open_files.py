"""How many files and sockets a process may have open."""

from __future__ import annotations

import contextlib
import resource

MOST = 1 << 16
"""Beyond this a child that closes what it does not need would take its time."""


def allow_many() -> None:
    """Raise the limit of this process, often 1,024, to what the machine lets it have: a socket for each of
    many episodes or requests at once is more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError):  # a Mac may allow less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
