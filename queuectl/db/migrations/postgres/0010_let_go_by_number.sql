-- As in 0009, but the jobs are found by their numbers. From "ready = 2" PostgreSQL saw that the index of the waiting jobs
-- would do, which is in another order: before version 17 it walked through all of it, comparing each with all numbers.
-- Where 6,000 jobs waited, an end that let 150 of them go took 0.2 s.
CREATE OR REPLACE FUNCTION queuectl._let_go(seqs bigint[], now_at double precision) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE queuectl.jobs AS j
       SET run_at = greatest(j.not_before, now_at, j.updated_at),
           ready = CASE WHEN j.not_before <= coalesce(now_at, j.updated_at) THEN 1 ELSE 2 END,
           not_before = NULL, updated_at = greatest(now_at, j.updated_at)
     WHERE j.seq = ANY (seqs) AND j.not_before IS NOT NULL AND j.ready + 0 = 2
       AND NOT EXISTS (SELECT 1 FROM queuectl.needs AS n WHERE n.seq = j.seq);
    IF FOUND THEN
        PERFORM pg_notify('queuectl_' || (SELECT s.nspname
                                            FROM pg_class AS t
                                            JOIN pg_namespace AS s ON s.oid = t.relnamespace
                                           WHERE t.oid = 'queuectl.jobs'::regclass), '');
    END IF;
END $$;
