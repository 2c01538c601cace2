"""Claims on making something: one holds it, who dies loses it, a store that cannot keep them is found out."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.remote.claims import Claim, Contest, Owner
from tasks.remote.conditional import ConditionalObjects
from tasks.remote.objects import Bucket as Objects
from tasks.remote.remote import Remote
from tests.buckets import Bucket, Exchange, Harm, proxied

LEASE = 30.0
ResultT = TypeVar("ResultT")


class World:
    """A store in memory with compare-and-swap, a clock, and requests that take their time."""

    def __init__(self, chance: random.Random) -> None:
        self.chance, self.now = chance, 0.0
        self._held: dict[str, tuple[bytes, str]] = {}
        self._writes = 0

    def clock(self) -> float:
        return self.now

    def get(self, key: str) -> tuple[bytes, str] | None:
        return self._slowly(lambda: self._held.get(key))

    def create(self, key: str, data: bytes) -> str | None:
        return self._slowly(lambda: None if key in self._held else self._put(key, data))

    def replace(self, key: str, data: bytes, tag: str) -> str | None:
        def put() -> str | None:
            there = self._held.get(key)
            return self._put(key, data) if there and there[1] == tag else None

        return self._slowly(put)

    def delete(self, key: str) -> None:
        self._slowly(lambda: self._held.pop(key, None))

    def _put(self, key: str, data: bytes) -> str:
        assert data not in [content for content, _ in self._held.values()], "a tag is of one content"
        self._writes += 1
        self._held[key] = data, str(self._writes)
        return str(self._writes)

    def _slowly(self, action: Callable[[], ResultT]) -> ResultT:
        self.now += self.chance.choice((0.0, 0.1, LEASE / 5))
        done = action()
        self.now += self.chance.choice((0.0, 0.1, LEASE / 5))
        return done


class Machine:
    """Does one thing at a time of what a machine may do, and now and then dies and begins anew."""

    def __init__(self, world: World, name: str) -> None:
        self._world, self._owner = world, Owner(name, 1, name)
        self.begin_anew()

    def begin_anew(self) -> None:
        self.contest = Contest(self._world, "claim", self._owner, LEASE, self._world.clock)
        self.claim: Claim | None = None
        self.free = self.made = False

    @property
    def makes(self) -> bool:
        return self.claim is not None and self.claim.holds

    def step(self, there: bool) -> bool:
        """Something; whether the thing is there afterwards."""
        chance = self._world.chance.random()
        if chance < 0.05:
            self.begin_anew()
        elif self.claim is not None:
            self._hold(self.claim, chance)
            there = there or self.made
        elif self.free:
            self.claim, self.free = self.contest.take(), False
            if self.claim is not None and there:  # it looks once more before it makes it
                self.claim.remove()
                self.claim = None
        else:
            self.free = self.contest.look() is None
        return there

    def _hold(self, claim: Claim, chance: float) -> None:
        if chance < 0.6:
            if not claim.renew():
                self.claim = None
        elif chance < 0.7:
            claim.give_back()
            self.claim = None
        elif chance < 0.73:
            self.made = True
            self.claim = None
            claim.remove()


@settings(max_examples=300)
@given(st.integers(0, 2**32), st.integers(2, 4))
def test_never_do_two_hold_it_whose_leases_both_run(seed: int, count: int) -> None:
    chance = random.Random(seed)
    world, there = World(chance), False
    machines = [Machine(world, str(number)) for number in range(count)]
    for _ in range(150):
        there = chance.choice(machines).step(there)
        if there:
            break
        assert sum(machine.makes for machine in machines) <= 1
        world.now += chance.choice((0.0, 0.0, 1.0, LEASE / 3, 1.5 * LEASE))


@given(st.integers(0, 2**32))
def test_what_a_dead_machine_held_is_free_after_its_lease_and_not_before(seed: int) -> None:
    chance = random.Random(seed)
    world = World(chance)
    dead = Contest(world, "claim", Owner("dead", 1, "dead"), LEASE, world.clock)
    assert dead.look() is None
    claim = dead.take()
    assert claim is not None
    for _ in range(chance.randrange(4)):
        claim.renew()
    other = Contest(world, "claim", Owner("other", 1, "other"), LEASE, world.clock)
    seen = world.now
    assert other.look() == "dead, process 1"
    while other.look() is not None:
        assert world.now < seen + 1.5 * LEASE
        world.now += 1.0
    assert not claim.holds
    assert other.take() is not None
    assert not claim.renew()


def test_the_workspace_that_held_it_has_it_again_at_once() -> None:
    world = World(random.Random(0))
    before, after = (Contest(world, "claim", Owner("here", pid, "w"), LEASE, world.clock) for pid in (1, 2))
    before.look(), before.take()
    assert after.look() is None
    assert after.take() is not None


ENDLESS = '{"owner": {"host": "h", "pid": 1, "workspace": "x"}, "token": "t", "lease": %s, "beat": 1}'


@pytest.mark.parametrize("said", ["[]", ENDLESS % "NaN", ENDLESS % "Infinity", ENDLESS % "1e9"])
def test_what_is_no_claim_lapses_too(said: str) -> None:
    world = World(random.Random(0))
    world.create("claim", said.encode())
    contest = Contest(world, "claim", Owner("here", 1, "w"), LEASE, world.clock)
    assert contest.look() == "somebody"
    world.now += LEASE
    assert contest.look() is None
    assert contest.take() is not None


def test_in_a_bucket_one_of_two_has_it(shared_bucket: Bucket) -> None:
    with Remote(shared_bucket.settings()) as remote:
        assert remote.knows_claims()
        assert not shared_bucket.keys()
        one, other = (remote.contest("update", "f" * 64, name, LEASE) for name in ("one", "other"))
        assert one.look() is None
        assert other.look() is None
        claim = one.take()
        assert claim is not None
        assert other.take() is None
        assert other.look() is not None
        (key,) = shared_bucket.keys()
        assert key == f"some/where/claims/update/{'f' * 64}.json"
        assert claim.renew()
        claim.give_back()
        assert other.look() is None
        taken = other.take()
        assert taken is not None
        assert not claim.renew()
        taken.remove()
        assert not shared_bucket.keys()


def test_an_answer_that_is_lost_loses_no_claim(shared_bucket: Bucket) -> None:
    """The write came through, and the next attempt finds that it did."""

    def harm(exchange: Exchange) -> str | None:
        return "lose answer" if exchange.method == "PUT" and exchange.number % 2 == 0 else None

    with proxied(shared_bucket.endpoint, harm) as proxy:
        objects = Objects(shared_bucket.settings(endpoint_url=proxy.address), shared_bucket.name)
        stored = ConditionalObjects(objects)
        tag = stored.create("it", b"1")
        assert tag is not None
        assert stored.replace("it", b"2", tag) is not None
        assert proxy.harmed
        objects.close()


@pytest.mark.parametrize(
    "harm",
    [
        lambda exchange: "ignore conditions",
        lambda exchange: (501, "NotImplemented") if exchange.method == "PUT" else None,
        lambda exchange: (400, "InvalidArgument") if exchange.method == "PUT" else None,
    ],
)
def test_a_store_that_knows_no_conditions_is_found_out(shared_bucket: Bucket, harm: Harm) -> None:
    with (
        proxied(shared_bucket.endpoint, harm) as proxy,
        Remote(shared_bucket.settings(endpoint_url=proxy.address)) as remote,
    ):
        assert not remote.knows_claims()
    assert not shared_bucket.keys()
