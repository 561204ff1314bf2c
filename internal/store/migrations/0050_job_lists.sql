-- What jobs are looked for by. operation is OnDemandBackup, ScheduledBackup or Restore; source is the key of the cluster. There were no schedules
-- before, so that every backup was on demand.
ALTER TABLE jobs ADD COLUMN operation TEXT NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN source TEXT NOT NULL DEFAULT '';
UPDATE jobs SET operation = CASE WHEN body LIKE '%"operationCategory":"Restore"%' THEN 'Restore' ELSE 'OnDemandBackup' END,
    source = coalesce((SELECT max(requests.cluster) FROM requests WHERE requests.job = jobs.name), '');
CREATE INDEX jobs_by_instance ON jobs (instance, operation, started);
CREATE INDEX jobs_by_end ON jobs (ended);
