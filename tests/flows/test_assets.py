"""Prefect's server hears of every artefact that is made, by its address, and of none that is found."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from flows.execution.remote_settings import ADDRESS
from flows.prefect_assets import REFUSED, at_path, in_bucket
from params.store import StoreSettings
from tasks.artefacts.artefact import Artefact
from tasks.artefacts.record import Record
from tests.buckets import Bucket
from tests.flows.conftest import NANO, Workspace
from tests.flows.test_stores import use

MADE = "prefect.asset.materialization.succeeded"
FAILED = "prefect.asset.materialization.failed"


def told(workspace: Workspace, event: str, start: str) -> dict[str, dict[str, Any]]:
    """Events of assets whose keys begin so, by key; none twice."""
    server, found = workspace.environment["PREFECT_API_URL"], {}
    wanted = {"event": {"name": [event]}, "resource": {"id_prefix": [start]}, "order": "ASC"}
    page = httpx.post(f"{server}/events/filter", json={"filter": wanted, "limit": 50}, timeout=30)
    while True:
        said = page.raise_for_status().json()
        for each in said["events"]:
            key = each["resource"]["prefect.resource.id"]
            assert key not in found, "told twice"
            found[key] = each
        if not said["next_page"]:
            return found
        page = httpx.get(said["next_page"], timeout=30)


def heard(workspace: Workspace, event: str, start: str, count: int) -> dict[str, dict[str, Any]]:
    """What was ``told`` once it is so many: the server writes events a little later."""
    end = time.monotonic() + 30
    while len(found := told(workspace, event, start)) < count and time.monotonic() < end:
        time.sleep(0.2)
    return found


def key_of(path: Path) -> str:
    (asset,) = at_path(path)
    return asset.key


@pytest.mark.long
@pytest.mark.ci
def test_every_artefact_of_a_run_is_an_asset_with_what_it_is_made_of(finished: Workspace) -> None:
    directory = finished.root / "runs" / "it"
    record = Record.read(directory)
    artefacts = {step.place: Artefact.open(directory / step.place, check=False) for step in record.steps}
    places = {
        finished.root / "artefacts" / f"{made.manifest.stage}-{made.fingerprint[:20]}": place
        for place, made in artefacts.items()
    }
    events = heard(finished, MADE, key_of(finished.root), len(places) + 1)
    assert set(events) == {key_of(path) for path in (*places, directory / "report.html")}
    by_place = {place: events[key_of(path)] for path, place in places.items()}
    update = by_place["round-02/update"]
    assert update["resource"]["prefect.resource.name"] == "it/round-02/update"
    assert update["resource"]["prefect.asset.url"].startswith("file:///")
    inputs = {source.fingerprint[:20] for source in artefacts["round-02/update"].manifest.inputs.values()}
    related = {
        each["prefect.resource.id"].rpartition("-")[2]
        for each in update["related"]
        if each["prefect.resource.role"] == "asset"
    }
    assert related == inputs


@pytest.mark.long
@pytest.mark.ci
def test_what_is_found_is_told_of_once_and_what_a_guard_stops_is_made(
    copied: Workspace, bucket: Bucket
) -> None:
    use(copied, bucket)
    here, directory = key_of(copied.root), copied.root / "runs" / "it"
    copied.run("--push")
    page = key_of(directory / "report.html")
    assert set(heard(copied, MADE, here, 1)) == {page}
    last = Record.read(directory).policies()[-1]
    (pushed,) = in_bucket(StoreSettings(url=copied.environment[ADDRESS]), "it", last)
    (event,) = heard(copied, MADE, pushed.key, 1).values()
    policy = key_of(copied.root / "artefacts" / f"update-{last.fingerprint[:20]}")
    assert policy in {each["prefect.resource.id"] for each in event["related"]}
    made = set(copied.root.glob("artefacts/*"))
    stop = "guards=[{figure: rollout.reward_mean, above: -1, then: stop}]"
    copied.call("run", "--name", "it", *NANO, "--set", "rollout.temperature=0.9", "--set", stop, code=3)
    new = set(copied.root.glob("artefacts/*")) - made
    assert any(path.name.startswith("rollout-") for path in new)
    assert set(heard(copied, MADE, here, 1 + len(new))) == {page, *map(key_of, new)}
    assert not told(copied, FAILED, here)


def test_keys_are_what_prefect_takes_and_the_url_is_exact() -> None:
    (plain,) = at_path(Path("/data/ä/artefacts/update-12"), "it/update")
    assert plain.key == "file:///data/ä/artefacts/update-12"
    (strange,) = at_path(Path("/a folder/50%/{x}"), "it/update")
    assert strange.key == "file:///a_folder/50_/_x_"
    assert strange.properties
    assert strange.properties.url == "file:///a%20folder/50%25/%7Bx%7D"
    assert not REFUSED & set(strange.key)
    assert at_path(Path("/" + 600 * "x")) == []


def test_a_path_from_here_is_an_address_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [each.key for each in at_path(Path("runs/it"))] == [f"file://{tmp_path}/runs/it"]
