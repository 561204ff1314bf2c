-- When a request was withdrawn: the cluster is told to stop, and says how it ended.
ALTER TABLE requests ADD COLUMN withdrawn BIGINT NOT NULL DEFAULT 0;
