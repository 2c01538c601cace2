"""From fetched files to an artefact in the cache: whole or not at all, and checked."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tasks.artefacts.artefact import MANIFEST, Artefact, Manifest, sync_directory
from tasks.artefacts.store import Store


def place_artefact(store: Store, manifest: Manifest, downloads: Path) -> Artefact:
    """Build the artefact from files that are called by their digests; raises ``Damaged``, or
    ``FileNotFoundError`` for a file that is not among the downloads."""

    def build(new: Path) -> None:
        for name, file in manifest.files.items():
            path = new / name
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(downloads / file.sha256, path)
            except FileNotFoundError:
                raise  # another process took the same file and cleaned up
            except OSError:
                shutil.copyfile(downloads / file.sha256, path)
        with (new / MANIFEST).open("wb") as handle:
            handle.write(manifest.to_bytes())
            handle.flush()
            os.fsync(handle.fileno())
        sync_directory(new)
        Artefact.open(new)

    target = store.path(manifest.stage, manifest.fingerprint)
    store.put(target, build)
    return Artefact.open(target)
