"""What every error of ours is, so that whoever reports errors catches one class."""

from __future__ import annotations


class OstinatoError(Exception):
    """The message is one line: what, where, what was expected.

    The command line prints it and exits with ``exit_code``; a traceback is for faults of ours.
    """

    exit_code = 1
