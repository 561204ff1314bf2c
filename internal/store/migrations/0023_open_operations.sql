-- What is under way on a resource, which every report of a cluster asks for.
CREATE INDEX async_operations_open ON async_operations (lower(resource)) WHERE ended = 0;
