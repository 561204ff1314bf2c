// Package apply carries out a restore: it asks package plan what to do with every object of a recovery point and does it, wave by wave,
// in parallel within a wave.
//
// It never overwrites. Objects are created; one that exists is left alone, unless its managedFields show that an earlier attempt of the
// same restore created it: then it counts as created, so that a restore can be killed at any point and started again. Everything that
// it makes beside the user's objects (the snapshot objects that claims are filled from) has a name that follows from the restore's UID,
// and a label; [Sweep] removes what a killed restore left.
//
// Objects are streamed: what is kept of each is its name, and that only for claims, workloads, and objects with owners. The package
// writes no status and no report: [Restore] counts, and hands out outcomes one by one.
package apply
