"""Claims: of several machines that want the same thing, one makes it, and the others wait.

A claim is an object that says who makes it. It is written where there is none, and overwritten only over the
very content that was read, so that of several that try one wins. Its owner renews it; one that has stayed as
it is for as long as its lease says has lapsed, and anybody may take it. That is told by the clock of whoever
watches, from when it first saw that content: clocks need not agree, only run equally fast. So two never hold
a claim whose leases both run. Who was held up longer than its lease has lost the claim and may not know it
yet: then a thing is made twice, which costs time and harms nothing.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from params.store import LONGEST_LEASE
from tasks.remote.conditional import Conditional
from tasks.remote.errors import RemoteTrouble

RENEWALS = 3
"""How often in a lease it is renewed."""


@dataclass(frozen=True)
class Owner:
    """Who claims."""

    host: str
    pid: int
    workspace: str
    """Its identity: of two processes there, one at a time is at the same thing."""

    @classmethod
    def here(cls, workspace: str) -> Owner:
        """This process."""
        return cls(socket.gethostname(), os.getpid(), workspace)


@dataclass(frozen=True)
class Said:
    """What stands in a claim."""

    owner: Owner
    token: str
    """Of this one attempt to have it."""
    lease: float
    """Seconds for which it holds from when it was written."""
    beat: int
    """The how manieth writing of the attempt: no two are the same."""
    released: bool = False
    """Given back, without what was claimed being made."""
    expires: str = ""
    """When it lapses by its owner's clock; for people."""

    def to_bytes(self) -> bytes:
        """As it lies in the bucket."""
        return (json.dumps(asdict(self)) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Said | None:
        """What was written; None where it is no claim."""
        try:
            found = json.loads(data)
            said = cls(**{**found, "owner": Owner(**found["owner"]), "lease": float(found["lease"])})
        except (ValueError, TypeError, KeyError):
            return None
        return said if 0 < said.lease <= LONGEST_LEASE else None


class Claim:
    """One that this process holds."""

    def __init__(self, contest: Contest, tag: str, began: float) -> None:
        self._contest, self._tag, self._began = contest, tag, began
        self._lost = self._served = False

    @property
    def holds(self) -> bool:
        """Whether its lease runs, as far as is known."""
        return not self._lost and self._contest.clock() < self._began + self._contest.lease

    def renew(self) -> bool:
        """Let the lease begin anew; False where somebody else has taken it. Raises ``RemoteTrouble``."""
        began = self._contest.clock()
        tag = self._write(released=False)
        if tag is None:
            self._lost = True
            return False
        self._tag, self._began = tag, began
        return True

    def give_back(self) -> None:
        """What was claimed is not made: anybody may claim it now. Raises ``RemoteTrouble``.

        The claim stays, as a released one: to remove it could remove that of somebody who took it meanwhile.
        """
        if not self._lost:
            self._write(released=True)
            self._lost = True

    def remove(self) -> None:
        """What was claimed is there, so that nobody needs the claim any more. Raises ``RemoteTrouble``."""
        if not self._lost:
            self._contest.objects.delete(self._contest.key)
            self._lost = True

    def served(self) -> None:
        """What was claimed is there for all to see."""
        self._served = True

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Renew it from a thread inside the block. At its end it is removed, where it is ``served``, else
        given back. Trouble with the store is left to the lease, which ends by itself."""
        stop = threading.Event()
        thread = threading.Thread(target=self._renew_until, args=(stop,), daemon=True, name="claim")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(self._contest.lease / RENEWALS)
            if not thread.is_alive():
                with suppress(RemoteTrouble):
                    (self.remove if self._served else self.give_back)()

    def _renew_until(self, stop: threading.Event) -> None:
        while not stop.wait(self._contest.lease / RENEWALS):
            with suppress(RemoteTrouble):  # the next one may come through
                if not self.renew():
                    return

    def _write(self, released: bool) -> str | None:
        return self._contest.objects.replace(self._contest.key, self._contest.words(released), self._tag)


class Contest:
    """One process's way to one claim: ``look`` until it is free, then ``take`` it."""

    def __init__(
        self,
        objects: Conditional,
        key: str,
        owner: Owner,
        lease: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``lease``: seconds."""
        self.objects, self.key, self.lease, self.clock = objects, key, lease, clock
        self._owner, self._token, self._beat = owner, uuid.uuid4().hex, 0
        self._tag: str | None = None
        self._since = 0.0

    def look(self) -> str | None:
        """Who holds it, in words; None where it is free: not there, released, or lapsed. Raises
        ``RemoteTrouble``.

        One of this workspace is free, too: whoever looks has the workspace's lock for what is claimed, which
        the process that wrote it no longer has.
        """
        found = self.objects.get(self.key)
        if found is None:
            self._tag = None
            return None
        data, tag = found
        if tag != self._tag:
            self._tag, self._since = tag, self.clock()
        said = Said.from_bytes(data)
        lease = said.lease if said else self.lease
        lapsed = self.clock() - self._since >= lease
        if lapsed or (said and (said.released or said.owner.workspace == self._owner.workspace)):
            return None
        return f"{said.owner.host}, process {said.owner.pid}" if said else "somebody"

    def take(self) -> Claim | None:
        """The claim, after ``look`` found it free; None where somebody was faster. Raises
        ``RemoteTrouble``."""
        began, data = self.clock(), self.words()
        if self._tag is None:
            tag = self.objects.create(self.key, data)
        else:
            tag = self.objects.replace(self.key, data, self._tag)
        return Claim(self, tag, began) if tag is not None else None

    def words(self, released: bool = False) -> bytes:
        """What this process writes: never the same twice."""
        self._beat += 1
        ends = (datetime.now(UTC) + timedelta(seconds=self.lease)).isoformat(timespec="seconds")
        return Said(self._owner, self._token, self.lease, self._beat, released, ends).to_bytes()
