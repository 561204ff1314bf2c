-- What is known of a cluster through its connector. seen is when it called last; extension is the JSON of the last
-- link.ExtensionState, or empty when the extension is not installed.
CREATE TABLE links (
    cluster    TEXT PRIMARY KEY,
    seen       BIGINT NOT NULL,
    connector  TEXT NOT NULL,
    kubernetes TEXT NOT NULL,
    nodes      INTEGER NOT NULL,
    extension  TEXT NOT NULL
);
