"""Hooks come into a PostgreSQL store; see ``hooks``.

No number is drawn and no counter of shard 0 touched: other programs may hold these, and an end must not wait for them.
"""

from __future__ import annotations

from queuectl.db.hooks import PRIORITY, Hook

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterable, Mapping, Optional

    from queuectl.db.postgres_run import Run

# A part of a statement that has ``args`` with the time.
_HOOKED = """hooked AS (
        INSERT INTO queuectl.jobs (id, queue, ready, run_at, priority, max_retries, command, cwd, env, tags, created_at,
                                   updated_at)
        SELECT h.id, h.queue, 1, args.now, %(hook_priority)s::int, h.max_retries, h.command, h.cwd, h.env, h.tags,
               args.now, args.now
          FROM unnest(%(hook_ords)s::int[], %(hook_ids)s::text[], %(hook_queues)s::text[], %(hook_commands)s::text[],
                      %(hook_cwds)s::text[], %(hook_envs)s::text[], %(hook_tags)s::text[], %(hook_retries)s::int[])
               AS h (ord, id, queue, command, cwd, env, tags, max_retries), args
         WHERE {where}
         ORDER BY h.ord
        ON CONFLICT (id) DO NOTHING
        RETURNING queue
    )"""
# Of ends that were written before, nothing: theirs were too.
HOOKED = _HOOKED.format(where="h.ord IN (SELECT ord FROM done)")
# For the tally of the turn.
TALLIED = "UNION ALL SELECT queue, NULL, 'pending' FROM hooked"
# Idle workers are told with the commit.
TOLD = "CASE WHEN EXISTS (SELECT 1 FROM hooked) THEN pg_notify(%(channel)s, '') END"

_ADD = f"""
    WITH args AS MATERIALIZED (
        SELECT coalesce(%(now)s::float8, extract(epoch FROM clock_timestamp())::float8) AS now
    ), {_HOOKED.format(where="true")}, counted AS (
        INSERT INTO queuectl.counts AS c (queue, shard, pending)
        SELECT queue, %(shard)s::int, count(*) FROM hooked GROUP BY queue ORDER BY queue
        ON CONFLICT (queue, shard) DO UPDATE SET pending = c.pending + excluded.pending
    )
    SELECT {TOLD}
    """


def parameters(hooks: Mapping[int, Hook], channel: str) -> Dict[str, Any]:
    """Return the parameters of HOOKED; *hooks* are those of ends, by their places."""
    columns = zip(*((place, *hook) for place, hook in hooks.items()))
    names = ("ords", "ids", "queues", "commands", "cwds", "envs", "tags", "retries")
    lists = {f"hook_{name}": list(column) for name, column in zip(names, columns)}
    return {**lists, "hook_priority": PRIORITY, "channel": channel}


def add_hooks(run: Run, hooks: Iterable[Hook], now: Optional[float], shard: int, channel: str) -> None:
    """Store *hooks* in the transaction of *run*.

    Of the counters of *shard*, the caller has locked those of these queues before.
    """
    run(_ADD, {**parameters(dict(enumerate(hooks)), channel), "now": now, "shard": shard})
