-- Who can call: service principals, managed identities, connectors. owner is the key of the resource that the principal
-- belongs to, or empty.
CREATE TABLE principals (
    id      TEXT PRIMARY KEY,
    client  TEXT NOT NULL UNIQUE,
    kind    TEXT NOT NULL,
    name    TEXT NOT NULL,
    owner   TEXT NOT NULL,
    created BIGINT NOT NULL
);
CREATE INDEX principals_by_owner ON principals (owner);

-- Their secrets: SHA-256 of random ones. expires is 0 for one that does not.
CREATE TABLE secrets (
    hash      TEXT PRIMARY KEY,
    principal TEXT NOT NULL REFERENCES principals (id) ON DELETE CASCADE,
    created   BIGINT NOT NULL,
    expires   BIGINT NOT NULL
);
CREATE INDEX secrets_by_principal ON secrets (principal);

-- Role assignments, beside their documents in resources, by whom they are for.
CREATE TABLE grants (
    key       TEXT PRIMARY KEY,
    principal TEXT NOT NULL,
    role      TEXT NOT NULL,
    scope     TEXT NOT NULL
);
CREATE INDEX grants_by_principal ON grants (principal);

-- Names and values of which there is one each: the tenant, the subscription.
CREATE TABLE settings (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

-- Long-running operations of the neighbours (storage, clusters, extensions). error is an arm.Error's JSON or empty.
CREATE TABLE async_operations (
    id       TEXT PRIMARY KEY,
    resource TEXT NOT NULL,
    status   TEXT NOT NULL,
    error    TEXT NOT NULL,
    started  BIGINT NOT NULL,
    ended    BIGINT NOT NULL
);
CREATE INDEX async_operations_by_resource ON async_operations (resource);
