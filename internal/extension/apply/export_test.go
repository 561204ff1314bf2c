package apply

// Decisions of this package that are only reached with a cluster otherwise.
var (
	Ready       = ready
	Trouble     = trouble
	MergeOwners = mergeOwners

	SnapshotName = snapshotName
)
