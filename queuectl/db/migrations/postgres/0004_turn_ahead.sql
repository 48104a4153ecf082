-- The turn of 0003 once more, with three arguments that save the walk over what was claimed before: between two vacuums
-- the index of the ready jobs begins with an entry for each job that was claimed since, and each claim went past them
-- all. The old function stays for workers of the release before.

-- End a run for good, unless old_run is NULL: a job that goes on waiting ends the longer way. Claim the next job of
-- one queue, unless line is NULL; nothing is claimed when the answer says due, others or limited. line_only: there is
-- to be no other queue with ready jobs. after_...: where the caller's last claim was, unless NULL; jobs more urgent
-- than those of its priority are looked for, then those behind it, then all. job: as claimed, all NULL if there is none.
CREATE FUNCTION queuectl._turn(
    me text, part integer, given_at double precision, line text, line_only boolean, promoted boolean,
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
    SELECT s.settings_version, coalesce(q.paused, false), coalesce(q.max_running IS NOT NULL AND NOT q.paused, false),
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
