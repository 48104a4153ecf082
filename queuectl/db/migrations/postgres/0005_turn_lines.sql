-- The turn of 0004 for a worker that serves several queues. Before it, each of its claims went the longer way: all
-- queues' heads were merged in one large statement, past what was claimed there since the last vacuum.

-- lines: the queues to claim from, in order of their names; all_lines: there are to be no others with ready jobs.
-- after_...: for each of them where the caller's last claim was, or NULL. The rest is as in _turn, which does the work
-- once it is known which queue has the most urgent job that nobody else holds. That job is locked here, so that it is
-- the one which _turn finds. Nothing is claimed when the answer says due, others or limited.
CREATE FUNCTION queuectl._turn_lines(
    me text, part integer, given_at double precision, lines text[], all_lines boolean, promoted boolean,
    old_seq bigint, old_run bigint, verdict queuectl.job_state, why_so text, failed_now integer,
    outcome queuectl.run_state, code bigint, by_signal integer, over_at double precision, memory bigint,
    cpu double precision, run_why text, output_runs bigint[], output_starts bigint[], output_parts bytea[],
    after_priorities integer[], after_run_ats double precision[], after_seqs bigint[],
    OUT settings bigint, OUT now_at double precision, OUT accepted boolean, OUT due boolean, OUT others boolean,
    OUT limited boolean, OUT job queuectl.jobs)
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    strangers boolean := false;
    bound boolean := false;
    head record;
    mine record;
    best_line text COLLATE "C";
    best_priority integer;
    best_run_at double precision;
    best_seq bigint;
    answer record;
BEGIN
    IF all_lines THEN
        strangers := EXISTS (SELECT 1 FROM queuectl.jobs AS j WHERE j.ready = 1 AND j.queue < lines[1])
                     OR EXISTS (SELECT 1 FROM queuectl.jobs AS j
                                 WHERE j.ready = 1 AND j.queue > lines[cardinality(lines)]);
        FOR i IN 2 .. cardinality(lines) LOOP
            EXIT WHEN strangers;
            strangers := EXISTS (SELECT 1 FROM queuectl.jobs AS j
                                  WHERE j.ready = 1 AND j.queue > lines[i - 1] AND j.queue < lines[i]);
        END LOOP;
    END IF;
    IF NOT strangers THEN
        -- Of each queue the first that is more urgent than where the last claim was, or is behind that, or less urgent;
        -- the very first only without such a place, because a queue that has become empty is walked through in vain.
        -- Queues with a limit come first: if there is one, none of this is for them.
        FOR head IN
            SELECT l.name, j.priority, j.run_at, j.seq, q.max_running IS NOT NULL AS has_limit
              FROM unnest(lines, after_priorities, after_run_ats, after_seqs) AS l (name, priority, run_at, seq)
              JOIN queuectl.queues AS q ON q.name = l.name AND NOT q.paused
              JOIN queuectl.jobs AS j ON j.seq = coalesce(
                   (SELECT n.seq FROM queuectl.jobs AS n
                     WHERE n.queue = l.name AND n.ready = 1 AND n.priority > l.priority
                     ORDER BY n.priority DESC, n.run_at, n.seq LIMIT 1),
                   (SELECT n.seq FROM queuectl.jobs AS n
                     WHERE n.queue = l.name AND n.ready = 1 AND n.priority = l.priority
                       AND (n.run_at, n.seq) > (l.run_at, l.seq)
                     ORDER BY n.priority DESC, n.run_at, n.seq LIMIT 1),
                   (SELECT n.seq FROM queuectl.jobs AS n
                     WHERE n.queue = l.name AND n.ready = 1 AND n.priority < l.priority
                     ORDER BY n.priority DESC, n.run_at, n.seq LIMIT 1),
                   (SELECT n.seq FROM queuectl.jobs AS n
                     WHERE n.queue = l.name AND n.ready = 1 AND l.seq IS NULL
                     ORDER BY n.priority DESC, n.run_at, n.seq LIMIT 1))
             ORDER BY has_limit DESC, j.priority DESC, j.run_at, j.seq
        LOOP
            bound := head.has_limit;
            EXIT WHEN bound OR best_priority > head.priority
                      OR best_priority = head.priority AND (best_run_at, best_seq) < (head.run_at, head.seq);
            SELECT j.priority, j.run_at, j.seq INTO mine
              FROM queuectl.jobs AS j
             WHERE j.queue = head.name AND j.ready = 1 AND j.priority = head.priority
               AND (j.run_at, j.seq) >= (head.run_at, head.seq)
             ORDER BY j.priority DESC, j.run_at, j.seq
             LIMIT 1
               FOR UPDATE SKIP LOCKED;
            IF NOT FOUND THEN  -- others hold the rest of that priority
                SELECT j.priority, j.run_at, j.seq INTO mine
                  FROM queuectl.jobs AS j
                 WHERE j.queue = head.name AND j.ready = 1 AND j.priority < head.priority
                 ORDER BY j.priority DESC, j.run_at, j.seq
                 LIMIT 1
                   FOR UPDATE SKIP LOCKED;
            END IF;
            IF FOUND AND (best_seq IS NULL OR mine.priority > best_priority
                          OR mine.priority = best_priority
                             AND (mine.run_at, mine.seq) < (best_run_at, best_seq)) THEN
                best_line := head.name;
                best_priority := mine.priority;
                best_run_at := mine.run_at;
                best_seq := mine.seq;
            END IF;
        END LOOP;
    END IF;
    SELECT t.* INTO answer
      FROM queuectl._turn(
           me, part, given_at, CASE WHEN NOT bound THEN best_line END, false, promoted, old_seq, old_run, verdict,
           why_so, failed_now, outcome, code, by_signal, over_at, memory, cpu, run_why, output_runs, output_starts,
           output_parts, best_priority, best_run_at, best_seq - 1) AS t;
    settings := answer.settings;
    now_at := answer.now_at;
    accepted := answer.accepted;
    due := answer.due;
    job := answer.job;
    others := strangers;
    limited := bound;
END $$;
