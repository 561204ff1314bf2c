-- Each vault's secret, hexadecimal: what its recovery points are encrypted with is derived from it.
CREATE TABLE vault_keys (
    vault  TEXT PRIMARY KEY,
    secret TEXT NOT NULL
);

-- What clients of Microsoft.DataProtection poll. job is a full ARM ID or empty, error an arm.Error's JSON or empty.
CREATE TABLE operations (
    id       TEXT PRIMARY KEY,
    kind     TEXT NOT NULL,
    resource TEXT NOT NULL,
    status   TEXT NOT NULL,
    job      TEXT NOT NULL,
    error    TEXT NOT NULL,
    started  BIGINT NOT NULL,
    ended    BIGINT NOT NULL
);
CREATE INDEX operations_by_end ON operations (ended);

-- What users watch. vault and instance are keys, body is a backup.Job.
CREATE TABLE jobs (
    name     TEXT PRIMARY KEY,
    vault    TEXT NOT NULL,
    instance TEXT NOT NULL,
    status   TEXT NOT NULL,
    started  BIGINT NOT NULL,
    ended    BIGINT NOT NULL,
    body     TEXT NOT NULL
);
CREATE INDEX jobs_by_vault ON jobs (vault, started);

-- What clusters are asked to do. ended is when the cluster said that it is over, given_up when the service stopped
-- waiting; progressed is when the cluster's status last changed. operation and job are what waits for it, or empty.
CREATE TABLE requests (
    name       TEXT PRIMARY KEY,
    kind       TEXT NOT NULL,
    cluster    TEXT NOT NULL,
    vault      TEXT NOT NULL,
    instance   TEXT NOT NULL,
    point      TEXT NOT NULL,
    operation  TEXT NOT NULL,
    job        TEXT NOT NULL,
    spec       TEXT NOT NULL,
    status     TEXT NOT NULL,
    created    BIGINT NOT NULL,
    progressed BIGINT NOT NULL,
    given_up   BIGINT NOT NULL,
    ended      BIGINT NOT NULL
);
CREATE INDEX requests_by_cluster ON requests (cluster, ended);
CREATE INDEX requests_by_operation ON requests (operation);
-- One backup or restore of an instance at a time.
CREATE UNIQUE INDEX requests_running ON requests (instance)
    WHERE ended = 0 AND given_up = 0 AND kind IN ('Backup', 'Restore');

-- What can be restored. guid is the instance's own, which no later instance of the same name has; snapshots is the ledger
-- of storage snapshots (a list of v1alpha1.VolumeSnapshotRecord), body a backup.RecoveryPoint.
CREATE TABLE recovery_points (
    name      TEXT PRIMARY KEY,
    vault     TEXT NOT NULL,
    instance  TEXT NOT NULL,
    guid      TEXT NOT NULL,
    cluster   TEXT NOT NULL,
    job       TEXT NOT NULL,
    point     BIGINT NOT NULL,
    container TEXT NOT NULL,
    prefix    TEXT NOT NULL,
    snapshots TEXT NOT NULL,
    body      TEXT NOT NULL
);
CREATE INDEX recovery_points_by_instance ON recovery_points (guid, point);
