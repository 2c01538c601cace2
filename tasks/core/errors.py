"""A stage that could not be made, though the input was right."""


class StageFailure(Exception):
    """Says in one line what happened and what to do. Everything finished before it is intact."""
