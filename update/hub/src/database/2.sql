-- Requests to be taken in that changed something: none is taken twice. The last ones of each device; they outlive it.
CREATE TABLE enrolments (
    device BLOB    NOT NULL,
    nonce  TEXT    NOT NULL,
    time   INTEGER NOT NULL,
    PRIMARY KEY (device, nonce)
) WITHOUT ROWID, STRICT;
