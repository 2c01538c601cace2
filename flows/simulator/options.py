"""What ``ostinato plan --simulate`` is asked."""

from __future__ import annotations

from dataclasses import dataclass, fields

from flows.planner.plan import PlanOptions
from params.base import BadInput

LEAST, MOST = 1e-9, 1e9
"""Between which a number must be, where it is not 0: beyond, sums end in infinities and loops in none."""
_WITHIN = f", within {LEAST:g} and {MOST:g}"
MOST_LOSSES = 1e6
"""Of one server in an hour: each is simulated, through stages that do not sample, too."""
USUAL = {"model": "smollm2-135m", "task": "arithmetic", "method": "grpo", "gpus": 0}
"""The plan's own options where nothing is said."""


@dataclass(frozen=True)
class SimulateOptions:
    """Beside the plan's own options; a field is called as its option is."""

    plan: PlanOptions
    like: str | None = None
    servers: int | None = None
    server_speeds: tuple[float, ...] = ()
    tokens_per_second: float | None = None
    step_seconds: tuple[float, ...] = ()
    update_seconds: float | None = None
    learned_tokens_per_second: float | None = None
    lengths: tuple[float, ...] = ()
    """Mean and sigma."""
    losses_per_hour: float = 0.0
    back_after: float = 60.0
    cores: int | None = None
    seed: int = 0

    def given(self) -> list[str]:
        """The options that say something of a simulation."""
        own = [field for field in fields(self) if field.name != "plan"]
        return [spelled(field.name) for field in own if getattr(self, field.name) != field.default]

    def check(self) -> None:
        """Raises ``BadInput`` for options that go not together, or a number that is none."""
        for name in ("tokens_per_second", "update_seconds", "learned_tokens_per_second"):
            self._number(name, above=True)
        for name in ("losses_per_hour", "back_after"):
            self._number(name, above=False)
        if self.like and (other := [n for n, usual in USUAL.items() if getattr(self.plan, n) != usual]):
            raise BadInput(f"--{other[0]}: --like {self.like} says it; expected one of the two")
        if self.plan.price is not None:
            raise BadInput("--price: a simulation has no cost; expected none with --simulate")
        if self.servers and self.server_speeds and self.servers != len(self.server_speeds):
            count = len(self.server_speeds)
            raise BadInput(f"--servers {self.servers}: {count} are in --server-speeds; expected as many")
        if self.server_speeds and not all(self.server_speeds):
            raise BadInput("--server-speeds: a server without speed; expected numbers above 0")
        self._once("step_seconds", "tokens_per_second")
        self._once("update_seconds", "learned_tokens_per_second")
        if self.losses_per_hour > MOST_LOSSES:
            raise BadInput(f"--losses-per-hour {self.losses_per_hour:g}: expected at most {MOST_LOSSES:g}")
        if self.step_seconds and not sum(self.step_seconds):
            raise BadInput("--step-seconds: a step of no time; expected one part above 0")
        if self.lengths and self.lengths[0] < 1:
            raise BadInput(f"--lengths: a mean of {self.lengths[0]:g} tokens; expected 1 or more")

    def _once(self, name: str, other: str) -> None:
        if getattr(self, name) and getattr(self, other):
            raise BadInput(f"{spelled(name)}: {spelled(other)} says the same; expected one of the two")

    def _number(self, name: str, above: bool) -> None:
        value = getattr(self, name)
        if value is not None and not (_bearable(value) and (value or not above)):
            kind = "above 0" if above else "of 0 or more"
            raise BadInput(f"{spelled(name)} {value:g}: expected a number {kind}{_WITHIN}")


def _bearable(value: float) -> bool:
    return value == 0 or LEAST <= value <= MOST


def spelled(name: str) -> str:
    """As a person types it."""
    return "--" + name.replace("_", "-")


def numbers(option: str, text: str | None, count: int | None = None) -> tuple[float, ...]:
    """Numbers of 0 or more with commas between; none where nothing was said. Raises ``BadInput``."""
    if text is None:
        return ()
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or (count and len(found) != count) or not all(map(_bearable, found)):
        raise BadInput(
            f"{option} {text}: expected {count or 'some'} numbers of 0 or more with commas between{_WITHIN}"
        )
    return found
