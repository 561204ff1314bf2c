package cli

import "context"

var adCommands = []Command{
	{Path: "ad signed-in-user show", Help: "Show who calls: the object ID is what roles are assigned to.", Verbatim: true,
		Run: func(ctx context.Context, in *Input) (any, error) { return in.get(ctx, "/v1.0/me", "") }},
}
