"""Which artefacts were made of others is found as if each manifest were looked at anew."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.artefacts.artefact import MANIFEST, Artefact, Source
from tasks.artefacts.store import Store
from tests.conftest import ROLES

STAGES = ("rollout", "update")
ONES = st.tuples(st.sampled_from(STAGES), st.integers(0, 2), st.frozensets(st.sampled_from("abcd")))


def made(store: Store, stage: str, round: int, inputs: frozenset[str], number: int) -> Artefact:
    """An artefact of inputs with these digests."""
    sources = {name: Source(stage="problems", fingerprint="0" * 64, digest=name * 64) for name in inputs}
    facts = {"role": ROLES[stage], "round": round, "inputs": sources, "seed": 0, "params": {}, "code": {}}
    fingerprint = hashlib.sha256(str(number).encode()).hexdigest()
    return store.make(stage, fingerprint, lambda _: {**facts, "versions": {}, "measured": {}})


@settings(max_examples=40, deadline=None)
@given(st.lists(ONES, max_size=8), st.lists(ONES, min_size=1, max_size=6))
def test_it_finds_all_and_no_other_though_more_come(
    there: list[tuple[str, int, frozenset[str]]], asked: list[tuple[str, int, frozenset[str]]]
) -> None:
    with tempfile.TemporaryDirectory() as root:
        store = Store(Path(root))
        assert not list(store.made_of.find("rollout", 0, set()))
        known: list[tuple[str, int, frozenset[str], str]] = []
        for number, one in enumerate(there):
            known.append((*one, made(store, *one, number).fingerprint))
            for stage, round, inputs in asked:
                wanted = {
                    fingerprint
                    for of, at, own, fingerprint in known
                    if (of, at) == (stage, round) and inputs <= own
                }
                digests = {name * 64 for name in inputs}
                found = [each.fingerprint for each in store.made_of.find(stage, round, digests)]
                assert len(found) == len(set(found))
                assert set(found) == wanted


def test_the_newest_is_first_and_what_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first, second, third = (made(store, "rollout", 1, frozenset("a"), number) for number in range(3))
    (second.path / MANIFEST).write_text("{")
    (store.artefacts / "rollout-other").mkdir()
    found = [each.fingerprint for each in store.made_of.find("rollout", 1, {"a" * 64})]
    assert found == [third.fingerprint, first.fingerprint]
    (third.path / MANIFEST).write_text("{")  # after it was known
    assert [each.path for each in store.made_of.find("rollout", 1, {"a" * 64})] == [first.path]
