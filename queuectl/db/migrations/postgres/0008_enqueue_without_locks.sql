-- Where each call of enqueue() was in a savepoint of its own, as in a PL/pgSQL block with EXCEPTION, the rows of numbers
-- and counts were locked before they were updated. A row's next version bore that lock, the next savepoint's was added
-- to it, and so on: each call read the locks of all before it, several times. An update locks by itself.

-- As in 0006, but the usual number is drawn by one update.
CREATE OR REPLACE FUNCTION queuectl._take_id(given text) RETURNS text
LANGUAGE plpgsql SET standard_conforming_strings = on AS $$
DECLARE
    upcoming bigint;
    its_number bigint := CASE WHEN given ~ '^job[1-9]\d{0,17}$' THEN substr(given, 4)::bigint END;
    taken boolean;
BEGIN
    IF given IS NULL THEN
        UPDATE queuectl.numbers AS n
           SET next_number = n.next_number + 1, announced_at = extract(epoch FROM clock_timestamp())
         WHERE n.one AND NOT n.has_taken
        RETURNING n.next_number - 1 INTO upcoming;
        IF FOUND AND NOT EXISTS (SELECT 1 FROM queuectl.jobs AS j WHERE j.id = 'job' || upcoming) THEN
            RETURN 'job' || upcoming;
        END IF;
    END IF;
    SELECT n.next_number, n.has_taken INTO STRICT upcoming, taken FROM queuectl.numbers AS n WHERE n.one FOR UPDATE;
    IF given IS NULL THEN
        WHILE EXISTS (SELECT 1 FROM queuectl.jobs AS j WHERE j.id = 'job' || upcoming)
              OR taken AND EXISTS (SELECT 1 FROM queuectl.taken_numbers AS t WHERE t.number = upcoming) LOOP
            upcoming := upcoming + 1;
        END LOOP;
        given := 'job' || upcoming;
        upcoming := upcoming + 1;
    ELSE
        IF EXISTS (SELECT 1 FROM queuectl.jobs AS j WHERE j.id = given) THEN
            RAISE EXCEPTION USING ERRCODE = 'unique_violation', MESSAGE = format(
                'the id %s is taken. Give another id, or none to get the next one.', given);
        END IF;
        IF its_number < upcoming
           OR EXISTS (SELECT 1 FROM queuectl.taken_numbers AS t WHERE t.number = its_number) THEN
            RAISE EXCEPTION USING ERRCODE = 'unique_violation', MESSAGE = format(
                'the id %s was used by an earlier job. Give another id, or none to get the next one.', given);
        END IF;
        IF its_number IS NOT NULL THEN
            INSERT INTO queuectl.taken_numbers VALUES (its_number);
            taken := true;
        END IF;
    END IF;
    IF taken THEN
        WHILE EXISTS (SELECT 1 FROM queuectl.taken_numbers AS t WHERE t.number = upcoming) LOOP
            upcoming := upcoming + 1;
        END LOOP;
        DELETE FROM queuectl.taken_numbers AS t WHERE t.number < upcoming;
        taken := EXISTS (SELECT 1 FROM queuectl.taken_numbers);
    END IF;
    UPDATE queuectl.numbers
       SET next_number = upcoming, has_taken = taken, announced_at = extract(epoch FROM clock_timestamp())
     WHERE one;
    RETURN given;
END $$;

-- As in 0002 and 0006, but for the counter.
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
    INSERT INTO queuectl.queues (name) VALUES (line) ON CONFLICT DO NOTHING;
    INSERT INTO queuectl.jobs (id, queue, ready, run_at, priority, max_retries, command, cwd, env, tags, timeout_s,
                               backoff_base, created_at, updated_at)
    VALUES (job_id, line, CASE WHEN due_at <= now_at THEN 1 ELSE 2 END, due_at, urgency,
            coalesce(retries, (SELECT s.value::integer FROM queuectl.settings AS s WHERE s.key = 'max_retries'), 3),
            enqueue.command, folder, environment, labels, limit_s, base::text::double precision, now_at, now_at);
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
