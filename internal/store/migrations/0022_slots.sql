-- A cluster's slots are started together, so that it is told once of all.
DROP INDEX schedules_by_due;
CREATE INDEX schedules_by_due ON schedules (due, cluster, guid) WHERE due > 0;

-- What stands still is found without reading what goes on.
CREATE INDEX requests_idle ON requests (progressed) WHERE ended = 0 AND given_up = 0;
