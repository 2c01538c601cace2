"""A process of its own that runs statements on a locked-down database with nothing before it that looks at
them: one outcome a line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tasks.rewards.sql_result import Limits, QueryError
from tasks.rewards.sql_run import Database

if __name__ == "__main__":
    database = Database(Path(sys.argv[1]), Limits(max_steps=1_000_000, max_rows=1000, heap_mib=64))
    for line in sys.stdin:
        try:
            outcome = repr(database.run(json.loads(line)).rows[:3])
        except QueryError as error:
            outcome = f"refused: {error}"
        print(json.dumps(outcome), flush=True)
