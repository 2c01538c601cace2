"""Where environments live: ``python -m tasks.environments.worker NAME OPTIONS LIMITS FENCED PARENT``.

This process imports the class and then forks a child for each episode, so that a child costs milliseconds.
It passes messages on between the children and the stage, and kills the child that takes too long: the others
go on meanwhile. What a child may do to the machine is bounded by limits on memory and files.

In: ``{"id", "do": "start" | "step" | "finish" | "end", ...}``. Out: ``{"id", ...}`` with what came of it, or
with ``failed`` (``time`` or ``environment``) and ``why``.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import selectors
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from params.base import BadInput
from params.episode import Episode
from tasks.core import open_files
from tasks.core.json_process import ending
from tasks.core.parent_death import die_with
from tasks.environments.adapters import Adapter, tools_of
from tasks.environments.base import Problem
from tasks.environments.find import Found

LONGEST = 1 << 22
"""Bytes of a message from a child."""


class Child:
    """One episode's process, as its parent sees it."""

    def __init__(self, pid: int, sock: socket.socket) -> None:
        self.pid, self.sock = pid, sock
        self.received = bytearray()
        self.deadline: float | None = None
        self.asked = 0.0
        self.used = 0.0
        """Seconds that its calls took."""


class Worker:
    """Passes messages on; one thread, which waits for all at once."""

    def __init__(self, found: Found, limits: Episode, fenced: bool, out: int) -> None:
        self._found, self._limits, self._fenced = found, limits, fenced
        self._children: dict[int, Child] = {}
        self._out, self._waiting = out, bytearray()
        os.set_blocking(out, False)
        os.set_blocking(0, False)
        self._chosen = selectors.DefaultSelector()
        self._chosen.register(0, selectors.EVENT_READ)
        self._writes = False

    def run(self) -> None:
        """Until the input ends."""
        received = bytearray()
        while True:
            for key, _ in self._chosen.select(self._wait()):
                if key.fd == 0:
                    piece = os.read(0, 1 << 16)
                    if not piece:
                        return
                    received += piece
                    *lines, rest = received.split(b"\n")
                    received = bytearray(rest)
                    for line in lines:
                        self._asked(json.loads(line))
                elif key.fd == self._out:
                    self._flush()
                else:
                    self._heard(key.data)
            now = time.monotonic()
            for name, child in list(self._children.items()):
                if child.deadline is not None and child.deadline <= now:
                    self._failed(name, "time", f"no answer in {child.deadline - child.asked:.3g} s")

    def close(self) -> None:
        """End every child."""
        for name in list(self._children):
            self._end(name)

    def _wait(self) -> float | None:
        due = [child.deadline for child in self._children.values() if child.deadline is not None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _asked(self, message: dict[str, Any]) -> None:
        name, do = message.pop("id"), message["do"]
        if do == "start":
            self._children[name] = self._forked(name, message.pop("problem"))
        if name not in self._children:
            return
        if do == "end":
            self._end(name)
            return
        child = self._children[name]
        child.asked = time.monotonic()
        left = max(0.0, self._limits.seconds - child.used)
        child.deadline = child.asked + min(self._limits.call_seconds, left)
        with contextlib.suppress(OSError):  # one that is gone is heard of
            child.sock.sendall(json.dumps(message).encode() + b"\n")

    def _heard(self, name: int) -> None:
        child = self._children.get(name)
        if child is None:
            return
        try:
            piece = child.sock.recv(1 << 16)
        except OSError:
            piece = b""
        if not piece:
            self._failed(name, "environment", "")
            return
        child.received += piece
        if len(child.received) > LONGEST:
            self._failed(name, "environment", f"a message of more than {LONGEST >> 20} MiB")
        elif child.received.endswith(b"\n"):
            reply, child.received = bytes(child.received), bytearray()
            child.used += time.monotonic() - child.asked
            child.deadline = None
            try:
                self._say({"id": name, **json.loads(reply)})
            except (ValueError, TypeError):
                self._failed(name, "environment", "a message that is no JSON")

    def _failed(self, name: int, failed: str, why: str) -> None:
        """``why`` empty: it ended by itself, and how is told."""
        code = self._end(name)
        self._say({"id": name, "failed": failed, "why": why or f"ended with {ending(code)}"})

    def _end(self, name: int) -> int:
        child = self._children.pop(name)
        self._chosen.unregister(child.sock)
        child.sock.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        _, status = os.waitpid(child.pid, 0)
        return os.waitstatus_to_exitcode(status)

    def _say(self, message: dict[str, Any]) -> None:
        self._waiting += json.dumps(message).encode() + b"\n"
        self._flush()

    def _flush(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._waiting:
                del self._waiting[: os.write(self._out, self._waiting)]
        if bool(self._waiting) is not self._writes:
            self._writes = bool(self._waiting)
            if self._writes:
                self._chosen.register(self._out, selectors.EVENT_WRITE)
            else:
                self._chosen.unregister(self._out)

    def _forked(self, name: int, problem: dict[str, Any]) -> Child:
        ours, its = socket.socketpair()
        parent, pid = os.getpid(), os.fork()
        if not pid:
            try:
                os.setpgid(0, 0)
                die_with(parent)
                its = _alone(its)
                _bound(self._limits)
                _live(its, self._found, problem, self._limits, self._fenced)
            finally:
                os._exit(1)
        its.close()
        with contextlib.suppress(OSError):  # it has done so itself, or is gone
            os.setpgid(pid, pid)
        child = Child(pid, ours)
        self._chosen.register(ours, selectors.EVENT_READ, name)
        return child


def _alone(sock: socket.socket) -> socket.socket:
    """In a child: nothing is open but its socket, and what it prints goes nowhere."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nowhere, number)
    kept = sock.fileno()
    os.closerange(3, kept)
    os.closerange(kept + 1, open_files.MOST)
    return sock


def _bound(limits: Episode) -> None:
    for kind, most in (
        (resource.RLIMIT_AS, limits.memory_mib * 2**20),
        (resource.RLIMIT_FSIZE, limits.file_mib * 2**20),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (limit, limit))
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _live(sock: socket.socket, found: Found, problem: dict[str, Any], limits: Episode, fenced: bool) -> None:
    """A child's whole life: one message in, one out."""
    folder = problem.pop("folder")
    random.seed(problem["seed"])
    made: Adapter | None = None
    stream = sock.makefile("rb")
    for line in stream:
        message = json.loads(line)
        try:
            if made is None:
                about = Problem(**problem, folder=Path(folder) if folder else None)
                made = Adapter(found.load(), found.options, about, fenced)
            said = _answer(made, message, limits)
        except MemoryError:
            said = {"failed": "environment", "why": f"ran out of memory ({limits.memory_mib} MiB)"}
        except Exception as error:  # whatever it raises concerns this episode alone, and is told
            said = {"failed": "environment", "why": f"{type(error).__name__}: {str(error)[:200]}"}
        # half a surrogate pair, which JSON may hold, is no text that anybody could write down
        sock.sendall(json.dumps(said, ensure_ascii=False).encode(errors="replace") + b"\n")


def _answer(made: Adapter, message: dict[str, Any], limits: Episode) -> dict[str, Any]:
    if message["do"] == "start":
        return {"said": _cut(made.start(), limits)}
    if message["do"] == "finish":
        return _over(made)
    step = made.step(message["said"], message["raw"])
    messages = [{**each, "content": _cut(each["content"], limits)} for each in step.messages]
    facts = {"messages": messages, "reward": step.reward, "done": step.done, "calls": step.calls}
    return {**facts, **_over(made)} if step.done else facts


def _over(made: Adapter) -> dict[str, Any]:
    """What an episode came to: its reward, or what is to be judged."""
    total = made.reward()
    return {"total": total, "answer": made.answer() if total is None else None}


def _cut(text: str | None, limits: Episode) -> str | None:
    most = limits.observation_characters
    return text if text is None or len(text) <= most else text[:most] + " ..."


def main(name: str, options: str, limits: str, fenced: str, parent: int) -> None:
    """Serve until the stage closes the input."""
    die_with(parent)
    open_files.allow_many()
    out = os.dup(1)
    os.dup2(2, 1)
    found = Found.named(name, "task.environment").with_options(json.loads(options))
    try:
        environment = found.load()
    except BadInput as error:
        os.write(out, json.dumps({"refused": str(error)}).encode() + b"\n")
        return
    tools = tools_of(environment) if found.kind == "tools" else []
    os.write(out, json.dumps({"tools": tools}).encode() + b"\n")
    worker = Worker(found, Episode.model_validate_json(limits), fenced == "fenced", out)
    try:
        worker.run()
    finally:
        worker.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]))
