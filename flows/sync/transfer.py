"""A run and every artefact that it stands on: sent to a bucket, and brought from one."""

from __future__ import annotations

from collections.abc import Container, Iterable
from pathlib import Path
from typing import Any

from flows.execution.runner import run_directory
from params.base import BadInput
from params.store import StoreSettings
from tasks.artefacts.artefact import EVERYTHING, Artefact, Damaged, Manifest, Source
from tasks.artefacts.record import RECORD, Record, Step
from tasks.artefacts.store import Store, publish
from tasks.remote.progress import Tell
from tasks.remote.remote import Remote, ThinnedManifest


def push_run(
    root: Path, name: str, settings: StoreSettings, tell: Tell, reread: bool = False
) -> dict[str, Any]:
    """Send a run and every artefact that it stands on. Raises ``BadInput`` and ``RemoteTrouble``."""
    store, directory = Store(root), run_directory(root, name)
    record = Record.read(directory)
    remedy = f"`{record.command}` makes it again"
    made = {step.place: Artefact.needed(directory / step.place, remedy, EVERYTHING) for step in record.steps}
    artefacts = {artefact.digest: artefact for artefact in made.values()}
    notes = []
    waiting = [source for artefact in made.values() for source in artefact.manifest.inputs.values()]
    while waiting:
        source = waiting.pop()
        if source.digest in artefacts:
            continue
        below = _cached(store, source, EVERYTHING)
        if below is None:
            notes.append(f"{source.stage} {source.fingerprint[:12]} is not in the cache and stays behind")
        else:
            artefacts[source.digest] = below
            waiting += below.manifest.inputs.values()
    with Remote(settings, tell) as remote:
        said = remote.push(list(artefacts.values()), reread)
        remote.write_record(record)
    return {"name": name, "remote": settings.url, **said, "notes": sorted(set(notes))}


def pull_run(root: Path, name: str, settings: StoreSettings, tell: Tell) -> dict[str, Any]:
    """Bring a run and every artefact that it stands on. Raises ``BadInput`` and ``RemoteTrouble``."""
    store, directory = Store(root), run_directory(root, name)
    busy = f"run {name}: another process is at it; wait for it"
    with store.lock(f"run-{name}", busy), Remote(settings, tell) as remote:
        record = remote.record(name)
        if record is None:
            raise BadInput(f"{remote.url}: holds no run '{name}'; `ostinato push {name}` puts one there")
        _same_run(directory, record)
        wanted = {step.digest: _source(step) for step in record.steps}
        whole, thinned, notes = _closure(remote, wanted)
        missing = [each for each in whole if _cached(store, _source(each)) is None]
        lacking = [each for each in thinned if _cached(store, _source(each[0]), EVERYTHING) is None]
        said = remote.pull(missing, store, lacking)
        for step in record.steps:
            found = _cached(store, wanted[step.digest], EVERYTHING)
            if found is None:
                raise BadInput(f"{remote.url}: {step.place} of {name} is not there; push the run again")
            publish(found, directory / step.place)
        record.write(directory)
    return {"name": name, "remote": settings.url, **said, "notes": notes}


def _source(made: Step | Manifest) -> Source:
    return Source(stage=made.stage, fingerprint=made.fingerprint, digest=made.digest)


def _closure(
    remote: Remote, wanted: dict[str, Source]
) -> tuple[list[Manifest], list[ThinnedManifest], list[str]]:
    """The manifests of what is wanted and of all that it was made of, each once: of what is whole there, and
    of what is thinned."""
    found: dict[str, Manifest] = {}
    thinned: list[ThinnedManifest] = []
    notes: list[str] = []
    waiting, seen = list(wanted.values()), set(wanted)
    while waiting:
        for source, manifest in zip(waiting, remote.manifests(waiting), strict=True):
            if manifest is not None:
                found[source.digest] = manifest
            elif (lacking := remote.thinned(source)) is not None:
                thinned.append(lacking)
            else:
                notes.append(f"{source.stage} {source.fingerprint[:12]} is not in {remote.url}")
        known = [*found.values(), *(manifest for manifest, _ in thinned)]
        inputs = {s.digest: s for m in known for s in m.inputs.values() if s.digest not in seen}
        seen |= set(inputs)
        waiting = list(inputs.values())
    return list(found.values()), thinned, sorted(set(notes))


def _cached(store: Store, source: Source, lacking: Container[str] = ()) -> Artefact | None:
    """The artefact with that very content, if the cache has it, whole but for what may be lacking."""
    try:
        found = store.find(source.stage, source.fingerprint, lacking)
    except Damaged:
        return None
    return found if found is not None and found.digest == source.digest else None


def _same_run(directory: Path, record: Record) -> None:
    """Refuse to lay a run over another of the same name."""
    if not (directory / RECORD).exists():
        return
    here = {step.place: step.digest for step in Record.read(directory).steps}
    there = {step.place: step.digest for step in record.steps}
    other = sorted(place for place, digest in here.items() if there.get(place, digest) != digest)
    if other:
        raise BadInput(
            f"{directory}: is another run than the remote's, from {other[0]} on; expected an empty place "
            "(move it away; its artefacts stay in the cache)"
        )


def lines(said: dict[str, Any]) -> Iterable[str]:
    """What was done, for people."""
    yield from said["notes"]
    moved = said.get("sent", said.get("fetched", 0))
    verb = "sent" if "sent" in said else "fetched"
    size = f"{said['bytes'] / 2**20:,.1f} MiB"
    yield f"{said['name']}: {said['artefacts']} artefacts, {moved} files {verb} ({size}), {said['remote']}"
