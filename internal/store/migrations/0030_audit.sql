-- Calls that change something, and calls that were refused, kept for 90 days: never what they carried. ended is 0, and status too, of a call that is under
-- way, or was when the service was killed. resource is as it was written, resource_key and resource_group are in lower case; caller is an object ID.
CREATE TABLE audit (
    name           TEXT PRIMARY KEY,
    began          BIGINT NOT NULL,
    ended          BIGINT NOT NULL,
    correlation    TEXT NOT NULL,
    request        TEXT NOT NULL,
    caller         TEXT NOT NULL,
    caller_name    TEXT NOT NULL,
    caller_kind    TEXT NOT NULL,
    client         TEXT NOT NULL,
    address        TEXT NOT NULL,
    method         TEXT NOT NULL,
    operation      TEXT NOT NULL,
    resource       TEXT NOT NULL,
    resource_key   TEXT NOT NULL,
    resource_group TEXT NOT NULL,
    status         INTEGER NOT NULL,
    code           TEXT NOT NULL
);
CREATE INDEX audit_by_time ON audit (began, name);
CREATE INDEX audit_by_correlation ON audit (correlation);
