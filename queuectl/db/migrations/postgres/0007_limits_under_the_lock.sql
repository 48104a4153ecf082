-- Whether a queue has room is decided by its switches as they are once its lock is held, not as the claim found them
-- before it waited for that: meanwhile somebody may have paused the queue or lowered its limit. The limit that was found
-- before, the second argument, is of no use any more; it stays for the functions that pass it.
CREATE OR REPLACE FUNCTION queuectl._has_room(line text, most integer, me text, old_seq bigint, old_run bigint)
RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    -- One snapshot for all: somebody may put the run back meanwhile.
    RETURN (SELECT NOT q.paused AND (q.max_running IS NULL OR q.max_running > (
                   SELECT coalesce(sum(c.processing), 0)
                     FROM queuectl.counts AS c
                    WHERE c.queue = line) - (
                   SELECT count(*)
                     FROM queuectl.jobs AS j
                    WHERE j.seq = old_seq AND j.last_run_id = old_run AND j.state = 'processing' AND j.queue = line
                      AND j.worker_id IS NOT DISTINCT FROM me))
              FROM queuectl.queues AS q
             WHERE q.name = line);
END $$;
