package store

// Waiting is how many Updates wait for their turn.
func (db *DB) Waiting() int {
	db.turns.mu.Lock()
	defer db.turns.mu.Unlock()
	return len(db.turns.first) + len(db.turns.rest)
}
