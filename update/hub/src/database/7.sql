-- The last numbers that devices which were removed had been given. A device remembers them, and passes over what is not above
-- them: if it comes again, it is given those behind.
CREATE TABLE numbers (
    device     BLOB    PRIMARY KEY,
    action     INTEGER NOT NULL,
    parameters INTEGER NOT NULL,
    retry      INTEGER NOT NULL,
    -- When it was removed.
    time       INTEGER NOT NULL
) WITHOUT ROWID, STRICT;
CREATE INDEX numbers_by_time ON numbers (time);
