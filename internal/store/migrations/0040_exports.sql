-- Exports of jobs. Each has a storage account of its own, which is no ARM resource and whose key nobody is told: it goes when the export expires.
CREATE TABLE exports (
    operation TEXT PRIMARY KEY,
    vault     TEXT NOT NULL,
    account   TEXT NOT NULL UNIQUE,
    key       TEXT NOT NULL,
    expires   BIGINT NOT NULL
);
CREATE INDEX exports_by_vault ON exports (vault);
CREATE INDEX exports_by_expiry ON exports (expires);
