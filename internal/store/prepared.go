package store

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"sync"
)

// mostPrepared bounds how many statements are kept: those that are put together at run time could be any number.
const mostPrepared = 400

// prepared are a pool's statements, compiled once instead of at each use, which for a small statement takes as long as running it. A nil one keeps
// none.
type prepared struct {
	pool *sql.DB

	mu         sync.Mutex
	statements map[string]*sql.Stmt
}

func newPrepared(pool *sql.DB) *prepared {
	return &prepared{pool: pool, statements: map[string]*sql.Stmt{}}
}

// statement is what a transaction runs a query with: the statement that is kept, or the query itself, which is then noted for keep.
func (tx *Tx) statement(query string) *sql.Stmt {
	tx.statements++
	p := tx.prepared
	if p == nil {
		return nil
	}
	p.mu.Lock()
	kept := p.statements[query]
	room := len(p.statements)+len(tx.fresh) < mostPrepared
	p.mu.Unlock()
	if kept != nil {
		return tx.tx.StmtContext(tx.ctx, kept)
	}
	if room && !strings.Contains(query, ";") { // a migration has several, and runs once
		tx.fresh = append(tx.fresh, query)
	}
	return nil
}

// keep compiles the queries that a transaction has run, for the next ones. It is called when the transaction is over, since the pool may have one
// connection only. A query that cannot be compiled now is run as it is the next time.
func (p *prepared) keep(ctx context.Context, queries []string) {
	for _, query := range queries {
		p.mu.Lock()
		known := p.statements[query] != nil
		p.mu.Unlock()
		if known {
			continue
		}
		statement, err := p.pool.PrepareContext(ctx, query)
		if err != nil {
			return
		}
		p.mu.Lock()
		if p.statements[query] == nil {
			p.statements[query], statement = statement, nil
		}
		p.mu.Unlock()
		if statement != nil {
			_ = statement.Close() // another transaction was faster
		}
	}
}

func (p *prepared) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for _, s := range p.statements {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}
