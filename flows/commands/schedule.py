"""Training on a schedule, by Prefect's own runner."""

from __future__ import annotations

import os

from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.schedules import Cron

from flows.commands.train_command import Presets
from flows.train import train
from params.base import BadInput


def serve_training(name: str, presets: Presets, cron: str, timezone: str) -> None:
    """Register a deployment called ``name`` and wait for its runs; one at a time, a late one is cancelled.

    Raises ``BadInput`` without a server, or for a cron line or timezone that Prefect does not understand.
    """
    if "PREFECT_API_URL" not in os.environ:
        raise BadInput(
            "serve: PREFECT_API_URL is not set; start a server (`prefect server start`) and export "
            "PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    model, task, method, settings = presets
    try:
        schedule = Cron(cron, timezone=timezone)
    except ValueError as error:
        raise BadInput(f"--cron '{cron}' --timezone {timezone}: {str(error).splitlines()[0]}") from None
    train.serve(
        name=name,
        schedules=[schedule],
        parameters={"name": name, "model": model, "task": task, "method": method, "settings": settings},
        limit=1,
        global_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW),
        tags=["ostinato"],
        description="Rounds of rollout, replay and update; resumes from its cached stages.",
    )
