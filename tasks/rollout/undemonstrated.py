"""Problems without demonstrations: a run that learns from them does not begin."""

from __future__ import annotations

from algorithms import contract
from params.base import BadInput
from params.schema import Params
from tasks.artefacts.artefact import Artefact


def asks(params: Params) -> str | None:
    """What of a run wants demonstrations, for messages; None: nothing."""
    if params.sft and params.sft.policy is None:
        return "sft"
    choice = params.method.replay
    part = contract.find(choice.name, "draw", "method.replay") if choice else None
    return f"method.replay {choice.name}" if choice and part and part.demonstrated() else None


def refuse_undemonstrated(problems: Artefact, params: Params) -> None:
    """Raises ``BadInput`` where a run wants demonstrations and no training problem has one."""
    said, wanted = problems.json("metrics.json"), asks(params)
    if wanted and not said["demonstrated"]:
        raise BadInput(
            f"task.problems: none of the {said['train']} training problems has a demonstration, which "
            f"{wanted} asks for; expected worked solutions in a column 'solution' (task.problems.solution "
            "names another)"
        )
