"""What one command costs as a process, beside bare interpreters in the same environment.

The command is a script as pip makes it: that is what ``queuectl`` is to who installed it. ``python3 -m queuectl`` also
imports ``runpy``.
"""

from __future__ import annotations

import sys
from typing import Any, Callable, Dict

from bench.measure import QUEUECTL, median, paired, quiet, ratio, scratch_home, seconds

SCRIPT = """import sys
from queuectl.main import main
if __name__ == "__main__":
    sys.exit(main())
"""


def run(rounds: int, jobs: int) -> Dict[str, Any]:
    """Return start-to-exit times as multiples of a bare interpreter's."""
    del jobs
    rows: Dict[str, Any] = {}
    with scratch_home() as home:
        script = home / "queuectl"
        script.write_text(SCRIPT)
        queuectl = [sys.executable, str(script)]
        quiet([*queuectl, "enqueue", '{"command":"true"}'])

        def timed(*words: str) -> Callable[[], float]:
            return lambda: seconds(lambda: quiet(words))

        python = sys.executable
        enqueue, imports, version, usage, module, bare = paired(
            rounds * 5,
            timed(*queuectl, "enqueue", '{"command":"true"}'),
            timed(python, "-c", "import sqlite3, json"),
            timed(*queuectl, "--version"),
            timed(*queuectl, "--help"),
            timed(*QUEUECTL, "--version"),
            timed(python, "-c", "pass"),
        )
    rows["enqueue / import sqlite3, json"] = ratio(enqueue, imports)
    rows["--version / pass"] = ratio(version, bare)
    rows["--help / pass"] = ratio(usage, bare)
    rows["python3 -m queuectl --version / pass"] = ratio(module, bare)
    rows["enqueue, ms"] = round(median(enqueue) * 1000, 1)
    return rows
