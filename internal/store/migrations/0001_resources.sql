-- Every ARM resource, as a document. key, type and parent are in lower case; id keeps its creator's case.
CREATE TABLE resources (
    key      TEXT PRIMARY KEY,
    id       TEXT NOT NULL,
    type     TEXT NOT NULL,
    parent   TEXT NOT NULL,
    etag     TEXT NOT NULL,
    body     TEXT NOT NULL,
    created  BIGINT NOT NULL,
    modified BIGINT NOT NULL
);
CREATE INDEX resources_by_parent ON resources (parent, type);
CREATE INDEX resources_by_type ON resources (type);
