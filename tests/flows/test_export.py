"""An exported folder proves itself and says where it is from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from flows import cli
from tasks.policy.adapter import AdapterWeights
from tasks.report.card import card
from tests.flows.conftest import Workspace


def test_its_card_says_where_it_is_from(finished: Workspace) -> None:
    text = card(finished.root / "runs" / "it", 0.001)
    _, head, body = text.split("---\n", 2)
    assert "grpo" in yaml.safe_load(head)["tags"]
    assert "held-out accuracy, mean@4" in body
    manifest = (finished.root / "runs/it/round-02/update/manifest.json").read_text()
    (digest,) = [line for line in body.splitlines() if line.startswith("- policy after round 2")]
    assert digest.rpartition("content `")[2].strip("`") in manifest
    assert "`ostinato run --model nano" in body


def test_a_folder_that_is_not_the_policy_is_not_written(
    copied: Workspace, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    merged = AdapterWeights.merged

    def other(self: AdapterWeights, *arguments: Any) -> dict[str, Any]:
        return {name: -weight for name, weight in merged(self, *arguments).items()}

    monkeypatch.setattr(AdapterWeights, "merged", other)
    monkeypatch.setenv("OSTINATO_HOME", str(copied.root))
    target = Path(copied.root) / "merged"
    with pytest.raises(SystemExit) as stopped:
        cli.main(["export", "it", "--merged", str(target)])
    assert stopped.value.code == 1
    assert "its log-probabilities differ from the policy's by" in capfd.readouterr().err
    assert not target.exists()
    assert not list(copied.root.glob(".merged*"))
