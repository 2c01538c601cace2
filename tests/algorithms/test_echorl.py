"""EchoRL: where answers are cut, which cut is chosen, what its gradient is, and what selection is worth."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from algorithms.echorl import Config, acts, candidates, chosen_step, steps, term
from algorithms.terms import Batch
from params.base import BadInput, Choice
from tests.algorithms.replay_cases import values

dyadic = st.integers(0, 64).map(lambda n: n / 16)
"""Entropies whose sums are exact, so that ties are ties."""


@st.composite
def groups(draw: st.DrawFn) -> tuple[list[list[float]], list[list[bool]], list[float]]:
    """Entropies, boundaries and rewards of one to five responses of one to eight tokens."""
    lengths = draw(st.lists(st.integers(1, 8), min_size=1, max_size=5))
    entropies = [draw(st.lists(dyadic, min_size=n, max_size=n)) for n in lengths]
    boundaries = [draw(st.lists(st.booleans(), min_size=n, max_size=n)) for n in lengths]
    rewards = draw(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=len(lengths), max_size=len(lengths)))
    return entropies, boundaries, rewards


def span(case: Any, **more: Any) -> tuple[int, int] | None:
    entropies, boundaries, rewards = case
    found = chosen_step(entropies, [steps(b) for b in boundaries], rewards, **more)
    return None if found is None else (found.sample, found.step[1])


@given(st.lists(st.booleans(), max_size=20))
def test_steps_partition_the_response(boundary: list[bool]) -> None:
    found = steps(boundary)
    assert [place for start, stop in found for place in range(start, stop)] == list(range(len(boundary)))
    ends = [stop - 1 for _, stop in found]
    assert [i for i, closes in enumerate(boundary) if closes] == [i for i in ends if boundary[i]]
    assert all(boundary[end] for end in ends[:-1])
    assert steps(torch.tensor(boundary, dtype=torch.bool)) == found


def test_a_boundary_closes_its_own_step_and_a_tail_is_one() -> None:
    assert steps([False, True, True, False]) == [(0, 2), (2, 3), (3, 4)]
    assert steps([False, True]) == [(0, 2)]
    assert steps([]) == []


@given(groups())
def test_the_clip_ends_at_the_end_of_a_right_answers_most_uncertain_step(case: Any) -> None:
    entropies, boundaries, rewards = case
    found = span(case)
    right = [i for i, reward in enumerate(rewards) if reward == 1.0]
    assert (found is None) == (not right)
    if found is None:
        return
    sample, stop = found
    assert sample in right
    means = {(i, b): sum(entropies[i][a:b]) / (b - a) for i in right for a, b in steps(boundaries[i])}
    assert means[sample, stop] == max(means.values())
    assert (sample, stop) == min(place for place, mean in means.items() if mean == max(means.values()))


@given(groups(), st.randoms(use_true_random=False))
def test_the_order_of_the_answers_decides_nothing_but_ties(case: Any, chance: Any) -> None:
    order = list(range(len(case[0])))
    chance.shuffle(order)
    one, two = span(case), span(tuple([part[i] for i in order] for part in case))
    assert (one is None) == (two is None)
    if one is not None and two is not None:
        alone = [span(([e], [b], [1.0])) for e, b in zip(case[0], case[1], strict=True)]
        best = [_highest(e, b) for e, b in zip(case[0], case[1], strict=True)]
        assert best[order[two[0]]] == best[one[0]]
        assert (0, two[1]) == alone[order[two[0]]]
        rivals = [i for i, value in enumerate(best) if value == best[one[0]] and case[2][i] == 1.0]
        assert len(rivals) > 1 or (order[two[0]], two[1]) == one


def _highest(entropies: list[float], boundary: list[bool]) -> float:
    return max(sum(entropies[a:b]) / (b - a) for a, b in steps(boundary))


@given(groups(), dyadic)
def test_a_constant_on_all_entropies_changes_nothing(case: Any, constant: float) -> None:
    raised = [[value + constant for value in row] for row in case[0]]
    assert span((raised, *case[1:])) == span(case)


def test_no_delimiter_is_the_whole_answer_and_no_success_no_clip() -> None:
    assert span(([[1.0, 2.0, 3.0]], [[False] * 3], [1.0])) == (0, 3)
    assert span(([[1.0, 2.0]], [[True, True]], [0.0])) is None
    assert span(([], [], [])) is None
    assert span(([[math.nan, 2.0]], [[False] * 2], [1.0])) is None


def test_failures_are_left_out_and_triggers_differ() -> None:
    case: Any = ([[9.0, 9.0], [1.0, 2.0]], [[True, True]] * 2, [0.0, 1.0])
    assert span(case) == (1, 2)
    assert span(case, trigger="all_success") is None
    assert span((*case[:2], [1.0, 1.0]), trigger="all_success") == (0, 1)
    assert span(case, lowest=True) == (1, 1)


def test_short_steps_can_be_passed_over() -> None:
    case: Any = ([[1.0, 1.0, 5.0, 2.0, 2.0]], [[False, True, True, False, True]], [1.0])
    assert span(case) == (0, 3)
    assert span(case, min_step_tokens=2) == (0, 5)
    assert span(case, min_step_tokens=3) is None


# Two problems: responses 0 to 2 of the first (the last is wrong), 3 of the second; 4 is a replayed one.
LENGTHS = (4, 5, 3, 4, 6)
REWARD = (1.0, 1.0, 0.0, 1.0, 1.0)
GROUP = (0, 0, 0, 1, 0)
FRESH = (True, True, True, True, False)
ENTROPY = (0.1, 0.2, 0.3, 0.1, 0.1, 0.2, 2.0, 1.0, 0.4, 9.0, 9.0, 9.0, 0.5, 0.5, 0.1, 0.1, *(9.0,) * 6)
BOUNDARY = (0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0)


def batch(**more: Any) -> Batch:
    sequence = torch.arange(5).repeat_interleave(torch.tensor(LENGTHS))
    facts: dict[str, Any] = {
        "sequence": sequence,
        "behaviour_logp": torch.full((22,), -1.0),
        "advantage": torch.zeros(22),
        "importance": torch.ones(22),
        "fresh": torch.tensor(FRESH),
        "max_tokens": 8,
        "reward": torch.tensor(REWARD),
        "group": torch.tensor(GROUP),
        "entropy": torch.tensor(ENTROPY),
        "boundary": torch.tensor(BOUNDARY).bool(),
        "chance": torch.tensor([0.9, 0.1, 0.99, 0.5, 0.999], dtype=torch.float64),
    }
    return Batch(**{**facts, **more})


def spans(**options: Any) -> list[tuple[int, int]]:
    return [(c.response, c.stop) for c in term(batch(), Config(**options)).spans]


def test_every_selection_of_a_batch() -> None:
    assert spans() == [(1, 4), (3, 2)]
    assert spans(select="min_entropy") == [(0, 2), (3, 4)]
    assert spans(select="whole") == [(1, 5), (3, 4)]
    assert spans(select="whole_high") == spans(select="whole_high", min_step_tokens=99) == [(1, 5), (3, 4)]
    assert spans(select="whole_low") == [(0, 4), (3, 4)]
    assert spans(select="random_clip") == [(0, 4), (3, 2)]
    assert spans(trigger="all_success") == [(3, 2)]
    assert spans(coefficient=0.0) == []
    chosen = term(batch(), Config()).spans[0]
    assert (chosen.start, chosen.step_start, chosen.step_stop) == (0, 2, 4)
    assert chosen.entropy == pytest.approx(1.5)


def test_whole_answers_go_by_the_mean_over_all_their_tokens() -> None:
    entropy = torch.tensor(ENTROPY)
    entropy[:4] = torch.tensor([0.9, 0.9, 0.9, 0.9])  # no step of it is the highest, its mean is
    found = batch(entropy=entropy)
    assert term(found, Config()).spans[0].response == 1
    high, low = (
        term(found, Config.model_validate({"select": select})).spans[0]
        for select in ("whole_high", "whole_low")
    )
    assert (high.response, high.start, high.stop, high.selection) == (0, 0, 4, "whole_high")
    assert (high.step_start, high.step_stop) == (0, 4)
    assert high.entropy == pytest.approx(0.9)
    assert (low.response, low.stop) == (1, 5)
    assert low.entropy == pytest.approx(3.7 / 5)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 12))
def test_the_window_says_in_which_rounds_it_acts(first: int, length: int, round: int) -> None:
    last = first + length - 1
    assert acts(Config(rounds=(first, last)), round) == (round in range(first, last + 1))
    assert acts(Config(), round)


def test_a_random_clip_is_as_long_and_is_drawn_by_the_answers_own_number() -> None:
    other = batch(chance=torch.tensor([0.1, 0.9, 0.0, 0.5, 0.0], dtype=torch.float64))
    assert [(c.response, c.stop) for c in term(other, Config(select="random_clip")).spans] == [(1, 4), (3, 2)]
    short = batch(chance=torch.tensor([0.9, 0.1, 0.0, 0.5, 0.0], dtype=torch.float64), entropy=_late())
    assert [(c.response, c.stop) for c in term(short, Config(select="random_clip")).spans] == [(1, 5), (3, 2)]


def _late() -> Tensor:
    """The first problem's most uncertain step ends at token five, which one answer alone has."""
    entropy = torch.tensor(ENTROPY)
    entropy[8] = 5.0
    return entropy


def test_the_gradient_on_the_logits() -> None:
    coefficient = 0.25
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(22, 7, generator=generator, dtype=torch.float64).requires_grad_(True)
    token = torch.randint(7, (22, 1), generator=generator)
    echo = term(batch(), Config(coefficient=coefficient))
    loss, metrics = values(echo, logits.log_softmax(-1).gather(1, token).squeeze(1))
    (found,) = torch.autograd.grad(loss, logits)
    expected = torch.zeros(22, 7, dtype=torch.float64)
    for first, length in ((4, 4), (12, 2)):  # the spans (1, 4) and (3, 2), of two problems
        inside = slice(first, first + length)
        onehot = torch.nn.functional.one_hot(token[inside, 0], 7)
        expected[inside] = coefficient * (logits[inside].softmax(-1) - onehot) / (length * 2)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-6, atol=0.0)
    assert torch.equal(found[expected.abs().sum(1) == 0], torch.zeros(16, 7, dtype=torch.float64))
    assert set(metrics) == {"nll"}


def test_the_order_of_the_batch_changes_no_scale() -> None:
    order = torch.tensor([3, 0, 4, 2, 1])
    lengths = torch.tensor(LENGTHS)
    places = torch.cat([torch.arange(22).split(LENGTHS)[i] for i in order.tolist()])
    moved = batch(
        sequence=torch.arange(5).repeat_interleave(lengths[order]),
        **{name: getattr(batch(), name)[order] for name in ("fresh", "reward", "group", "chance")},
        **{name: getattr(batch(), name)[places] for name in ("entropy", "boundary")},
    )
    for select in ("max_entropy", "min_entropy", "random_clip", "whole", "whole_high", "whole_low"):
        config = Config(select=select)  # type: ignore[arg-type]
        assert torch.equal(term(moved, config).scale, term(batch(), config).scale[places])


def test_candidates_are_fresh_and_right() -> None:
    facts = (torch.tensor(REWARD), torch.tensor(GROUP), torch.tensor(FRESH))
    assert candidates(*facts, Config()).tolist() == [True, True, False, True, False]
    assert candidates(*facts, Config(trigger="all_success")).tolist() == [False, False, False, True, False]


def test_options_that_contradict_each_other() -> None:
    for options in ({"boundary": "characters"}, {"characters": "|"}):
        with pytest.raises(BadInput, match="characters"):
            Choice(name="echorl", **options).resolve(Config, "method.terms.0")  # type: ignore[arg-type]
    for rounds in ([3, 2], [0, 2]):
        with pytest.raises(BadInput, match="rounds"):
            Choice(name="echorl", rounds=rounds).resolve(Config, "method.terms.0")  # type: ignore[call-arg]


PROBABILITY = torch.tensor([0.5, 0.2, 0.2, 0.1], dtype=torch.float64)
LABEL = (0.3, 2.0, 1.0, 0.3)
"""Entropy of the one step of each of a bandit's four answers, of which two are equal."""


def expected_gradient(group: int, select: str) -> Tensor:
    """The mean gradient of log pi(echoed answer) on the logits, over every group of answers and draw."""
    total = torch.zeros(4, dtype=torch.float64)
    logits = PROBABILITY.log().requires_grad_(True)
    for answers in itertools.product(range(4), repeat=group):
        weight = float(PROBABILITY[list(answers)].prod())
        for favourite in range(group):  # the answer with the highest draw: each as likely
            case = Batch(
                sequence=torch.arange(group),
                behaviour_logp=torch.zeros(group),
                advantage=torch.zeros(group),
                importance=torch.ones(group),
                fresh=torch.ones(group, dtype=torch.bool),
                max_tokens=1,
                reward=torch.ones(group),
                group=torch.zeros(group, dtype=torch.int64),
                entropy=torch.tensor([LABEL[a] for a in answers]),
                boundary=torch.zeros(group, dtype=torch.bool),
                chance=torch.nn.functional.one_hot(torch.tensor(favourite), group).double(),
            )
            echo = term(case, Config(coefficient=1.0, select=select))  # type: ignore[arg-type]
            loss, _ = values(echo, logits.log_softmax(-1)[list(answers)])
            (slope,) = torch.autograd.grad(loss, logits)
            total -= weight / group * slope
    return total


@pytest.mark.parametrize("group", [1, 3])
def test_without_selection_the_echo_is_nothing_on_average(group: int) -> None:
    torch.testing.assert_close(
        expected_gradient(group, "random_clip"), torch.zeros(4, dtype=torch.float64), rtol=0.0, atol=1e-12
    )


@pytest.mark.parametrize("group", [2, 3])
def test_selection_by_entropy_pulls_towards_the_answers_with_the_highest(group: int) -> None:
    below = [float(PROBABILITY[torch.tensor(LABEL) < label].sum()) for label in LABEL]
    upto = [float(PROBABILITY[torch.tensor(LABEL) <= label].sum()) for label in LABEL]
    equals = [b - a for a, b in zip(below, upto, strict=True)]
    largest = [  # of equals the first in the group, which is any of them in proportion
        float(p) / e * (b**group - a**group)
        for p, e, a, b in zip(PROBABILITY, equals, below, upto, strict=True)
    ]
    expected = torch.tensor(largest, dtype=torch.float64) - PROBABILITY
    torch.testing.assert_close(expected_gradient(group, "max_entropy"), expected, rtol=0.0, atol=1e-9)
    assert float(expected.abs().max()) > 0.1
