package sqlstore

import (
	"context"
	"database/sql"
	"encoding/hex"
	"slices"

	"github.com/holdfast-session/holdfast/store"
)

// How many sessions List returns if it may choose, and at most.
const (
	defaultPage = 1000
	largestPage = 10_000
)

// List implements [store.Lister]. Each page is one query by an index. A page of no given
// length has up to 1,000 sessions.
func (s *Store) List(ctx context.Context, q store.Query) (page []store.Listed, next string, err error) {
	after, upTo := bounds(q.App)
	if q.After != "" {
		at, err := hex.DecodeString(q.After)
		if err != nil || len(at) != len(after) {
			return nil, "", badCursor(q)
		}
		after = key(at)
	}
	limit := q.Limit
	if limit <= 0 {
		limit = defaultPage
	}
	limit = min(limit, largestPage)
	a := &args{pAfter: after[:], pUpTo: upTo[:], pLimit: int64(limit)}
	st := s.st.list
	if q.Subject != "" {
		st = s.st.listSubject
		a[pSubjectHash] = hashOf("subject", q.Subject)
	}
	type found struct {
		store.Listed
		id []byte
	}
	all, err := collect(ctx, s, st, false, func(rows *sql.Rows) (f found, err error) {
		r := new(row)
		var app, session []byte
		if err := rows.Scan(append([]any{&f.id, &app, &session}, r.meta()...)...); err != nil {
			return f, err
		}
		f.ID = store.ID{App: string(app), Session: string(session)}
		r.fill(&f.Record)
		return f, nil
	}, a)
	if err != nil {
		return nil, "", err
	}
	if len(all) == limit {
		next = hex.EncodeToString(all[limit-1].id)
	}
	// Hashes find them, names decide.
	all = slices.DeleteFunc(all, func(f found) bool {
		return q.App != "" && f.ID.App != q.App || q.Subject != "" && f.Record.Subject != q.Subject
	})
	for _, f := range all {
		page = append(page, f.Listed)
	}
	return page, next, nil
}
