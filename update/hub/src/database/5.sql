-- When this hub was made of a backup: numbers that it gives from then on are above all that the lost one may have given.
CREATE TABLE restored (
    time INTEGER NOT NULL
) STRICT;

-- One row, which a question after the hub's health writes.
CREATE TABLE health (
    id   INTEGER PRIMARY KEY CHECK (id = 1),
    time INTEGER NOT NULL
) STRICT;
