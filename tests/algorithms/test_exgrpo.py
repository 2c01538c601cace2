"""ExGRPO: the shaped ratio, the buckets, which problems return and with which answer."""

from __future__ import annotations

import math
from collections import Counter

import pyarrow as pa
import pytest
import torch

from algorithms import exgrpo
from algorithms.exgrpo import Config, bucket_probabilities, shaped
from algorithms.terms import aggregation_scale
from tests.algorithms.replay_cases import batch, chance, fresh, no_entropy, slope, stored, values

PUBLISHED = [0.0044, 0.0540, 0.2420, 0.3991, 0.2420, 0.0540, 0.0044]


def test_the_shaped_ratio() -> None:
    logs = torch.tensor([0.0, math.log(0.1)], dtype=torch.float64, requires_grad=True)
    value = shaped(logs.exp())
    (found,) = torch.autograd.grad(value.sum(), logs)
    assert float(value[0].detach()) == pytest.approx(1 / 1.1)
    assert found.tolist() == pytest.approx([0.0826446, 0.25], abs=5e-8)
    near = torch.linspace(-8.0, 4.0, 2001, dtype=torch.float64, requires_grad=True)
    (slopes,) = torch.autograd.grad(shaped(near.exp()).sum(), near)
    assert float(slopes.max()) <= 0.25
    assert float(near.detach()[slopes.argmax()]) == pytest.approx(math.log(0.1), abs=0.01)


def test_the_bucket_probabilities_of_groups_of_eight() -> None:
    found = bucket_probabilities(torch.arange(1, 8), 8, Config())
    assert found.tolist() == pytest.approx(PUBLISHED, abs=5e-5)
    assert float(found.sum()) == pytest.approx(1.0)


@pytest.mark.parametrize("samples", [2, 4, 16])
def test_other_group_sizes_keep_the_shares(samples: int) -> None:
    found = bucket_probabilities(torch.arange(1, samples), samples, Config())
    weights = [math.exp(-0.5 * ((k / samples - 0.5) / 0.125) ** 2) for k in range(1, samples)]
    assert found.tolist() == pytest.approx([w / sum(weights) for w in weights])


def chosen(counts: dict[str, tuple[int, int]], count: int, seed: int, share: float = 0.5) -> list[str]:
    buffer = stored([(p, 1.0) for p in counts], [(p, k, n) for p, (k, n) in counts.items()])
    rows, results = buffer.to_table(), buffer.results
    return exgrpo.problems(rows, results, count, Config(share=share), chance(seed)).replayed


def test_problems_return_by_their_bucket() -> None:
    counts = {f"p{k}{i}": (k, 8) for k in range(1, 8) for i in range(3)}
    seen: Counter[int] = Counter()
    for seed in range(3000):
        (problem,) = chosen(counts, 2, seed)
        seen[int(problem[1])] += 1
    for k, wanted in enumerate(PUBLISHED, start=1):
        assert seen[k] / 3000 == pytest.approx(wanted, abs=5 * math.sqrt(wanted * (1 - wanted) / 3000))


def test_what_a_bucket_cannot_give_the_others_do() -> None:
    counts = {"half": (4, 8), "rare": (1, 8), "often": (7, 8)}
    assert sorted(chosen(counts, 6, seed=0)) == ["half", "often", "rare"]
    assert len(chosen(counts, 100, seed=0)) == 3
    assert chosen(counts, 1, seed=0) == []
    assert chosen({}, 8, seed=0) == []
    assert chosen(counts, 4, seed=5) == chosen(counts, 4, seed=5)


def test_a_solved_problem_retires_and_a_replayed_answer_counts() -> None:
    rows = [("solved", 1.0), ("short", 1.0), ("open", 1.0)]
    results = [("solved", 8, 8), ("short", 7, 7), ("open", 0, 7), ("unseen", 0, 8)]
    buffer = stored(rows, results)
    asked = exgrpo.problems(buffer.to_table(), buffer.results, 8, Config(share=1.0), chance())
    assert asked.retired == {"solved", "short"}
    assert asked.replayed == ["open"]


def test_the_answer_of_lowest_entropy_joins_a_group_that_is_short() -> None:
    buffer = stored([("a", 1.0), ("b", 1.0), ("a", 1.0), ("a", 1.0)])
    entropies = {0: 0.5, 1: 0.1, 2: 0.2, 3: 0.9}
    asked: list[int] = []

    def entropy(rows: pa.Table) -> torch.Tensor:
        asked.extend(rows["sample"].to_pylist())
        return torch.tensor([entropies[place] for place in rows["sample"].to_pylist()])

    drawn = exgrpo.draw(fresh(["x", "a"], missing=1), buffer, Config(), chance(), entropy)
    assert (drawn.into, drawn.anchor) == ("denominator", "stored")
    assert drawn.group.tolist() == [1]
    assert drawn.rows["sample"].to_pylist() == [2]
    assert asked == [0, 2, 3]
    whole = exgrpo.draw(fresh(["x", "a"]), buffer, Config(), chance(), no_entropy)
    assert whole.rows.num_rows == 0


@pytest.mark.parametrize("how", ["token_mean", "sequence_mean", "constant"])
def test_the_loss_of_the_replayed_tokens(how: str) -> None:
    replayed = torch.tensor([False, False, True, False, False])
    given = batch(
        counted=torch.tensor([True, True, True, True, False]),
        objective=~replayed,
        aggregation=how,
    )
    term = exgrpo.term(given, Config())
    mine = replayed[given.sequence]
    assert torch.equal(term.scale != 0, mine)
    counted = given.counted
    assert counted is not None
    scale = aggregation_scale(given.sequence, counted[given.sequence], how, 10)  # type: ignore[arg-type]
    torch.testing.assert_close(term.scale[mine], scale[mine])
    logp = given.behaviour_logp + 0.4
    ratio = math.exp(0.4)
    loss, metrics = values(term, logp)
    assert float(loss) == pytest.approx(-0.7 * ratio / (ratio + 0.1) * float(scale[mine].sum()), rel=1e-6)
    expected = torch.where(mine, -scale * given.advantage * 0.1 * ratio / (ratio + 0.1) ** 2, 0.0).double()
    torch.testing.assert_close(slope(term, logp), expected, rtol=1e-6, atol=1e-12)
    assert metrics["ratio"] == pytest.approx(torch.full((15,), ratio).double())


def test_without_replay_there_is_no_loss() -> None:
    assert not exgrpo.term(batch(), Config()).scale.any()
