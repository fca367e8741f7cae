package sqlstore

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// Ended implements [store.Ender]. The ends of an application are remembered from the
// first call of Ended for it on, for ever (or all along, see [Options].Ends): a Manager
// with OnEnd calls it once before its first session. With the limit 0 it claims nothing
// and does just that.
//
// An end stays in the row of its session, with the content, so that to end a session is
// one statement that copies nothing. Ends come oldest first, those that were claimed
// before by the time at which their lease ran out. Sessions that have expired are ended
// by this call, a hundred at a time.
func (s *Store) Ended(ctx context.Context, app string, limit int, lease time.Duration) ([]store.End, error) {
	if s.o.Ends < 0 {
		return nil, nil
	}
	hash := hashOf("app", app)
	if err := s.askForEnds(ctx, hash); err != nil || limit <= 0 {
		return nil, err
	}
	if _, err := s.exec(ctx, s.st.expireFirst, s.endArgs()); err != nil {
		return nil, err
	}
	if err := s.trimEnds(ctx); err != nil {
		return nil, err
	}
	a := &args{pAppHash: hash, pLimit: int64(min(limit, sweepBatch)), pLease: lease.Microseconds(), pOwner: int64(store.NewOwner())}
	scan := func(rows *sql.Rows) (claimed, error) { return s.scanEnd(rows) }
	var ends []claimed
	var err error
	if s.d.returns() {
		ends, err = collect(ctx, s, s.st.claim, true, scan, a)
	} else if _, err = s.exec(ctx, s.st.claim, a); err == nil {
		ends, err = collect(ctx, s, s.st.claimed, false, scan, a)
	}
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(ends, func(a, b claimed) int { return cmp.Compare(b.Reason.Age, a.Reason.Age) })
	var all []store.End
	for _, e := range ends {
		if e.ID.App == app { // else of an application that shares its hash, whose it is after the lease
			all = append(all, e.End)
		}
	}
	return all, nil
}

type claimed struct{ store.End }

// scanEnd reads a row of endColumns. An end whose content cannot be read comes without it.
func (s *Store) scanEnd(rows *sql.Rows) (e claimed, err error) {
	r := new(row)
	var id, app, session []byte
	if err := rows.Scan(append([]any{&id, &app, &session}, r.all()...)...); err != nil {
		return e, err
	}
	e.ID = store.ID{App: string(app), Session: string(session)}
	e.Reason = r.ended()
	e.Key = hex.EncodeToString(id) + "." + strconv.FormatUint(uint64(r.version), 36)
	r.owner = 0 // it is the claim's
	k, _ := keyOf(e.ID)
	if err := s.fillAll(k, r, &e.Record); err != nil {
		r.fill(&e.Record)
	}
	return e, nil
}

// askForEnds makes the store remember the ends of an application.
func (s *Store) askForEnds(ctx context.Context, app int64) error {
	s.mu.Lock()
	asked := s.asked[app]
	s.mu.Unlock()
	if asked {
		return nil
	}
	if _, err := s.exec(ctx, s.st.wantEnds, &args{pAppHash: app}); err != nil {
		if v, said := judge(s.d, err); !said || v != duplicate {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked[app] = true
	return nil
}

// Ack implements [store.Ender].
func (s *Store) Ack(ctx context.Context, app string, keys []string) error {
	hash := hashOf("app", app)
	for _, key := range keys {
		id, version, ok := parseEndKey(key)
		if !ok {
			continue
		}
		a := &args{pID: id, pAppHash: hash, pVersion: version}
		n, err := s.exec(ctx, s.st.ack, a)
		if err == nil && n == 0 { // perhaps a new session has its place
			_, err = s.exec(ctx, s.st.ackRenamed, a)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func parseEndKey(text string) (id []byte, version int64, ok bool) {
	first, second, _ := strings.Cut(text, ".")
	id, err := hex.DecodeString(first)
	v, err2 := strconv.ParseUint(second, 36, 64)
	return id, int64(v), err == nil && err2 == nil && len(id) == len(key{})
}

// trimEvery is how often ends past Options.Ends are dropped.
const trimEvery = time.Minute

// trimEnds drops the oldest ends past Options.Ends, unless that was done a while ago.
func (s *Store) trimEnds(ctx context.Context) error {
	s.mu.Lock()
	due := time.Since(s.trimmed) > trimEvery
	if due {
		s.trimmed = time.Now()
	}
	s.mu.Unlock()
	if !due {
		return nil
	}
	most := s.o.Ends
	if most <= 0 {
		most = defaultEnds
	}
	oldest, err := collect(ctx, s, s.st.tooMany, false, scanInt, &args{pLimit: int64(most)})
	if err != nil || len(oldest) == 0 {
		return err
	}
	return s.batches(ctx, s.st.forgetEnds, &args{pUpTo: oldest[0]})
}

// batches runs a statement that changes sweepBatch rows until it changes fewer.
func (s *Store) batches(ctx context.Context, st *statement, a *args) error {
	for {
		n, err := s.exec(ctx, st, a)
		if err != nil || n < sweepBatch {
			return err
		}
	}
}

func badCursor(q store.Query) error {
	return fmt.Errorf("sqlstore: Query.After is %q, which is not from a List of the same sessions", q.After)
}
