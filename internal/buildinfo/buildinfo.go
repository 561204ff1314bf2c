// Package buildinfo says which version of Cairn a program is. It knows nothing else about the build.
package buildinfo

// Version is what `git describe` said when the program was built: a tag, a commit, or "dev" for a build without a stamp.
// The linker sets it: -X github.com/cairn-backup/cairn/internal/buildinfo.Version=0.1.0.
var Version = "dev"
