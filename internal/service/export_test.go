package service

// Presence is for tests that play keepHouse.
type Presence = presence
