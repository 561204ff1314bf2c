package cli

import "context"

var cancelCommands = []Command{
	{Path: "dataprotection job cancel", Help: "Cancel a job: a backup is undone, a restore stops and leaves what it has created.", ID: jobPath, Run: jobCancel,
		Args:     []Arg{jobArg, vaultArg, groupArg},
		Examples: []string{"dataprotection job cancel --job-id GUID --vault-name v -g rg"}},
}

// jobCancel is ours: Azure's jobs cannot be cancelled.
func jobCancel(ctx context.Context, in *Input) (any, error) {
	id, err := in.jobID(ctx)
	if err != nil {
		return nil, err
	}
	return in.post(ctx, "Cancelling "+lastSegment(id), id+"/cancel", backupVersion, nil)
}
