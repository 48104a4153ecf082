-- What other languages and tools may use: queuectl.enqueue() and the view queue_depth. Both are stable: columns
-- and options are only ever added. What begins with an underscore is not for callers.

-- A duration as callers write it (90, "1.5h", "2h30m") in seconds.
CREATE FUNCTION queuectl._duration_s(field text, value jsonb) RETURNS double precision
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    written text := lower(btrim(value #>> '{}', E' \t\n\r\f\x0B'));
    part text[];
    total numeric;
BEGIN
    IF jsonb_typeof(value) = 'number' OR jsonb_typeof(value) = 'string' AND written ~ '^(\d+\.?\d*|\.\d+)$' THEN
        total := written::numeric;
    ELSIF jsonb_typeof(value) = 'string' AND written ~ '^((\d+\.?\d*|\.\d+)(ms|s|m|h|d|w)\s*)+$' THEN
        total := 0;
        FOR part IN SELECT regexp_matches(written, '(\d+\.?\d*|\.\d+)(ms|s|m|h|d|w)', 'g') LOOP
            total := total + part[1]::numeric * CASE part[2]
                WHEN 'ms' THEN 0.001 WHEN 's' THEN 1 WHEN 'm' THEN 60 WHEN 'h' THEN 3600
                WHEN 'd' THEN 86400 ELSE 604800 END;
        END LOOP;
    END IF;
    IF total IS NULL OR total < 0 OR total > 100 * 366 * 86400.0 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format(
            'job field ''%s'' must be seconds or a duration such as 90, 1.5h, 2h30m or 1d, not %s.',
            field, left(value::text, 60));
    END IF;
    RETURN total;
END $$;

-- An ISO 8601 time in Unix seconds; without an offset it is in the session's time zone.
CREATE FUNCTION queuectl._instant_at(value jsonb) RETURNS double precision
LANGUAGE plpgsql STABLE AS $$
DECLARE
    written text := btrim(value #>> '{}');
    instant_at double precision;
BEGIN
    IF jsonb_typeof(value) = 'string'
       AND written ~* '^\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d(:?\d\d)?)?)?$' THEN
        BEGIN
            instant_at := extract(epoch FROM written::timestamptz);
        EXCEPTION WHEN data_exception THEN
            instant_at := NULL;
        END;
    END IF;
    IF instant_at IS NULL OR instant_at < 0 OR instant_at >= 7258118400 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format(
            'job field ''run_at'' must be a time such as 2030-01-31T08:00Z, not %s.', left(value::text, 60));
    END IF;
    RETURN instant_at;
END $$;

-- A whole number from least on.
CREATE FUNCTION queuectl._whole(field text, value jsonb, lowest bigint) RETURNS integer
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF jsonb_typeof(value) = 'number' AND value::text ~ '^-?\d{1,10}$'
       AND value::text::bigint BETWEEN lowest AND 2147483647 THEN
        RETURN value::text::integer;
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format(
        'job field ''%s'' must be a whole number from %s to 2147483647, not %s.', field, lowest, left(value::text, 60));
END $$;

-- An id, a queue's name or a tag.
CREATE FUNCTION queuectl._name(field text, value jsonb) RETURNS text
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF jsonb_typeof(value) = 'string' AND value #>> '{}' ~ '^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$' THEN
        RETURN value #>> '{}';
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format(
        'job field ''%s'' must be 1-128 of A-Z a-z 0-9 . _ -, not starting with - or ., not %s.',
        field, left(value::text, 60));
END $$;

-- Tags as they are stored: a JSON list without doubles; NULL if there are none.
CREATE FUNCTION queuectl._tags(value jsonb) RETURNS text
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF jsonb_typeof(value) <> 'array' OR jsonb_array_length(value) > 100 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format(
            'job field ''tags'' must be a list of up to 100 strings such as ["nightly"], not %s.',
            left(value::text, 60));
    END IF;
    RETURN (SELECT '[' || string_agg(to_json(tag)::text, ',' ORDER BY place) || ']'
              FROM (SELECT queuectl._name('tags', element) AS tag, min(n) AS place
                      FROM jsonb_array_elements(value) WITH ORDINALITY AS e (element, n)
                     GROUP BY 1) AS tags);
END $$;

-- An environment as it is stored: a JSON object of strings; NULL if it is empty.
CREATE FUNCTION queuectl._env(value jsonb) RETURNS text
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    name text;
    item jsonb;
    size bigint := 0;
BEGIN
    IF jsonb_typeof(value) <> 'object' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format(
            'job field ''env'' must be an object of strings such as {"KEY": "value"}, not %s.', left(value::text, 60));
    END IF;
    FOR name, item IN SELECT * FROM jsonb_each(value) LOOP
        IF name = '' OR strpos(name, '=') > 0 OR jsonb_typeof(item) <> 'string' THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format(
                'job field ''env'' must be an object of strings, whose names are not empty and have no ''='', not %s.',
                left(jsonb_build_object(name, item)::text, 60));
        END IF;
        IF upper(name) LIKE 'QUEUECTL\_RUN\_ID%' OR upper(name) = 'QUEUECTL_STORE_ID' THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format(
                'job field ''env'' must not set %s: it is set for each run.', name);
        END IF;
        size := size + octet_length(name) + octet_length(item #>> '{}') + 2;
    END LOOP;
    IF size > 131072 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format(
            'job field ''env'' is %s bytes in all; the most is 131072.', size);
    END IF;
    RETURN nullif(value::text, '{}');
END $$;

-- Options as fields of a job: names checked, hyphens made underscores, nulls left out.
CREATE FUNCTION queuectl._fields(options jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    known CONSTANT text[] := ARRAY['id', 'queue', 'priority', 'max_retries', 'backoff_base', 'timeout', 'run_at',
                                   'delay', 'cwd', 'env', 'tags'];
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

-- The id of a new job; the numbers are locked from here to the end of the transaction.
CREATE FUNCTION queuectl._take_id(given text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    upcoming bigint;
    its_number bigint := CASE WHEN given ~ '^job[1-9]\d{0,17}$' THEN substr(given, 4)::bigint END;
    taken boolean;
BEGIN
    SELECT n.next_number, n.has_taken INTO STRICT upcoming, taken FROM queuectl.numbers AS n WHERE n.one FOR UPDATE;
    IF EXISTS (SELECT 1 FROM queuectl.jobs AS j WHERE j.id = given) THEN
        RAISE EXCEPTION USING ERRCODE = 'unique_violation', MESSAGE = format(
            'the id %s is taken. Give another id, or none to get the next one.', given);
    END IF;
    IF its_number < upcoming OR EXISTS (SELECT 1 FROM queuectl.taken_numbers AS t WHERE t.number = its_number) THEN
        RAISE EXCEPTION USING ERRCODE = 'unique_violation', MESSAGE = format(
            'the id %s was used by an earlier job. Give another id, or none to get the next one.', given);
    END IF;
    IF given IS NULL THEN
        given := 'job' || upcoming;
        upcoming := upcoming + 1;
    ELSIF its_number IS NOT NULL THEN
        INSERT INTO queuectl.taken_numbers VALUES (its_number);
        taken := true;
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

-- Enqueue a command in the caller's transaction and return the job's id. With the rights of the store's owner, so
-- that a role needs no more than EXECUTE on this; nobody but the owner has that at first.
CREATE FUNCTION queuectl.enqueue(command text, options jsonb DEFAULT '{}') RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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
    INSERT INTO queuectl.counts AS c (queue, shard, pending) VALUES (line, 0, 1)
        ON CONFLICT (queue, shard) DO UPDATE SET pending = c.pending + 1;
    PERFORM pg_notify('queuectl_' || (SELECT n.nspname
                                        FROM pg_class AS t
                                        JOIN pg_namespace AS n ON n.oid = t.relnamespace
                                       WHERE t.oid = 'queuectl.jobs'::regclass), '');
    RETURN job_id;
END $$;

REVOKE ALL ON FUNCTION queuectl.enqueue(text, jsonb) FROM PUBLIC;

-- A row for each queue. due: could run now; delayed: wait for a time or a retry; oldest_due_age_s: how long the
-- oldest due job has waited. All but delayed and oldest_due_age_s come from counters; those probe an index.
CREATE VIEW queuectl.queue_depth AS
    WITH RECURSIVE clock AS (
        SELECT extract(epoch FROM statement_timestamp())::double precision AS now
    ), head(queue, priority, run_at) AS (
        (SELECT queue, priority, run_at FROM queuectl.jobs
          WHERE ready = 1 ORDER BY queue, priority DESC, run_at, seq LIMIT 1)
        UNION ALL
        SELECT next.queue, next.priority, next.run_at
          FROM head
         CROSS JOIN LATERAL (
             (SELECT queue, priority, run_at FROM queuectl.jobs
               WHERE ready = 1 AND queue = head.queue AND priority < head.priority
               ORDER BY queue, priority DESC, run_at, seq LIMIT 1)
             UNION ALL
             (SELECT queue, priority, run_at FROM queuectl.jobs
               WHERE ready = 1 AND queue > head.queue
               ORDER BY queue, priority DESC, run_at, seq LIMIT 1)
             LIMIT 1) AS next
    ), oldest AS (
        SELECT queue, min(run_at) AS run_at
          FROM (SELECT queue, run_at FROM head
                UNION ALL
                SELECT queue, run_at FROM queuectl.jobs WHERE ready = 2 AND run_at <= (SELECT now FROM clock)) AS due
         GROUP BY queue
    ), later AS (
        SELECT queue, count(*) AS delayed
          FROM queuectl.jobs
         WHERE ready = 2 AND run_at > (SELECT now FROM clock)
         GROUP BY queue
    ), counted AS (
        SELECT queue, sum(pending + failed) AS waiting, sum(processing) AS running, sum(dead) AS dead
          FROM queuectl.counts
         GROUP BY queue)
    SELECT q.name AS queue,
           greatest(coalesce(c.waiting, 0) - coalesce(l.delayed, 0), 0)::bigint AS due,
           coalesce(l.delayed, 0)::bigint AS delayed,
           coalesce(c.running, 0)::bigint AS running,
           coalesce(c.dead, 0)::bigint AS dead,
           CASE WHEN o.run_at IS NOT NULL THEN greatest((SELECT now FROM clock) - o.run_at, 0) END AS oldest_due_age_s,
           q.max_running,
           q.paused
      FROM queuectl.queues AS q
      LEFT JOIN counted AS c ON c.queue = q.name
      LEFT JOIN later AS l ON l.queue = q.name
      LEFT JOIN oldest AS o ON o.queue = q.name;
