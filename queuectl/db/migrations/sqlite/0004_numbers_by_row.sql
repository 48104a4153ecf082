-- The next generated number follows from the newest row, so that an enqueue need not write it: a page less of the log.
-- Only jobs with ids of their own, and numbers that were skipped, change the distance. The table is made anew because
-- SQLite before 3.35 cannot drop a column; and a process of an older release that has the file open is to fail
-- rather than to count on from a number that nobody keeps.
CREATE TABLE new_store (
    one              INTEGER PRIMARY KEY CHECK (one = 1),
    store_id         TEXT NOT NULL,               -- random; half of a run's mark
    seq_ahead        INTEGER NOT NULL DEFAULT 0,  -- the next jobs.seq minus the number of the next generated id
    settings_version INTEGER NOT NULL DEFAULT 0,  -- grows with each change of a setting
    last_run_id      INTEGER NOT NULL DEFAULT 0,  -- the largest run id among rows that were deleted
    last_seq         INTEGER NOT NULL DEFAULT 0,  -- the largest jobs.seq among rows that were deleted
    created_at       REAL NOT NULL,
    boot_id          TEXT NOT NULL DEFAULT ''     -- of the machine in which workers last registered
);

INSERT INTO new_store
SELECT one, store_id, 1 + max(last_seq, (SELECT coalesce(max(seq), 0) FROM jobs)) - next_number,
       settings_version, last_run_id, last_seq, created_at, boot_id
  FROM store;

DROP TABLE store;

ALTER TABLE new_store RENAME TO store;
