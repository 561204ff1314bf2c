package bundle

// For the fuzz tests, which would reach these parsers only through encryption.
var (
	SplitLines    = splitLines
	UnpackedLines = unpackedLines
)
