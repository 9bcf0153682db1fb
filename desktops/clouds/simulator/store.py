"""The simulated cloud's SQLite file.

Write-ahead log with synchronous=NORMAL: a commit survives the death of the process (the operating
system holds the pages), which is what `kill -9` does; only a power failure could lose the newest.
The file is opened exclusively: two processes on one store would be two clouds.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

SCHEMA_VERSION = 1

SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

-- What will happen by itself, and when; settled in order of time before every request.
CREATE TABLE agenda (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms INTEGER NOT NULL,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    UNIQUE (kind, subject)
);
CREATE INDEX agenda_due ON agenda (at_ms, seq);

CREATE TABLE servers (
    id TEXT PRIMARY KEY,
    region TEXT NOT NULL,
    name TEXT NOT NULL,
    key TEXT NOT NULL,
    status TEXT NOT NULL,
    task TEXT NOT NULL DEFAULT '',
    is_fenced INTEGER NOT NULL,
    flavor TEXT NOT NULL,
    host TEXT NOT NULL,
    address TEXT NOT NULL,
    desktop_key TEXT NOT NULL,
    metadata TEXT NOT NULL,
    fault TEXT NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX server_key ON servers (region, key) WHERE key <> '';
CREATE INDEX server_region ON servers (region, flavor);
CREATE INDEX server_desktop ON servers (desktop_key);

-- content: what the volume holds, not counting the writes of the run in progress (run_id).
CREATE TABLE volumes (
    id TEXT PRIMARY KEY,
    region TEXT NOT NULL,
    name TEXT NOT NULL,
    key TEXT NOT NULL,
    status TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    used_bytes INTEGER NOT NULL,
    image TEXT NOT NULL,
    is_bootable INTEGER NOT NULL,
    attached_to TEXT,
    dirty_bytes_per_s INTEGER NOT NULL,
    dirty_saturation_bytes INTEGER NOT NULL,
    content TEXT NOT NULL REFERENCES contents (version),
    run_id TEXT,
    run_started_ms INTEGER
);
CREATE UNIQUE INDEX volume_key ON volumes (region, key) WHERE key <> '';
CREATE INDEX volume_region ON volumes (region, size_bytes);
CREATE INDEX volume_attached ON volumes (attached_to) WHERE attached_to IS NOT NULL;

-- A tree of contents: each is its parent plus the writes of one run, up to run_ms of it.
CREATE TABLE contents (
    version TEXT PRIMARY KEY,
    parent TEXT,
    run_id TEXT NOT NULL,
    run_ms INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE snapshots (
    id TEXT PRIMARY KEY,
    region TEXT NOT NULL,
    volume_id TEXT NOT NULL,
    key TEXT NOT NULL,
    status TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    content TEXT NOT NULL REFERENCES contents (version)
);
CREATE UNIQUE INDEX snapshot_key ON snapshots (region, key) WHERE key <> '';
CREATE INDEX snapshot_volume ON snapshots (volume_id);

CREATE TABLE images (
    region TEXT NOT NULL,
    name TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    PRIMARY KEY (region, name)
) WITHOUT ROWID;

-- Passes of volumes and copies of images between regions.
-- phase: setup, sending, finishing, '' (ended); bytes_done holds as of rated_ms.
CREATE TABLE transfers (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    source_region TEXT NOT NULL,
    dest_region TEXT NOT NULL,
    source_id TEXT NOT NULL,
    dest_id TEXT,
    is_incremental INTEGER NOT NULL,
    content TEXT,
    state TEXT NOT NULL,
    phase TEXT NOT NULL,
    bytes_total INTEGER,
    bytes_done INTEGER NOT NULL DEFAULT 0,
    fails_at_bytes INTEGER,
    bytes_per_s REAL NOT NULL DEFAULT 0,
    rated_ms INTEGER NOT NULL,
    detail TEXT NOT NULL DEFAULT '',
    UNIQUE (dest_region, kind, key)
);
CREATE INDEX transfer_link ON transfers (source_region, dest_region) WHERE phase = 'sending';
CREATE INDEX transfer_source ON transfers (source_id) WHERE state = 'running';

CREATE TABLE live_migrations (
    region TEXT NOT NULL,
    key TEXT NOT NULL,
    id TEXT NOT NULL UNIQUE,
    server_id TEXT NOT NULL,
    dest_host TEXT NOT NULL,
    state TEXT NOT NULL,
    detail TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (region, key)
) WITHOUT ROWID;

-- What the session gateway holds for one desktop, and where its user is.
CREATE TABLE sessions (
    desktop_key TEXT PRIMARY KEY,
    token INTEGER NOT NULL DEFAULT 0,
    is_held INTEGER NOT NULL DEFAULT 0,
    region TEXT,
    server_id TEXT,
    is_present INTEGER NOT NULL DEFAULT 0,
    connected_region TEXT,
    connected_to TEXT,
    connecting_to TEXT,
    since_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX session_server ON sessions (server_id);

CREATE TABLE adoptions (
    desktop_key TEXT PRIMARY KEY,
    region TEXT NOT NULL,
    server_id TEXT NOT NULL,
    volume_id TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE faults (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    operation TEXT NOT NULL,
    region TEXT,
    remaining INTEGER NOT NULL,
    until_ms INTEGER,
    value REAL
);

-- accepting: JSON list of the desktop's servers that accept sessions from at_ms on.
CREATE TABLE journal (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms INTEGER NOT NULL,
    wall_ms INTEGER NOT NULL,
    kind TEXT NOT NULL,
    region TEXT NOT NULL,
    resource_id TEXT NOT NULL,
    desktop_key TEXT NOT NULL,
    detail TEXT NOT NULL,
    accepting TEXT
);
CREATE INDEX journal_time ON journal (at_ms);
CREATE INDEX journal_desktop ON journal (desktop_key, seq);
CREATE TRIGGER journal_keeps BEFORE UPDATE ON journal
BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER journal_stays BEFORE DELETE ON journal
BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
"""


class StoreError(Exception):
    """The store cannot be opened: in use by another process, of another version, unwritable."""


def open_store(path: Path) -> sqlite3.Connection:
    """Open or create the store at `path`; raises StoreError."""
    db: sqlite3.Connection | None = None
    try:
        # autocommit: transactions are begun and ended explicitly by the simulation.
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=1)
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA foreign_keys = ON")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            db.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        elif version != SCHEMA_VERSION:
            raise StoreError(
                f"{path} is of version {version}, this simulator reads {SCHEMA_VERSION};"
                " remove the file to start over"
            )
        # Takes the exclusive lock now rather than at the first request.
        db.execute("BEGIN IMMEDIATE")
        db.execute("COMMIT")
    except sqlite3.Error as error:
        if db is not None:
            db.close()
        raise StoreError(f"{path}: {error}") from error
    return db
