// Package plan decides what a restore does: for every object of a recovery point whether it is created, skipped or blocked and why, in
// which wave, with which contents, and where the data of every volume comes from. It is pure: no I/O, no clock, no goroutine; who has
// the objects and the cluster (internal/extension/apply, the validation of a restore) asks it, one object at a time, so that memory
// does not grow with the recovery point.
//
// It works in two passes over the bundle. The first one calls [Facts.Learn] with the few kinds that other objects' fate hangs on (see
// [Facts.Wanted]); the second one calls [Plan.Decide] with every object. What exists in the target is not decided here but by the
// API server's answer when the object is created: anything else would be a race.
//
// Which volumes a backup takes is decided here too ([Claim], [PodVolumeOf]), since who backs up and who tells what is protected must agree.
package plan
