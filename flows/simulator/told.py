"""A simulation as a person reads it."""

from __future__ import annotations

from typing import Any

from flows.simulator.sweep import named
from tasks.report.format import count


def told(found: dict[str, Any]) -> str:
    """The chosen setting, the settings beside it, and the best of them."""
    chosen = found["chosen"]
    of = f"like {found['like']}" if found["like"] else found["model"]
    way = "rounds overlap" if chosen["overlap"] else "one stage at a time"
    where = f"{count(found['cores'], 'core')} shared" if found["cores"] else "no cores shared"
    lines = [f"Simulated {of}: {count(chosen['rounds'], 'round')}, {named(chosen)}, {way}, {where}", ""]
    lines += [f"  {label:24}{value}" for label, value in _figures(chosen)]
    lines += [
        "",
        "  lag  servers  shards  overlap  rounds/h  engine idle  trainer idle  servers idle  behind",
    ]
    lines += [_row(row) for row in found["sweep"]]
    lines += ["", found["why"], "", "Where it is from:"]
    step = found["step"]
    lines.append(f"  a step: {1e3 * step['fixed']:.3g} + {1e3 * step['each']:.3g} · responses, in ms")
    return "\n".join([*lines, *(f"  {name}: {words}" for name, words in found["sources"].items())])


def _figures(chosen: dict[str, Any]) -> list[tuple[str, str]]:
    stages = ", ".join(
        f"{name} {took:.2f}" for name, took in chosen["stage_seconds"].items() if took >= 0.005
    )
    ages = ", ".join(f"{share:.0%} by {age}" for age, share in chosen["answers_by_age"].items())
    idle = chosen["idle"]
    servers = ", ".join(f"{share:.0%}" for share in chosen["servers_idle"])
    figures = [
        ("rounds an hour", f"{chosen['rounds_per_hour']:,.1f}"),
        ("a round", f"{chosen['round_seconds']:.2f} s, from the first policy to the last"),
        ("tokens a second", f"{chosen['tokens_per_second']:,.0f}"),
        ("stages, s a round", stages),
        ("idle", f"engine {idle['engine']:.0%}, trainer {idle['trainer']:.0%}"),
        ("servers idle", f"{servers} of the sampling"),
        ("rounds behind", f"{chosen['rounds_behind']:.2f} ({ages} of the answers)"),
        (
            "before it is learned",
            f"{chosen['seconds_before_learned']:.2f} s from the last answer to the update",
        ),
        ("the last tenth", f"of the answers takes {chosen['last_tenth']:.0%} of the sampling"),
        ("equal lengths", f"would save {chosen['uneven']:.0%} of the sampling"),
    ]
    if chosen["begun_anew"]:
        figures.append(("lost with servers", f"{chosen['begun_anew']:.1f} responses a round, begun anew"))
    return figures


def _row(row: dict[str, Any]) -> str:
    idle, servers = row["idle"], row["servers_idle"]
    return (
        f"  {row['lag']:3}{row['servers']:9}{row['shards']:8}{'yes' if row['overlap'] else 'no':>9}"
        f"{row['rounds_per_hour']:10,.1f}{idle['engine']:13.0%}{idle['trainer']:14.0%}"
        f"{sum(servers) / len(servers):14.0%}{row['rounds_behind']:8.2f}"
    )
