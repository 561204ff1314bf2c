-- When each instance is to be backed up next. guid is the instance's own, instance and cluster are keys. slot is the next one that nothing
-- was decided about, due when to look at it; both are 0 while there is no schedule. until is when waiting for the cluster or for another
-- job ends, 0 when nothing is waited for; code and message say what it is. last is the slot of the last scheduled backup that made a
-- recovery point, forgotten the latest one whose run was removed.
CREATE TABLE schedules (
    guid      TEXT PRIMARY KEY,
    instance  TEXT NOT NULL,
    cluster   TEXT NOT NULL,
    slot      BIGINT NOT NULL,
    due       BIGINT NOT NULL,
    until     BIGINT NOT NULL,
    code      TEXT NOT NULL,
    message   TEXT NOT NULL,
    last      BIGINT NOT NULL,
    forgotten BIGINT NOT NULL
);
CREATE INDEX schedules_by_due ON schedules (due) WHERE due > 0;
CREATE INDEX schedules_waiting_for_cluster ON schedules (cluster) WHERE until > 0;
CREATE INDEX schedules_waiting_for_job ON schedules (instance) WHERE until > 0;

-- What became of each slot. outcome is Started, Failed or Skipped; missed is how many slots before it passed while the service was away.
CREATE TABLE runs (
    guid    TEXT NOT NULL,
    slot    BIGINT NOT NULL,
    decided BIGINT NOT NULL,
    outcome TEXT NOT NULL,
    job     TEXT NOT NULL,
    code    TEXT NOT NULL,
    message TEXT NOT NULL,
    missed  INTEGER NOT NULL,
    PRIMARY KEY (guid, slot)
);
CREATE INDEX runs_by_slot ON runs (slot);

-- slot is 0 for a backup on demand. expires is 0 while it is not known; look is when to decide whether the recovery point goes, 0 for never.
ALTER TABLE recovery_points ADD COLUMN slot BIGINT NOT NULL DEFAULT 0;
ALTER TABLE recovery_points ADD COLUMN expires BIGINT NOT NULL DEFAULT 0;
ALTER TABLE recovery_points ADD COLUMN look BIGINT NOT NULL DEFAULT 0;
CREATE INDEX recovery_points_by_look ON recovery_points (look) WHERE look > 0;

-- What is left of recovery points that are to be deleted. blobs is 1 while there are any, snapshots a list of
-- v1alpha1.VolumeSnapshotRecord; request is the DeleteBackup under way, or empty; error is an arm.Error's JSON or empty; due is when to try
-- next, 0 while a request is under way.
CREATE TABLE deletions (
    point     TEXT PRIMARY KEY,
    vault     TEXT NOT NULL,
    instance  TEXT NOT NULL,
    guid      TEXT NOT NULL,
    cluster   TEXT NOT NULL,
    made      BIGINT NOT NULL,
    container TEXT NOT NULL,
    prefix    TEXT NOT NULL,
    snapshots TEXT NOT NULL,
    blobs     INTEGER NOT NULL,
    why       TEXT NOT NULL,
    since     BIGINT NOT NULL,
    request   TEXT NOT NULL,
    attempts  INTEGER NOT NULL,
    error     TEXT NOT NULL,
    due       BIGINT NOT NULL
);
CREATE INDEX deletions_by_due ON deletions (due) WHERE due > 0;
CREATE INDEX deletions_by_cluster ON deletions (cluster);
CREATE INDEX deletions_by_vault ON deletions (vault);

-- What ended long ago is found without reading what has not.
CREATE INDEX requests_by_end ON requests (ended) WHERE ended > 0;
CREATE INDEX requests_given_up ON requests (given_up) WHERE given_up > 0;
CREATE INDEX requests_open ON requests (instance) WHERE ended = 0;
