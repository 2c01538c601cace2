"""``ostinato settings``: every key, what it is and what it means; and the page of them."""

from __future__ import annotations

import json

import pytest

from flows.cli import main
from flows.commands.settings_command import page
from params.base import value_at
from params.described import described
from params.load import compose
from params.schema import Params
from tests.flows.conftest import ROOT


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["settings", *words])
    out, said = capsys.readouterr()
    assert ended.value.code == 0, said
    return out


def test_the_page_is_what_the_command_writes(capsys: pytest.CaptureFixture[str]) -> None:
    written = (ROOT / "docs" / "settings.md").read_text()
    assert written == page(list(described(Params))), "run `ostinato settings --markdown > docs/settings.md`"
    assert told(capsys, "--markdown") == written


def test_every_key_is_one_of_the_schema_and_says_what_it_means() -> None:
    params = compose("nano", "sums", "grpo", ["sft={}", "curriculum={}"])
    rows = list(described(Params, params))
    assert len({row.key for row in rows}) == len(rows) > 200
    for row in rows:
        if {"NAME", "N"}.isdisjoint(row.key.split(".")):
            assert value_at(params, row.key) in (row.value, None), row.key
    silent = [row.key for row in rows if not row.meaning]
    assert not silent


def test_values_are_those_of_the_presets(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("rollout.refill_batches", "--method", "dapo", "--set", "rollout.refill_batches=5", "--json")
    (line,) = told(capsys, *words).splitlines()
    assert json.loads(line) | {"meaning": ""} == {"key": "rollout.refill_batches", "value": 5, "meaning": ""}
    assert "math" in told(capsys, "task.reward", "--task", "gsm8k")


def test_a_misspelt_section_is_one_line_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["settings", "rolout"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "ostinato: rolout: no such key; did you mean 'rollout'?\n"
