package connector

// What the tests look at directly: the decisions.
var (
	DeploymentState = deploymentState
	Values          = values
)
