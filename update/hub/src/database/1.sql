-- Times are seconds since 1970. Ids and digests are 32 bytes. JSON is as kedge-api writes it.

CREATE TABLE roots (
    product    TEXT    NOT NULL,
    version    INTEGER NOT NULL,
    document   BLOB    NOT NULL,
    signatures BLOB    NOT NULL,
    added      INTEGER NOT NULL,
    PRIMARY KEY (product, version)
) WITHOUT ROWID, STRICT;

CREATE TABLE revisions (
    id         BLOB    PRIMARY KEY,
    product    TEXT    NOT NULL,
    document   BLOB    NOT NULL,
    signatures BLOB    NOT NULL,
    published  INTEGER NOT NULL,
    complete   INTEGER NOT NULL
) WITHOUT ROWID, STRICT;

CREATE TABLE devices (
    id          BLOB    PRIMARY KEY,
    key         BLOB    NOT NULL,
    product     TEXT    NOT NULL,
    board       TEXT    NOT NULL,
    enrolled    INTEGER NOT NULL,
    revoked     INTEGER NOT NULL DEFAULT 0,
    -- When it was last heard of; written once a minute, and at the end.
    seen        INTEGER,
    -- {"site":"berlin"}
    tags        TEXT    NOT NULL DEFAULT '{}',
    -- What it should run: `fleet::Desired`.
    desired     TEXT,
    -- What it ran well before that, as it was reported: where a fall-back goes.
    previous    BLOB,
    -- Revisions that were assigned to it, the newest last: their objects are served to it. JSON list of digits.
    assigned    TEXT    NOT NULL DEFAULT '[]',
    -- Counter and values of its parameters. Secrets among them: never told or logged.
    parameters  INTEGER NOT NULL DEFAULT 0,
    parameter_values TEXT NOT NULL DEFAULT '{}',
    -- Counts its actions.
    action      INTEGER NOT NULL DEFAULT 0,
    -- Number of the last report, and the report without tails.
    report_seq  INTEGER NOT NULL DEFAULT 0,
    report      TEXT,
    -- The tails that came with the last failure.
    console     TEXT,
    container_log TEXT
) WITHOUT ROWID, STRICT;

-- What devices are to do once, until they have reported it.
CREATE TABLE actions (
    device BLOB    NOT NULL,
    id     INTEGER NOT NULL,
    what   TEXT    NOT NULL,
    PRIMARY KEY (device, id)
) WITHOUT ROWID, STRICT;

-- Values that were given under a counter. What was told to a device under one never changes.
CREATE TABLE parameters (
    device  BLOB    NOT NULL,
    counter INTEGER NOT NULL,
    "values" TEXT   NOT NULL,
    PRIMARY KEY (device, counter)
) WITHOUT ROWID, STRICT;

CREATE TABLE join_tokens (
    id      TEXT    PRIMARY KEY,
    -- SHA-256: the secret is 128 random bits.
    secret  BLOB    NOT NULL,
    product TEXT,
    uses    INTEGER NOT NULL,
    until   INTEGER NOT NULL,
    tags    TEXT    NOT NULL
) WITHOUT ROWID, STRICT;

CREATE TABLE tokens (
    id     TEXT    PRIMARY KEY,
    name   TEXT    NOT NULL,
    -- argon2id, as `tokens` writes it.
    secret TEXT    NOT NULL,
    made   INTEGER NOT NULL,
    until  INTEGER
) WITHOUT ROWID, STRICT;

CREATE TABLE events (
    seq    INTEGER PRIMARY KEY AUTOINCREMENT,
    time   INTEGER NOT NULL,
    device BLOB,
    what   TEXT    NOT NULL,
    text   TEXT    NOT NULL
) STRICT;
CREATE INDEX events_of_device ON events (device, seq);
