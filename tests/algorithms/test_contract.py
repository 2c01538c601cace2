"""The methods' contract: what is found, and what is refused before it would be ignored."""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import algorithms
from algorithms import contract, dyjr, echorl
from algorithms.contract import Hooks
from params.base import BadInput
from tasks.problems.contract import find_source

Write = Callable[[str], str]

OBJECTIVE = """
import torch
from algorithms.diagnostics import policy_shift
from algorithms.terms import MetricLabel
from params.base import Config as Options

__all__ = ["softness"]
METRICS = (MetricLabel("pull", "Pull", "mean"),)

class Config(Options):
    strength: float = 2.0

def token_loss(logp, behaviour_logp, advantage, sequence, config):
    return -softness(config) * advantage * logp, {"pull": advantage}

def softness(config):
    return config.strength

def _helper():
    pass
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a module of a user's own in the current directory; its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    package = f"methods_of_{tmp_path.name}"
    (tmp_path / package).mkdir()

    def put(source: str) -> str:
        (tmp_path / package / "softer.py").write_text(source)
        sys.modules.pop(f"{package}.softer", None)
        return f"{package}.softer"

    yield put
    sys.modules.pop(f"{package}.softer", None)


def methods() -> list[tuple[str, Any]]:
    """Each module of the package with each of the hooks that make it a part of a method."""
    names = [info.name for info in pkgutil.iter_modules(algorithms.__path__)]
    found = []
    for name in names:
        for hook in ("token_loss", "term", "draw"):
            source = (Path(algorithms.__path__[0]) / f"{name}.py").read_text()
            if f"\ndef {hook}(" in source:
                found.append((name, hook))
    return found


@pytest.mark.parametrize(("name", "hook"), methods())
def test_every_method_here_keeps_the_contract(name: str, hook: Any) -> None:
    found = contract.find(name, hook, "method")
    assert (found.name, found.file.name) == (name, f"{name}.py")
    assert callable(getattr(found, hook))


def test_a_record_has_what_its_module_has_and_no_more() -> None:
    found = contract.find("echorl", "term", "method.terms.0")
    assert (found.boundary, found.candidates) == (echorl.boundary, echorl.candidates)
    assert (found.token_loss, found.draw, found.problems, found.MEASURES_DRIFT) == (None, None, None, False)
    assert contract.find("dyjr", "draw", "method.replay").MEASURES_DRIFT
    assert dyjr.METRICS == contract.find("dyjr", "term", "method.terms.0").METRICS


def test_a_method_of_ones_own_is_found_and_computes(write: Write) -> None:
    found = contract.find(write(OBJECTIVE), "token_loss", "method.objective")
    assert found.name == "softer"
    assert found.file.name == "softer.py"
    assert [label.label for label in found.METRICS] == ["Pull"]
    assert found.token_loss is not None
    loss, _ = found.token_loss(3.0, 0.0, 1.0, 0, found.Config())  # type: ignore[arg-type]
    assert loss == -6.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("def token_loss", "def tokens_loss"),
            r"softer\.py: 'tokens_loss' is no hook; .* 'token_loss'",
        ),
        (("METRICS", "METRIC"), r"'METRIC' is no hook; did you mean 'METRICS'"),
        (("def _helper", "def entropy_form"), r"'entropy_form' is no hook; did you mean 'entropy_from'"),
        (("def _helper", "def helper"), r"'helper' is no hook; .*underscore"),
        (
            ("sequence, config)", "config)"),
            r"token_loss does not fit; expected token_loss\(logp, ",
        ),
        (("advantage, sequence", "sequence, advantage"), r"token_loss does not fit"),
        (("sequence, config)", "sequence, config, more)"), r"token_loss does not fit"),
        (("METRICS = (", "METRICS = list(("), r"METRICS does not fit; expected METRICS: .*tuple"),
        (
            ("class Config(Options)", "class Config"),
            r"Config does not fit; expected Config, a class",
        ),
        (("class Config", "class Confik"), r"no Config; expected a class of options"),
        (("def _helper(", "def entropy_from(config"), r"entropy_from without candidates"),
        (("def _helper(", "def top_k(config"), r"top_k, but token_loss takes no likeliest tokens"),
        (("import torch", "import torhc"), r"method\.objective: .*softer\.py: cannot be imported"),
    ],
)
def test_what_would_be_ignored_or_fail_later_is_refused(
    write: Write, change: tuple[str, str], message: str
) -> None:
    source = OBJECTIVE.replace(*change)
    if "list((" in source:
        source = source.replace('"mean"),)', '"mean"),))')
    with pytest.raises(BadInput, match=message):
        contract.find(write(source), "token_loss", "method.objective")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("grpoo", r"method\.objective: no 'grpoo' with a token_loss in algorithms/; did you mean 'grpo'"),
        ("echorl", r"method\.objective: no 'echorl' with a token_loss in algorithms/"),
        (
            "nowhere.softer",
            r"no module 'nowhere\.softer'; expected nowhere/softer\.py in the",
        ),
        ("no-name.softer", r"expected a module's name"),
    ],
)
def test_a_name_without_the_hook_is_refused(name: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        contract.find(name, "token_loss", "method.objective")


def test_a_module_of_ones_own_without_the_hook_is_refused(write: Write) -> None:
    with pytest.raises(BadInput, match=r"method\.terms\.0: .*softer\.py: no term; expected one there"):
        contract.find(write(OBJECTIVE), "term", "method.terms.0")


def test_a_problem_source_of_ones_own_is_found_and_checked(write: Write) -> None:
    source = "from params.base import Config\n\ndef read(config, task, seed):\n    return seed, seed\n"
    found = find_source(write(source), "task.problems")
    assert found.tables(found.Config(), None, 7) == (7, 7)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"'practise' is no hook; did you mean 'practice'"):
        find_source(write(source + "\ndef practise(config):\n    pass\n"), "task.problems")


def test_every_hook_is_documented() -> None:
    source = Path(str(contract.__file__)).read_text()
    fields = source[source.index("class Hooks") : source.index("def find")]
    hooks = [name for name in get_type_hints(Hooks) if name not in ("name", "file", "Config")]
    assert hooks
    for name in hooks:
        line = next(line for line in fields.splitlines() if line.strip().startswith(f"{name}:"))
        assert fields.split(line)[1].lstrip().startswith('"""')
        assert get_args(get_type_hints(Hooks)[name]) or name.isupper()
