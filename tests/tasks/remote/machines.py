"""Artefacts of a workspace, and how they come to another one."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

from params.store import StoreSettings
from tasks.artefacts.artefact import Artefact, seal
from tasks.artefacts.store import Store
from tasks.remote.remote import Remote
from tests.buckets import Proxy
from tests.conftest import ROLES

MIB = 2**20


def artefact(store: Store, files: dict[str, bytes], stage: str = "update", identity: str = "") -> Artefact:
    """An artefact in the cache of a workspace."""
    fingerprint = hashlib.sha256((identity or repr(sorted(files.items()))).encode()).hexdigest()

    def build(new: Path) -> None:
        for name, content in files.items():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            (new / name).write_bytes(content)
        facts = {
            "role": ROLES[stage],
            "round": 1,
            "seed": 0,
            "params": {},
            "inputs": {},
            "code": {},
            "versions": {},
            "measured": {},
        }
        seal(new, stage=stage, fingerprint=fingerprint, **facts)

    store.put(store.path(stage, fingerprint), build)
    return Artefact.open(store.path(stage, fingerprint))


def some_bytes(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def pulled(remote: Remote, made: Artefact, store: Store) -> Artefact:
    manifest = remote.find(made.manifest.stage, made.fingerprint)
    assert manifest is not None
    remote.pull([manifest], store)
    found = store.find(made.manifest.stage, made.fingerprint)
    assert found is not None
    return found


def at(proxy: Proxy, settings: StoreSettings) -> Remote:
    return Remote(settings.model_copy(update={"endpoint_url": proxy.address}))
