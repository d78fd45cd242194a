-- What a device's containers used when it last told, and when that came.
ALTER TABLE devices ADD COLUMN usage TEXT;
ALTER TABLE devices ADD COLUMN usage_time INTEGER;
