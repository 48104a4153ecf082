-- The store of release 1. Instants are Unix seconds in UTC (REAL), durations seconds.

CREATE TABLE schema_version (
    n          INTEGER PRIMARY KEY,
    checksum   TEXT NOT NULL,      -- of the migration's text, to notice one that was changed later
    applied_at REAL NOT NULL
);

-- One row: what belongs to the store as a whole.
CREATE TABLE store (
    one              INTEGER PRIMARY KEY CHECK (one = 1),
    store_id         TEXT NOT NULL,               -- random; half of a run's mark
    next_number      INTEGER NOT NULL DEFAULT 1,  -- of the next generated id
    settings_version INTEGER NOT NULL DEFAULT 0,  -- grows with each change of a setting
    last_run_id      INTEGER NOT NULL DEFAULT 0,  -- the largest run id among rows that were deleted
    last_seq         INTEGER NOT NULL DEFAULT 0,  -- the largest jobs.seq among rows that were deleted
    created_at       REAL NOT NULL
);

-- Numbers >= next_number that callers took by giving an id like job7 themselves.
CREATE TABLE taken_numbers (
    number INTEGER PRIMARY KEY
);

CREATE TABLE settings (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

-- A queue's switches, and its jobs counted by state: counting rows takes 150 ms at a million.
CREATE TABLE queues (
    name        TEXT PRIMARY KEY,
    paused      INTEGER NOT NULL DEFAULT 0 CHECK (paused IN (0, 1)),
    max_running INTEGER CHECK (max_running >= 1),
    pending     INTEGER NOT NULL DEFAULT 0 CHECK (pending >= 0),
    processing  INTEGER NOT NULL DEFAULT 0 CHECK (processing >= 0),
    failed      INTEGER NOT NULL DEFAULT 0 CHECK (failed >= 0),
    completed   INTEGER NOT NULL DEFAULT 0 CHECK (completed >= 0),
    dead        INTEGER NOT NULL DEFAULT 0 CHECK (dead >= 0),
    cancelled   INTEGER NOT NULL DEFAULT 0 CHECK (cancelled >= 0)
) WITHOUT ROWID;

CREATE TABLE jobs (
    seq              INTEGER PRIMARY KEY,
    id               TEXT NOT NULL UNIQUE,
    queue            TEXT NOT NULL,
    state            TEXT NOT NULL,
    priority         INTEGER NOT NULL,
    run_at           REAL NOT NULL,
    -- 1: a claim may take it; 2: it waits for its run_at; 0: it does not wait.
    ready            INTEGER NOT NULL,
    command          TEXT NOT NULL,
    cwd              TEXT NOT NULL,
    env              TEXT,
    tags             TEXT,
    timeout_s        REAL CHECK (timeout_s > 0),
    backoff_base     REAL CHECK (backoff_base >= 1),
    max_retries      INTEGER NOT NULL CHECK (max_retries >= 0),
    attempts         INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    failures         INTEGER NOT NULL DEFAULT 0 CHECK (failures BETWEEN 0 AND attempts),
    losses           INTEGER NOT NULL DEFAULT 0 CHECK (losses BETWEEN 0 AND attempts),
    run_no           INTEGER NOT NULL DEFAULT 0 CHECK (run_no >= attempts),
    last_run_id      INTEGER,          -- the newest run; the owner while processing
    worker_id        TEXT,
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    created_at       REAL NOT NULL,
    updated_at       REAL NOT NULL,
    ended_at         REAL,
    reason           TEXT,
    -- What each state implies. One CASE and no IN: SQLite builds a table for every IN whenever a row is
    -- checked, and with five of them an insert took twice as long.
    CHECK (CASE state
           WHEN 'pending' THEN
               ready BETWEEN 1 AND 2 AND worker_id IS NULL AND ended_at IS NULL AND cancel_requested = 0
           WHEN 'failed' THEN
               ready BETWEEN 1 AND 2 AND worker_id IS NULL AND ended_at IS NULL AND cancel_requested = 0
           WHEN 'processing' THEN
               ready = 0 AND worker_id IS NOT NULL AND last_run_id IS NOT NULL AND ended_at IS NULL
               AND cancel_requested BETWEEN 0 AND 1
           WHEN 'completed' THEN
               ready = 0 AND worker_id IS NULL AND ended_at IS NOT NULL AND cancel_requested = 0
           WHEN 'dead' THEN
               ready = 0 AND worker_id IS NULL AND ended_at IS NOT NULL AND cancel_requested = 0
           WHEN 'cancelled' THEN
               ready = 0 AND worker_id IS NULL AND ended_at IS NOT NULL AND cancel_requested = 0
           ELSE 0
           END)
);

-- The claim's index: ready rows only. With a million pending and 300,000 future rows inside it a
-- claim takes 17.8 ms, without them 0.08 ms.
CREATE INDEX jobs_ready ON jobs (queue, priority DESC, run_at, seq) WHERE ready = 1;
CREATE INDEX jobs_waiting ON jobs (queue, run_at) WHERE ready = 2;
-- Listings by state and the owner's jobs. Completed jobs are left out: each page of an index that a run
-- dirties is written to the WAL, and where completed jobs are many a walk by seq finds them at once.
-- The condition is spelled with ORs: from an IN SQLite does not see that "state = ?" is covered.
CREATE INDEX jobs_listed ON jobs (state, seq)
 WHERE state = 'pending' OR state = 'failed' OR state = 'dead' OR state = 'cancelled';
CREATE INDEX jobs_owned ON jobs (worker_id) WHERE worker_id IS NOT NULL;
CREATE INDEX jobs_ended ON jobs (ended_at) WHERE ended_at IS NOT NULL;

-- Without AUTOINCREMENT, which dirties a page of its own per run: a run id is one more than the largest
-- ever, and store.last_run_id remembers that when rows are deleted. It is a fencing token and must
-- never come again. The runs of a job are a chain from jobs.last_run_id over previous_id: no index.
CREATE TABLE runs (
    run_id            INTEGER PRIMARY KEY,
    previous_id       INTEGER,
    number            INTEGER NOT NULL CHECK (number >= 1),
    state             TEXT NOT NULL,
    exit_code         INTEGER,
    signal            INTEGER,
    started_at        REAL NOT NULL,
    ended_at          REAL,
    worker_id         TEXT NOT NULL,
    host              TEXT NOT NULL,
    pid               INTEGER,
    peak_memory_bytes INTEGER,
    cpu_s             REAL,
    reason            TEXT,
    CHECK (CASE state
           WHEN 'running' THEN ended_at IS NULL
           WHEN 'completed' THEN ended_at IS NOT NULL
           WHEN 'failed' THEN ended_at IS NOT NULL
           WHEN 'timed_out' THEN ended_at IS NOT NULL
           WHEN 'cancelled' THEN ended_at IS NOT NULL
           WHEN 'stopped' THEN ended_at IS NOT NULL
           WHEN 'lost' THEN ended_at IS NOT NULL
           ELSE 0
           END)
);

-- start: where in the run's output the bytes begin; a gap was cut out.
CREATE TABLE output (
    run_id INTEGER NOT NULL,
    start  INTEGER NOT NULL,
    bytes  BLOB NOT NULL,
    PRIMARY KEY (run_id, start)
) WITHOUT ROWID;

CREATE TABLE workers (
    id               TEXT PRIMARY KEY,
    role             TEXT NOT NULL CHECK (role IN ('worker', 'supervisor')),
    group_id         TEXT NOT NULL,
    number           INTEGER NOT NULL,
    host             TEXT NOT NULL,
    host_id          TEXT NOT NULL,
    pid              INTEGER NOT NULL,
    pid_started      TEXT NOT NULL,
    queues           TEXT NOT NULL,   -- a JSON list; empty: all
    concurrency      INTEGER NOT NULL,
    started_at       REAL NOT NULL,
    lease_expires_at REAL NOT NULL,
    renewed_mono_s   REAL NOT NULL,
    state            TEXT NOT NULL CHECK (state IN ('alive', 'lost')),
    stop             INTEGER NOT NULL DEFAULT 0 CHECK (stop BETWEEN 0 AND 2)
);
