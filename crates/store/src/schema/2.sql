-- What people and programs asked for, one row per request: written down before anything is done (outcome `begun`), and once more when it is over.
CREATE TABLE changes (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms INTEGER NOT NULL,
    actor TEXT NOT NULL,
    name TEXT NOT NULL,
    action TEXT NOT NULL,
    version TEXT NOT NULL,
    digest TEXT NOT NULL,
    outcome TEXT NOT NULL,
    detail TEXT NOT NULL,
    before TEXT NOT NULL,
    after TEXT NOT NULL
) STRICT;
CREATE INDEX changes_by_name ON changes (name, seq);

-- The package that the watched directory had under a name when the host last acted on it; `held`: an operator had a word since.
CREATE TABLE watched (
    name TEXT PRIMARY KEY,
    digest TEXT NOT NULL,
    held INTEGER NOT NULL
) STRICT;
