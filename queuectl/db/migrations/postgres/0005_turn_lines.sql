-- The turn of 0004 once more, and one for a worker that serves several queues, or queues with a limit: before it, their
-- claims went the longer way. All queues' heads were merged in one large statement, past what was claimed there since
-- the last vacuum; a limit took seven statements. The old functions stay for workers of the release before.

-- End a run for good, unless old_run is NULL: a job that goes on waiting ends the longer way. Claim the next job of
-- one queue, unless line is NULL; nothing is claimed when the answer says due, others or limited. line_only: there is
-- to be no other queue with ready jobs. roomy: its limit was seen to, if it has one. after_...: where the caller's last
-- claim was, unless NULL; jobs more urgent than those of its priority are looked for, then those behind it, then all.
-- job: as claimed, all NULL if there is none.
CREATE FUNCTION queuectl._turn_line(
    me text, part integer, given_at double precision, line text, line_only boolean, roomy boolean, promoted boolean,
    old_seq bigint, old_run bigint, verdict queuectl.job_state, why_so text, failed_now integer,
    outcome queuectl.run_state, code bigint, by_signal integer, over_at double precision, memory bigint,
    cpu double precision, run_why text, output_runs bigint[], output_starts bigint[], output_parts bytea[],
    after_priority integer, after_run_at double precision, after_seq bigint,
    OUT settings bigint, OUT now_at double precision, OUT accepted boolean, OUT due boolean, OUT others boolean,
    OUT limited boolean, OUT job queuectl.jobs)
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    stopped boolean;
    old_line text COLLATE "C";
    next_seq bigint;
    previous bigint;
    before queuectl.job_state;
    my_host text;
    my_pid integer;
    next_run bigint;
BEGIN
    now_at := coalesce(given_at, extract(epoch FROM statement_timestamp())::double precision);
    IF old_run IS NOT NULL THEN
        -- The owner is compared with a form of = that no index serves: it is found by its number.
        UPDATE queuectl.jobs AS j
           SET state = verdict, ready = 0, failures = j.failures + failed_now, losses = 0, worker_id = NULL,
               cancel_requested = false, updated_at = now_at, ended_at = over_at, reason = why_so
         WHERE j.seq = old_seq AND j.last_run_id = old_run AND j.state = 'processing'
           AND j.worker_id IS NOT DISTINCT FROM me
        RETURNING j.queue INTO old_line;
        IF FOUND THEN
            accepted := true;
            UPDATE queuectl.runs AS r
               SET state = outcome, exit_code = code, signal = by_signal, ended_at = over_at,
                   peak_memory_bytes = memory, cpu_s = cpu, reason = run_why
             WHERE r.run_id = old_run;
        END IF;
    END IF;
    IF output_runs IS NOT NULL THEN
        INSERT INTO queuectl.output AS o (run_id, start, bytes)
        SELECT p.run_id, p.start, p.bytes
          FROM unnest(output_runs, output_starts, output_parts) AS p (run_id, start, bytes)
         WHERE EXISTS (SELECT 1 FROM queuectl.runs AS r WHERE r.run_id = p.run_id)
        ON CONFLICT (run_id, start) DO UPDATE SET bytes = excluded.bytes;
    END IF;
    SELECT s.settings_version, coalesce(q.paused, false),
           coalesce(q.max_running IS NOT NULL AND NOT q.paused AND NOT roomy, false),
           NOT promoted AND coalesce((SELECT j.run_at FROM queuectl.jobs AS j WHERE j.ready = 2
                                       ORDER BY j.run_at, j.seq LIMIT 1) <= now_at, false),
           line_only AND (EXISTS (SELECT 1 FROM queuectl.jobs AS j WHERE j.ready = 1 AND j.queue < line)
                          OR EXISTS (SELECT 1 FROM queuectl.jobs AS j WHERE j.ready = 1 AND j.queue > line))
      INTO settings, stopped, limited, due, others
      FROM queuectl.store AS s LEFT JOIN queuectl.queues AS q ON q.name = line
     WHERE s.one;
    IF line IS NOT NULL AND NOT (stopped OR limited OR due OR others) THEN
        IF after_seq IS NOT NULL AND NOT EXISTS (SELECT 1 FROM queuectl.jobs AS j
                                                  WHERE j.queue = line AND j.ready = 1
                                                    AND j.priority > after_priority) THEN
            SELECT j.seq, j.state, j.last_run_id INTO next_seq, before, previous
              FROM queuectl.jobs AS j
             WHERE j.queue = line AND j.ready = 1 AND j.priority = after_priority
               AND (j.run_at, j.seq) > (after_run_at, after_seq)
             ORDER BY j.priority DESC, j.run_at, j.seq
             LIMIT 1
               FOR UPDATE SKIP LOCKED;
        END IF;
        IF next_seq IS NULL THEN
            SELECT j.seq, j.state, j.last_run_id INTO next_seq, before, previous
              FROM queuectl.jobs AS j
             WHERE j.queue = line AND j.ready = 1
             ORDER BY j.priority DESC, j.run_at, j.seq
             LIMIT 1
               FOR UPDATE SKIP LOCKED;
        END IF;
        IF next_seq IS NOT NULL THEN
            -- Against its condemnation, and only now, so that an idle look writes nothing.
            SELECT w.host, w.pid, nextval('queuectl.run_ids') INTO my_host, my_pid, next_run
              FROM queuectl.workers AS w
             WHERE w.id = me AND w.state = 'alive'
               FOR SHARE;
        END IF;
        IF next_run IS NOT NULL THEN
            UPDATE queuectl.jobs AS j
               SET state = 'processing', ready = 0, attempts = j.attempts + 1, run_no = j.run_no + 1,
                   last_run_id = next_run, worker_id = me, updated_at = now_at, reason = NULL
             WHERE j.seq = next_seq
            RETURNING j.* INTO job;
            INSERT INTO queuectl.runs (run_id, previous_id, number, state, started_at, worker_id, host, pid)
            VALUES (next_run, previous, job.run_no, 'running', now_at, me, my_host, my_pid);
        END IF;
    END IF;
    -- In the order of the queues, so that two workers of one shard never wait for each other.
    IF old_line < line OR (old_line IS NOT NULL AND next_run IS NULL) THEN
        PERFORM queuectl._count(old_line, part, 0, -1, 0, (verdict = 'completed')::integer,
                                (verdict = 'dead')::integer, (verdict = 'cancelled')::integer);
    END IF;
    IF next_run IS NOT NULL THEN
        PERFORM queuectl._count(line, part, -(before = 'pending')::integer, (old_line IS DISTINCT FROM line)::integer,
                                -(before = 'failed')::integer,
                                (old_line IS NOT DISTINCT FROM line AND verdict = 'completed')::integer,
                                (old_line IS NOT DISTINCT FROM line AND verdict = 'dead')::integer,
                                (old_line IS NOT DISTINCT FROM line AND verdict = 'cancelled')::integer);
        IF old_line > line THEN
            PERFORM queuectl._count(old_line, part, 0, -1, 0, (verdict = 'completed')::integer,
                                    (verdict = 'dead')::integer, (verdict = 'cancelled')::integer);
        END IF;
    END IF;
END $$;

-- Say whether one more job of a queue may run when this run of it has ended; to be sure, its lock is held. The settings
-- of the planner are those of _turn_lines.
CREATE FUNCTION queuectl._has_room(line text, most integer, me text, old_seq bigint, old_run bigint) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    -- One snapshot for both: somebody may put the run back meanwhile.
    RETURN (SELECT most > coalesce(sum(c.processing), 0) - (
                   SELECT count(*)
                     FROM queuectl.jobs AS j
                    WHERE j.seq = old_seq AND j.last_run_id = old_run AND j.state = 'processing' AND j.queue = line
                      AND j.worker_id IS NOT DISTINCT FROM me)
              FROM queuectl.counts AS c
             WHERE c.queue = line);
END $$;

-- lines: the queues to claim from, in order of their names; all_lines: there are to be no others with ready jobs.
-- after_...: for each of them where the caller's last claim was, or NULL. The rest is as in _turn_line, which does the
-- work once it is known which queue has the most urgent job that nobody else holds. That job is locked here, so that
-- _turn_line finds it. A queue with a limit is locked until the commit, before what runs in it is counted. Nothing is
-- claimed when the answer says due or others, or limited: two turns wanted the locks of two queues.
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
    holding boolean := false;
    crowded boolean := false;
    key bigint;
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
        FOR head IN
            SELECT l.name, j.priority, j.run_at, j.seq, q.max_running
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
             ORDER BY j.priority DESC, j.run_at, j.seq
        LOOP
            EXIT WHEN best_priority > head.priority
                      OR best_priority = head.priority AND (best_run_at, best_seq) < (head.run_at, head.seq);
            IF head.max_running IS NOT NULL THEN
                CONTINUE WHEN NOT queuectl._has_room(head.name, head.max_running, me, old_seq, old_run);
                key := hashtextextended(rtrim('queuectl.', '.') || ' ' || head.name, 0);
                IF NOT holding THEN
                    PERFORM pg_advisory_xact_lock(key);
                    holding := true;
                ELSIF NOT pg_try_advisory_xact_lock(key) THEN  -- its holder may be waiting for the first
                    crowded := true;
                    EXIT;
                END IF;
                CONTINUE WHEN NOT queuectl._has_room(head.name, head.max_running, me, old_seq, old_run);
            END IF;
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
      FROM queuectl._turn_line(
           me, part, given_at, CASE WHEN NOT crowded THEN best_line END, false, true, promoted, old_seq, old_run,
           verdict, why_so, failed_now, outcome, code, by_signal, over_at, memory, cpu, run_why, output_runs,
           output_starts, output_parts, best_priority, best_run_at, best_seq - 1) AS t;
    settings := answer.settings;
    now_at := answer.now_at;
    accepted := answer.accepted;
    due := answer.due;
    job := answer.job;
    others := strangers;
    limited := crowded;
END $$;
