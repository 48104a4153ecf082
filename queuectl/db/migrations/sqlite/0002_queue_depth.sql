-- A row for each queue, for monitoring; stable: columns are only ever added. due: could run now; delayed: wait for a
-- time or a retry; oldest_due_age_s: how long the oldest due job has waited, NULL if none is due.
CREATE VIEW queue_depth AS
    WITH RECURSIVE clock(now) AS (
        SELECT (julianday('now') - 2440587.5) * 86400.0
    ), head(seq, queue, priority, run_at) AS (
        SELECT * FROM (SELECT seq, queue, priority, run_at FROM jobs
                        WHERE ready = 1 ORDER BY queue, priority DESC, run_at, seq LIMIT 1)
        UNION ALL
        SELECT jobs.seq, jobs.queue, jobs.priority, jobs.run_at
          FROM head
          JOIN jobs ON jobs.seq = coalesce(
              (SELECT j.seq FROM jobs AS j
                WHERE j.ready = 1 AND j.queue = head.queue AND j.priority < head.priority
                ORDER BY j.priority DESC, j.run_at, j.seq LIMIT 1),
              (SELECT j.seq FROM jobs AS j
                WHERE j.ready = 1 AND j.queue > head.queue
                ORDER BY j.queue, j.priority DESC, j.run_at, j.seq LIMIT 1))
    ), later(queue, delayed) AS (
        SELECT name, (SELECT count(*) FROM jobs
                       WHERE jobs.queue = name AND ready = 2 AND run_at > (SELECT now FROM clock))
          FROM queues
    ), due(queue, run_at) AS (
        SELECT queue, run_at FROM head
        UNION ALL
        SELECT queue, run_at FROM jobs
         WHERE queue IN (SELECT name FROM queues) AND ready = 2 AND run_at <= (SELECT now FROM clock)
    ), oldest(queue, run_at) AS (
        SELECT queue, min(run_at) FROM due GROUP BY queue)
    SELECT name AS queue,
           max(pending + failed - delayed, 0) AS due,
           delayed,
           processing AS running,
           dead,
           max((SELECT now FROM clock) - oldest.run_at, 0) AS oldest_due_age_s,
           max_running,
           paused
      FROM queues
      JOIN later ON later.queue = name
      LEFT JOIN oldest ON oldest.queue = name;
