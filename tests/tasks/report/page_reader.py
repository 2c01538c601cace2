"""A report as a reader finds it: its parts, and what a browser makes of it."""

from __future__ import annotations

import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(HTMLParser):
    """The elements of a page, in order, each with its attributes and its text."""

    VOID = frozenset({"meta", "link", "input", "br", "img", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str], bool]] = []
        self._open: list[int] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        facts = dict(attrs)
        hidden = "hidden" in facts or any(self.elements[i][3] for i in self._open)
        self.elements.append((tag, facts, [], hidden))
        if tag not in self.VOID:
            self._open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), [], False))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self.elements[self._open.pop()][0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        for position in self._open:
            self.elements[position][2].append(data)

    def find(self, tag: str, visible: bool = False, **wanted: str) -> list[str]:
        """Texts of the elements of that tag whose attributes hold the wanted words."""
        return [
            " ".join("".join(text).split())
            for name, facts, text, hidden in self.elements
            if name == tag
            and not (visible and hidden)
            and all(
                value in (facts.get(key.rstrip("_").replace("_", "-")) or "").split()
                for key, value in wanted.items()
            )
        ]


def read(directory: Path) -> Page:
    return Page((directory / "report.html").read_text())


def browse(page: Path, fragment: str, folder: Path) -> tuple[str, str]:
    """The page's DOM after its script has run, and what the browser logged."""
    quiet = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
    offline = "--disable-background-networking --disable-component-update --enable-logging=stderr"
    done = subprocess.run(
        [
            str(CHROMIUM),
            *quiet.split(),
            *offline.split(),
            f"--user-data-dir={folder / 'profile'}",
            "--dump-dom",
            f"{page.resolve().as_uri()}{fragment}",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout, done.stderr
