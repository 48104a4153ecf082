-- A job may wait until others have completed. While it does, it bears a run_at that never comes, in the year 9999, and
-- waits for it as any job waits for its time: claims, which look for what is due, need not know of it.
-- after: a JSON list of ids, of the jobs that have to complete before. not_before: while it is held for them, the run_at
-- that it was given. needed: whether a job waits for this one, or once did.
ALTER TABLE queuectl.jobs
    ADD COLUMN after text,
    ADD COLUMN not_before double precision,
    ADD COLUMN needed boolean NOT NULL DEFAULT false;

-- What has still to complete; a row goes when it has. If the needed job is deleted instead, the row stays: a job that
-- was to run after a backup does not run because the backup has died and was purged.
CREATE TABLE queuectl.needs (
    on_seq bigint NOT NULL,  -- the job that has to complete
    seq    bigint NOT NULL,  -- the job that waits for it
    PRIMARY KEY (on_seq, seq)
);
CREATE INDEX needs_of ON queuectl.needs (seq, on_seq);

-- Let those of these jobs go that need nothing any more; now_at NULL: at the time at which they were last changed.
CREATE FUNCTION queuectl._let_go(seqs bigint[], now_at double precision) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE queuectl.jobs AS j
       SET run_at = greatest(j.not_before, now_at, j.updated_at),
           ready = CASE WHEN j.not_before <= coalesce(now_at, j.updated_at) THEN 1 ELSE 2 END,
           not_before = NULL, updated_at = greatest(now_at, j.updated_at)
     WHERE j.seq = ANY (seqs) AND j.not_before IS NOT NULL AND j.ready = 2
       AND NOT EXISTS (SELECT 1 FROM queuectl.needs AS n WHERE n.seq = j.seq);
    IF FOUND THEN
        PERFORM pg_notify('queuectl_' || (SELECT s.nspname
                                            FROM pg_class AS t
                                            JOIN pg_namespace AS s ON s.oid = t.relnamespace
                                           WHERE t.oid = 'queuectl.jobs'::regclass), '');
    END IF;
END $$;

-- A job that others need has completed. One transaction at a time: of two in which the last two needs of a job complete,
-- neither would see that the other's is gone. With the owner's rights, as all that follows is no worker's business.
CREATE FUNCTION queuectl._needs_met() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    waiting bigint[];
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(rtrim('queuectl.', '.') || '  needs', 0));
    WITH gone AS (DELETE FROM queuectl.needs AS n WHERE n.on_seq = NEW.seq RETURNING n.seq)
    SELECT array_agg(gone.seq) INTO waiting FROM gone;
    PERFORM queuectl._let_go(waiting, NEW.updated_at);
    RETURN NULL;
END $$;

CREATE TRIGGER needs_met AFTER UPDATE OF ended_at ON queuectl.jobs
    FOR EACH ROW WHEN (NEW.needed AND NEW.state = 'completed') EXECUTE FUNCTION queuectl._needs_met();

-- Whether a job has to wait for another is settled last, with that one locked: it may be about to complete, and who
-- writes that sees no need that is not committed. Locked earlier, in a transaction of the caller's own that goes on for
-- long, its worker could not write its end.
CREATE FUNCTION queuectl._settle_need(its_seq bigint, its_need bigint) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    now_state queuectl.job_state;
    is_needed boolean;
BEGIN
    SELECT j.state, j.needed INTO now_state, is_needed
      FROM queuectl.jobs AS j WHERE j.seq = its_need FOR NO KEY UPDATE;
    IF now_state = 'completed' THEN
        DELETE FROM queuectl.needs AS n WHERE n.on_seq = its_need AND n.seq = its_seq;
        PERFORM queuectl._let_go(ARRAY[its_seq], NULL);
    ELSIF NOT is_needed THEN
        UPDATE queuectl.jobs AS j SET needed = true WHERE j.seq = its_need;
    END IF;
END $$;

CREATE FUNCTION queuectl._need_noted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM queuectl._settle_need(NEW.seq, NEW.on_seq);
    RETURN NULL;
END $$;

-- A copy brings rows as they are, and notes at its end what is needed.
CREATE CONSTRAINT TRIGGER need_noted AFTER INSERT ON queuectl.needs DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (coalesce(current_setting('queuectl.copies', true), '') <> 'on')
    EXECUTE FUNCTION queuectl._need_noted();

-- With a job that was cancelled while it was held, and is deleted now, goes what it needed.
CREATE FUNCTION queuectl._waiter_gone() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM queuectl.needs AS n WHERE n.seq = OLD.seq;
    RETURN NULL;
END $$;

CREATE TRIGGER waiter_gone AFTER DELETE ON queuectl.jobs
    FOR EACH ROW WHEN (OLD.not_before IS NOT NULL) EXECUTE FUNCTION queuectl._waiter_gone();

-- The ids of jobs that have to complete before: one, or a list of them.
CREATE FUNCTION queuectl._after(value jsonb) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF jsonb_typeof(value) <> 'array' THEN
        value := jsonb_build_array(value);
    END IF;
    IF jsonb_array_length(value) > 1000 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format(
            'job field ''after'' names %s jobs, but may name at most 1000.', jsonb_array_length(value));
    END IF;
    RETURN ARRAY(SELECT job_id
                   FROM (SELECT queuectl._name('after', element) AS job_id, min(n) AS place
                           FROM jsonb_array_elements(value) WITH ORDINALITY AS e (element, n)
                          GROUP BY 1) AS ids
                  ORDER BY place);
END $$;

-- Whether one of these jobs has not completed.
CREATE FUNCTION queuectl._any_open(job_ids text[]) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    missing text;
BEGIN
    SELECT i.job_id INTO missing
      FROM unnest(job_ids) AS i (job_id)
     WHERE NOT EXISTS (SELECT 1 FROM queuectl.jobs AS j WHERE j.id = i.job_id)
     LIMIT 1;
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format(
            'job field ''after'' names %s, but there is no such job.', missing);
    END IF;
    RETURN EXISTS (SELECT 1 FROM queuectl.jobs AS j WHERE j.id = ANY (job_ids) AND j.state <> 'completed');
END $$;

-- As in 0002, and with ``after``. Options as fields of a job: names checked, hyphens made underscores, nulls left out.
CREATE OR REPLACE FUNCTION queuectl._fields(options jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    known CONSTANT text[] := ARRAY['id', 'queue', 'priority', 'max_retries', 'backoff_base', 'timeout', 'run_at',
                                   'delay', 'cwd', 'env', 'tags', 'after'];
    given text;
    field text;
    item jsonb;
    fields jsonb := '{}';
BEGIN
    IF jsonb_typeof(coalesce(nullif(options, 'null'), '{}')) <> 'object' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format(
            'the options of a job must be a JSON object such as {"queue": "mail"}, not %s.', left(options::text, 60));
    END IF;
    FOR given, item IN SELECT * FROM jsonb_each(coalesce(nullif(options, 'null'), '{}')) LOOP
        field := replace(given, '-', '_');
        IF field <> ALL (known) THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format(
                'unknown job field ''%s''. The fields are %s.', left(given, 60), array_to_string(known, ', '));
        END IF;
        IF fields ? field THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format(
                'job field ''%s'' is given twice.', field);
        END IF;
        fields := fields || jsonb_build_object(field, item);
    END LOOP;
    SELECT coalesce(jsonb_object_agg(f.key, f.value), '{}') INTO fields
      FROM jsonb_each(fields) AS f
     WHERE jsonb_typeof(f.value) <> 'null';
    IF fields ? 'run_at' AND fields ? 'delay' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'job fields ''run_at'' and ''delay'' are both given. Give one of them.';
    END IF;
    RETURN fields;
END $$;

-- As in 0008, and with ``after``.
CREATE OR REPLACE FUNCTION queuectl.enqueue(command text, options jsonb DEFAULT '{}') RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    SET standard_conforming_strings = on AS $$
DECLARE
    fields jsonb := queuectl._fields(options);
    job_id text := CASE WHEN fields ? 'id' THEN queuectl._name('id', fields -> 'id') END;
    line text := CASE WHEN fields ? 'queue' THEN queuectl._name('queue', fields -> 'queue') ELSE 'default' END;
    urgency integer := CASE WHEN fields ? 'priority'
        THEN queuectl._whole('priority', fields -> 'priority', -2147483647) ELSE 0 END;
    retries integer := CASE WHEN fields ? 'max_retries'
        THEN queuectl._whole('max_retries', fields -> 'max_retries', 0) END;
    delay_s double precision := CASE WHEN fields ? 'delay' THEN queuectl._duration_s('delay', fields -> 'delay') END;
    due_at double precision := CASE WHEN fields ? 'run_at' THEN queuectl._instant_at(fields -> 'run_at') END;
    limit_s double precision := CASE WHEN fields ? 'timeout'
        THEN queuectl._duration_s('timeout', fields -> 'timeout') END;
    base jsonb := fields -> 'backoff_base';
    folder text := coalesce(fields ->> 'cwd', '/');
    environment text := CASE WHEN fields ? 'env' THEN queuectl._env(fields -> 'env') END;
    labels text := CASE WHEN fields ? 'tags' THEN queuectl._tags(fields -> 'tags') END;
    before text[] := CASE WHEN fields ? 'after' THEN queuectl._after(fields -> 'after') END;
    is_open boolean := false;
    its_seq bigint;
    noted integer;
    now_at double precision;
BEGIN
    IF command IS NULL OR command !~ '\S' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'job field ''command'' must be a command, not blank.';
    ELSIF octet_length(command) > 131071 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format(
            'job field ''command'' is %s bytes long; the most a shell can be given is 131071. '
            'Put it into a script file and enqueue that.', octet_length(command));
    ELSIF limit_s <= 0 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
            MESSAGE = 'job field ''timeout'' must be more than 0.';
    ELSIF base IS NOT NULL AND (jsonb_typeof(base) <> 'number' OR base::text::numeric NOT BETWEEN 1 AND 1e308) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format(
            'job field ''backoff_base'' must be a number from 1, not %s.', left(base::text, 60));
    ELSIF fields ? 'cwd' AND (jsonb_typeof(fields -> 'cwd') <> 'string' OR folder !~ '^(/|[A-Za-z]:[\\/]|\\\\)') THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format(
            'job field ''cwd'' must be a whole path, from the root, not %s.', left((fields -> 'cwd')::text, 60));
    END IF;
    job_id := queuectl._take_id(job_id);
    -- Read under the lock, so that jobs are due in the order in which they came.
    now_at := extract(epoch FROM clock_timestamp());
    due_at := coalesce(now_at + delay_s, due_at, now_at);
    IF before IS NOT NULL THEN
        is_open := queuectl._any_open(before);
    END IF;
    INSERT INTO queuectl.queues (name) VALUES (line) ON CONFLICT DO NOTHING;
    INSERT INTO queuectl.jobs (id, queue, ready, run_at, priority, max_retries, command, cwd, env, tags, timeout_s,
                               backoff_base, created_at, updated_at, after, not_before)
    VALUES (job_id, line, CASE WHEN due_at <= now_at AND NOT is_open THEN 1 ELSE 2 END,
            CASE WHEN is_open THEN 253402214400 ELSE due_at END, urgency,
            coalesce(retries, (SELECT s.value::integer FROM queuectl.settings AS s WHERE s.key = 'max_retries'), 3),
            enqueue.command, folder, environment, labels, limit_s, base::text::double precision, now_at, now_at,
            nullif(array_to_json(before)::text, '[]'), CASE WHEN is_open THEN due_at END)
    RETURNING seq INTO its_seq;
    IF is_open THEN  -- what has completed by now is found at the commit
        INSERT INTO queuectl.needs (on_seq, seq)
        SELECT j.seq, its_seq FROM queuectl.jobs AS j WHERE j.id = ANY (before);
        GET DIAGNOSTICS noted = ROW_COUNT;
        IF noted <> cardinality(before) THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
                MESSAGE = 'a job that ''after'' names was deleted at this moment. Try again.';
        END IF;
    END IF;
    UPDATE queuectl.counts AS c SET pending = c.pending + 1 WHERE c.queue = line AND c.shard = 0;
    IF NOT FOUND THEN
        INSERT INTO queuectl.counts AS c (queue, shard, pending) VALUES (line, 0, 1)
            ON CONFLICT (queue, shard) DO UPDATE SET pending = c.pending + 1;
    END IF;
    PERFORM pg_notify('queuectl_' || (SELECT n.nspname
                                        FROM pg_class AS t
                                        JOIN pg_namespace AS n ON n.oid = t.relnamespace
                                       WHERE t.oid = 'queuectl.jobs'::regclass), '');
    RETURN job_id;
END $$;
