"""A number game, the smallest example: the model guesses, and reads in which numbers the right one lies.

A guess that is not right makes the range smaller; what is read next is the range. The reward is 1 for the
number, and less by ``cost`` for each further turn that it took; 0 where it is not found.
"""

from __future__ import annotations

import re

from tasks.environments.base import Problem, Turn

RANGE = re.compile(r"(\d+)-(\d+)")


class Guess:
    """Asks for the number that is the problem's answer; its question holds the range, ``1-9``."""

    def __init__(self, cost: float = 0.0) -> None:
        self._cost = cost

    def start(self, problem: Problem) -> None:
        """Raises ``ValueError`` for a question without a range."""
        found = RANGE.search(problem.question)
        if found is None:
            raise ValueError(f"no range in {problem.question!r:.40}; expected one such as 1-9")
        self._low, self._high = int(found[1]), int(found[2])
        self._number, self._worth = int(problem.answer), 1.0

    def step(self, said: str) -> Turn:
        """Done with the right number; a guess that is none of the range changes nothing."""
        guess = int(said) if re.fullmatch(r"\s*\d{1,9}\s*", said) else None
        if guess == self._number:
            return Turn(reward=self._worth, done=True)
        self._worth = max(0.0, self._worth - self._cost)
        if guess is not None and self._low <= guess <= self._high:
            if guess < self._number:
                self._low = guess + 1
            else:
                self._high = guess - 1
        return Turn(f"{self._low}-{self._high}", reward=0.0)


ENVIRONMENT = Guess
