"""Where a run goes once it is done: known, and tried, before anything is computed for it."""

from __future__ import annotations

from flows.environment import workspace
from flows.execution.remote_settings import ADDRESS, settings_of
from params.base import BadInput
from params.schema import Params
from params.store import StoreSettings


def destination(params: Params, push: bool, publish: bool) -> StoreSettings | None:
    """The bucket that the run is pushed to, and published with; None where neither is asked for.

    It is tried: an object is written, read and removed. Raises ``BadInput`` for what could not work, and
    ``RemoteTrouble`` where the bucket lets nobody in.
    """
    if not push and not publish:
        return None
    settings = settings_of(workspace(), params.store)
    if settings is None:
        option = "--publish" if publish else "--push"
        raise BadInput(f"{option}: no remote is set; expected `ostinato remote s3://...`, or {ADDRESS}")
    if publish:
        from flows.sync.publish import check

        check(workspace())
    from tasks.remote.remote import Remote  # boto3 takes a second

    with Remote(settings) as remote:
        remote.check()
    return settings
