-- How many slots passed before the one that is next, while the service was away: told with what becomes of it.
ALTER TABLE schedules ADD COLUMN missed INTEGER NOT NULL DEFAULT 0;
