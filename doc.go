// Package cairn is the map of the code.
//
// Cairn backs up stateful workloads on Kubernetes and restores them, speaking Azure Backup's API. README.md says what a user gets,
// docs/design.md how it works. A newcomer reads README.md, docs/design.md, api/v1alpha1, internal/backup, and then
// internal/armserver's routes. repo_test.go keeps the layers: an import goes down the table there, never up.
package cairn
