"""Hooks come into a SQLite store; see ``hooks``."""

from __future__ import annotations

from queuectl.db.hooks import PRIORITY
from queuectl.db.sqlite_desk import LAST_SEQ

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from typing import Iterable

    from queuectl.db.hooks import Hook


def add_hooks(db: sqlite3.Connection, hooks: Iterable[Hook], now: float) -> None:
    """Store *hooks* in the open transaction of *db*, but for those that are there."""
    for hook in hooks:
        # An id of its own: the number of the next generated one stays as it is, while rows go on.
        added = db.execute(
            _ADD,
            (
                hook.id, hook.queue, PRIORITY, now, hook.command, hook.cwd, hook.env_json, hook.tags_json,
                hook.max_retries, now, now, hook.id,
            ),
        )  # fmt: skip
        if added.rowcount == 1:
            db.execute("UPDATE store SET seq_ahead = seq_ahead + 1")
            db.execute("UPDATE queues SET pending = pending + 1 WHERE name = ?", (hook.queue,))


_ADD = f"""
    INSERT INTO jobs (seq, id, queue, state, priority, run_at, ready, command, cwd, env, tags, max_retries, created_at,
                      updated_at)
    SELECT 1 + {LAST_SEQ}, ?, ?, 'pending', ?, ?, 1, ?, ?, ?, ?, ?, ?, ?
      FROM store
     WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE id = ?)
    """
