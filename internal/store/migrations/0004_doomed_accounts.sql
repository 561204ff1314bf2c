-- Storage accounts that were deleted and whose blobs are still to be removed.
CREATE TABLE doomed_accounts (
    name TEXT PRIMARY KEY
);
