"""Right answers, answers and whether these are right: pairs whose truth is known, for math_judge.py.

Values are drawn by kind (math_numbers.py, math_algebra.py, math_shapes.py) and written as a right answer and
in other forms; every form carries the value that it states, and the label is whether that is the right one.
No judge is asked. What is a matter of taste is fixed so:

- 35% is 35 percent is 0.35, and a bare 35 counts where 35% is right; 0.35 does not where a bare 35 is.
- Bare lists and sets may stand in any order; tuples and intervals may not, and keep their brackets.
- A unit that only one side has is ignored; two of one dimension are compared by value, others differ.
- A decimal of a value without a last digit counts from six significant digits, correctly rounded.
- An answer with a base must have the right one; bare digits count.
- Where a number is right the answer must be worked out; an unreduced fraction will do for a fraction.
- The last box counts, and what stands before the answer does not.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from math_algebra import ALGEBRA
from math_cases import Case
from math_numbers import NUMBERS
from math_shapes import SHAPES

KINDS = (*NUMBERS, *ALGEBRA, *SHAPES)


@dataclass(frozen=True)
class Pair:
    """An answer to a question of which ``gold`` is the right answer."""

    gold: str
    answer: str
    label: int
    """1 where the answer is right, else 0."""
    kind: str


FIXED = tuple(
    Pair(*row, "table")
    for row in (
        (r"35\%", r"\boxed{35\%}", 1),
        (r"35\%", r"\boxed{35 percent}", 1),
        (r"35\%", r"\boxed{0.35}", 1),
        ("-6", "#### \u22126", 1),
        ("9/4", "The board is 2 1/4 metres long.", 1),
        ("2", "The board is 2 2/3 metres long.", 0),
        ("4, 9", r"\boxed{9, 4}", 1),
        (r"2 - \frac{1}{\mathrm{e}}", r"\boxed{2 - \frac{1}{e}}", 1),
        ("33", "<think>11 times 3</think><answer>33</answer>", 1),
        (r"\frac{1}{2^{60}}", r"\boxed{\frac{1}{2^{61}}}", 0),
        ("0.0000003", r"\boxed{3 \times 10^{-7}}", 1),
        ("46", r"**Answer: \$46 per week.**", 1),
        ("2034_5", r"\boxed{2034_6}", 0),
    )
)
BOXES = (
    r"\boxed{%s}",
    r"The answer is $\boxed{%s}$.",
    "We add both sides.\n\\[\\boxed{%s}\\]",
    r"**Answer:** \boxed{%s}",
    r"<think>Let me see.</think><answer>\boxed{%s}</answer>",
)
"""What LaTeX may stand in as it is."""
CORRECTED = (
    r"At first \boxed{%(decoy)s}, but that is wrong. It is \boxed{%(form)s}.",
    r"<think>Perhaps \boxed{%(decoy)s}? No.</think>So it is \boxed{%(form)s}.",
)
"""Where another value stands in a box before the answer's."""
LINES = (
    "Step 1 gives 6 and step 2 gives 5.\n#### %s",
    "#### %s",
    "<think>First I look at it.</think><answer>%s</answer>",
    "<think>\nIs it so?\n</think>\n<answer> %s </answer>",
    "So the answer is %s.",
    "The answer is %s",
    "**%s**",
    "It took 3 steps.\n\n**Answer: %s**",
    "**Answer: %s.**",
    "**Final Answer:** %s",
    "Answer: %s",
)
"""What a text or ``$...$`` may stand in."""
NAMED = (r"\boxed{x = %s}", "Thus $x = %s$.")
_LATEX = re.compile(r"[\\_{]|[abx]\^|\d\^|\d[abix]\b|\(x")
_TYPED = re.compile(r"\*| x 10")


def pairs(draws: int, each: int, seed: int = 0) -> list[Pair]:
    """Of every kind, ``draws`` right answers, with ``each`` answers of either label or as many as it has."""
    found = list(FIXED)
    for kind in KINDS:
        rng = random.Random(f"{seed} {kind.__name__}")
        for _ in range(draws):
            drawn = kind(rng)
            for label in (1, 0):
                forms = drawn.labelled(label)
                assert forms, (kind.__name__, drawn.gold, label)
                assert not {*forms} & {*drawn.labelled(1 - label)}, (kind.__name__, drawn.gold)
                for form in rng.sample(forms, min(each, len(forms))):
                    decoy = drawn.gold if label == 0 else rng.choice(drawn.labelled(0))
                    answer = _framed(rng, form, decoy, drawn)
                    found.append(Pair(drawn.gold, answer, label, kind.__name__))
    return list(dict.fromkeys(found))


def _framed(rng: random.Random, form: str, decoy: str, drawn: Case) -> str:
    """The form as a model may write it, in a box or at the end of a text."""
    dollars = form.startswith("$")
    way = rng.random()
    if way < 0.12 and drawn.named and not form[-1].isalpha():
        return rng.choice(NAMED) % form
    if way < 0.22 and not dollars:
        return rng.choice(CORRECTED) % {"decoy": decoy, "form": form}
    if way < 0.58 and not dollars:
        return rng.choice(BOXES) % form
    latex = _LATEX.search(form) and not _TYPED.search(form) and not dollars and not form.startswith(r"\$")
    return rng.choice(LINES) % (f"${form}$" if latex else form)


def counts(found: list[Pair]) -> Iterator[tuple[str, int, int]]:
    """Each kind, with how many of its answers are right and how many wrong."""
    for kind in dict.fromkeys(pair.kind for pair in found):
        labels = [pair.label for pair in found if pair.kind == kind]
        yield kind, sum(labels), len(labels) - sum(labels)
