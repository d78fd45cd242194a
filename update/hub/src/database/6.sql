-- What one device told last, without a look at what all others told: asked at each of its events, in the only writer.
CREATE INDEX events_told ON events (device, by_device, seq);
