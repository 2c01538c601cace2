"""A model card, from what a run's record and manifests say: ``README.md`` of an exported folder."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from params.reward import several
from tasks.report.format import number, percent
from tasks.report.run.data import RunData, collect
from tasks.report.run.page import summary
from tasks.report.run.words import evidence, tasks_of, verdict

HUB = re.compile(r"[\w.-]+/[\w.-]+")
"""A model's name there."""
SHARES = ("accuracy", "greedy")
MEASURES = {
    "accuracy": "held-out accuracy, mean@{n}",
    "greedy": "held-out accuracy, greedy",
    "entropy": "entropy, nats per token",
    "kl_to_base": "KL to the base, nats per token",
    "response_length": "response length, tokens",
}
"""Figures of ``summary`` by their names for people."""


def card(directory: Path, gap: float) -> str:
    """The text for a run's last policy. ``gap``: by how much the exported weights' log-probabilities differ
    from the policy's on a few fixed tokens, nats per token at most."""
    data = collect(directory)
    return "\n".join([_head(data), *_said(data), *_measured(data), *_made(data, gap), ""])


def _head(data: RunData) -> str:
    params = data.params
    on_hub = HUB.fullmatch(params.model.source) and not Path(params.model.source).is_dir()
    facts = {
        **({"base_model": params.model.source} if on_hub else {}),
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["reinforcement-learning", "verifiable-rewards", "ostinato", params.method.objective.name],
    }
    return f"---\n{yaml.safe_dump(facts, sort_keys=False)}---\n"


def _said(data: RunData) -> list[str]:
    params, record = data.params, data.record
    rewards = " and ".join(each.called for each in several(params.task.reward))
    return [
        f"# {record.name}",
        "",
        f"`{params.model.source}`, post-trained by reinforcement learning from verifiable rewards: "
        f"{params.method.objective.name} on {tasks_of(params)}, judged by {rewards}, "
        f"{data.rounds_done} rounds of {params.rollout.problems_per_round} problems × "
        f"{params.rollout.samples_per_problem} answers.",
        "",
        f"{verdict(data)} {evidence(data)}",
        "",
    ]


def _measured(data: RunData) -> list[str]:
    told = summary(data)
    rows = []
    for name, words in MEASURES.items():
        values = told.get(name, {})
        if "before" in values:
            show = percent if name in SHARES else number
            after = show(values["after"]) if "after" in values else "–"
            n = data.params.evaluate.samples_per_problem
            rows.append(f"| {words.format(n=n)} | {show(values['before'])} | {after} |")
    if not rows:
        return []
    problems = f"Measured on {data.params.task.held_out_count} held-out problems of its own task."
    return [problems, "", "| | base | this |", "|---|---|---|", *rows, ""]


def _made(data: RunData, gap: float) -> list[str]:
    policies = [
        each for each in data.done if each.step.role.makes_policy and each.step.round and each.artefact
    ]
    last = max(policies, key=lambda each: each.step.round)
    assert last.artefact is not None
    manifest = last.artefact.manifest
    versions = ", ".join(f"{name} {version}" for name, version in sorted(manifest.versions.items()))
    lines = [
        "## Provenance",
        "",
        f"- policy after round {last.step.round}: artefact `{manifest.stage}-{manifest.fingerprint[:20]}`, "
        f"content `{manifest.digest}`",
        *(f"- {name}: content `{source.digest}`" for name, source in sorted(manifest.inputs.items())),
        f"- made with {versions}",
        f"- these weights give the policy's log-probabilities to {gap:.2g} nats on a few fixed tokens",
        f"- it is made again by `{data.record.command}`",
    ]
    if data.record.warnings:
        lines += ["", "## Warnings while it was trained", "", *(f"- {text}" for text in data.record.warnings)]
    return lines
