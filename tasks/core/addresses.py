"""Addresses as they may be shown."""

from __future__ import annotations

import re

_USER = re.compile(r"(?<=//)\S*@")
"""What stands before the host, up to the last @: a password may hold anything."""


def shown(text: str) -> str:
    """The text without the user and the password that an address in it may have."""
    return _USER.sub("", text)
