-- A job may wait until others have completed. While it does, it bears a run_at that never comes and waits for it as any
-- job waits for its time: claims, which look for what is due, need not know of it.
-- after: a JSON list of ids, of the jobs that have to complete before. not_before: while it is held for them, the run_at
-- that it was given.
ALTER TABLE jobs ADD COLUMN after TEXT;
ALTER TABLE jobs ADD COLUMN not_before REAL;

-- What has still to complete; a row goes when it has. If the needed job is deleted instead, the row stays: a job that
-- was to run after a backup does not run because the backup has died and was purged.
CREATE TABLE needs (
    on_seq INTEGER NOT NULL,  -- the job that has to complete
    seq    INTEGER NOT NULL,  -- the job that waits for it
    PRIMARY KEY (on_seq, seq)
) WITHOUT ROWID;
CREATE INDEX needs_of ON needs (seq, on_seq);

-- Here and not where a run's end is written: a worker of an older release that has the file open does it too.
CREATE TRIGGER needs_met AFTER UPDATE OF ended_at ON jobs
 WHEN NEW.state = 'completed' AND EXISTS (SELECT 1 FROM needs WHERE on_seq = NEW.seq)
BEGIN
    UPDATE jobs
       SET run_at = max(not_before, NEW.updated_at), ready = CASE WHEN not_before <= NEW.updated_at THEN 1 ELSE 2 END,
           not_before = NULL, updated_at = NEW.updated_at
     WHERE seq IN (SELECT seq FROM needs WHERE on_seq = NEW.seq) AND not_before IS NOT NULL AND ready = 2
       AND NOT EXISTS (SELECT 1 FROM needs AS other WHERE other.seq = jobs.seq AND other.on_seq <> NEW.seq);
    DELETE FROM needs WHERE on_seq = NEW.seq;
END;
