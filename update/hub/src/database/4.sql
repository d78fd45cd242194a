-- Whether an event is a device's doing, and not a person's or the hub's own: each kind is dropped by itself.
ALTER TABLE events ADD COLUMN by_device INTEGER NOT NULL DEFAULT 0;
UPDATE events SET by_device = 1 WHERE what IN
    ('booted', 'committed', 'rolled-back', 'refused', 'repair', 'trying', 'noisy', 'online', 'offline', 'enrolled');
CREATE INDEX events_by ON events (by_device, seq);
