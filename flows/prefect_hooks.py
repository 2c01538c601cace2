"""What a scheduled run needs around its stages: a turn on the GPU, a way to the bucket, a word of failure."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from prefect import Flow, State, get_run_logger
from prefect.assets import Asset
from prefect.blocks.core import Block
from prefect.client.schemas.objects import FlowRun
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency
from prefect.tasks import MaterializingTask
from pydantic import Field

from flows.environment import workspace
from flows.execution.live_report import safe_line
from flows.execution.runner import run_directory
from flows.prefect_assets import at_path, in_bucket
from params.base import BadInput
from params.store import StoreSettings
from tasks.artefacts.record import Record
from tasks.artefacts.store import Store
from tasks.remote.errors import RemoteTrouble

RunName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", description="Under runs/.")]
Setting = Annotated[
    str, Field(pattern=r"^\s*[a-z][A-Za-z0-9_.-]*\s*=", description="key=value, as after --set.")
]

SLOT = "OSTINATO_GPU_SLOT"
"""The environment's variable for the concurrency limit that a run holds: one for each GPU."""
NOTIFY = "OSTINATO_NOTIFY"
"""The environment's variable for the block that is told of failures, such as ``slack-webhook/ops``."""
PAUSES = (10, 60, 300)
"""Seconds between attempts to reach the bucket, after those of the transfer itself."""


@contextmanager
def gpu_slot() -> Iterator[None]:
    """Hold this machine's slot while a run computes, where one is set; ``BadInput`` for an unknown one.

    Strict: a limit that does not exist is an error, and not a run beside another. A lease that could not be
    renewed ends nothing: the work of hours is worth more than the order of the queue.
    """
    slot = os.environ.get(SLOT)
    if not slot:
        yield
        return
    held = concurrency(slot, strict=True, raise_on_lease_renewal_failure=False)
    try:
        held.__enter__()
    except ConcurrencySlotAcquisitionError:
        raise BadInput(
            f"{SLOT}: the server has no concurrency limit '{slot}'; expected one, by "
            f"`prefect gcl create {slot} --limit 1`"
        ) from None
    try:
        yield
    finally:
        held.__exit__(None, None, None)


def tell_failure(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Tell the block that ``OSTINATO_NOTIFY`` names of a run that failed or crashed."""
    slug = os.environ.get(NOTIFY)
    if slug:
        block: Any = Block.load(slug)
        block.notify(
            subject=f"ostinato: {flow.name} {flow_run.name} {state.type.value.lower()}",
            body=f"{_why(state)}\nflow run {flow_run.id}",
        )


def _why(state: State[Any]) -> str:
    """What is told to others: our own messages whole; of Prefect's what stands before an exception's text,
    which may hold anything."""
    found = state.result(raise_on_failure=False) if state.data is not None else None
    if isinstance(found, BaseException):
        return safe_line(found)
    return re.split(r"[:\n]", state.message or "no reason given")[0]


class Keeping:
    """Whether a run is pushed and published once it is done, and where to: None is neither."""

    def __init__(self, settings: StoreSettings | None, publish: bool) -> None:
        self._settings, self._publish = settings, publish

    def keep(self, name: str) -> dict[str, Any]:
        """Push, then publish; what was done, for the summary."""
        if self._settings is None:
            return {}
        values = self._settings.model_dump(exclude_defaults=True)
        said = {"pushed": _push.with_options(**_assets(name, self._settings))(name, values)}
        return {**said, "published": _publish(name, values)} if self._publish else said


def _assets(name: str, settings: StoreSettings) -> dict[str, list[Asset]]:
    """What a push puts into the bucket, and of what: the last policy, as far as Prefect is told."""
    policies = Record.read(run_directory(workspace(), name)).policies()
    if not policies:
        return {}
    last = policies[-1]
    here = Store(workspace()).path(last.stage, last.fingerprint)
    return {"assets": in_bucket(settings, name, last), "asset_deps": at_path(here)}


def _network(task: Any, run: Any, state: Any) -> bool:
    """Whether another attempt may help: for trouble with the bucket that may pass, and nothing else."""
    trouble = state.result(raise_on_failure=False)
    return isinstance(trouble, RemoteTrouble) and not trouble.lasting


def _patiently(function: Callable[..., dict[str, Any]], name: str) -> Any:
    return MaterializingTask(
        function,
        assets=[],
        name=name,
        persist_result=False,
        retries=len(PAUSES),
        retry_delay_seconds=list(PAUSES),
        retry_condition_fn=_network,
    )


def _pushed(name: str, values: dict[str, Any]) -> dict[str, Any]:
    from flows.sync.transfer import lines, push_run
    from tasks.remote.progress import silent

    said = push_run(workspace(), name, StoreSettings(**values), silent)
    get_run_logger().info("%s", "; ".join(lines(said)))
    return said


def _published(name: str, values: dict[str, Any]) -> dict[str, Any]:
    from flows.sync.publish import publish_run

    said = publish_run(workspace(), name, StoreSettings(**values))
    get_run_logger().info("%s: published as %s", name, said["commit"])
    return said


_push = _patiently(_pushed, "push")
_publish = _patiently(_published, "publish")
