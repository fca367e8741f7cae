package redisstore

import (
	"context"
	"encoding/hex"
	"errors"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valkey-io/valkey-go"

	"github.com/holdfast-session/holdfast/store"
)

const (
	// sweepInterval is how often the sessions of an application are looked at that are
	// due, and claimInterval how often all its ends, by one process of all that have the
	// application, or want its ends.
	sweepInterval = 5 * time.Second
	claimInterval = 2 * time.Second
	// sweepBatch is how many sessions of one bucket are looked at together.
	sweepBatch = 128
	// visitBatch is how many sessions of all buckets are.
	visitBatch = 256
	// dueBuckets is how many buckets are looked into together.
	dueBuckets = 256
	// pruneEvery is how many sweeps of this process there are between two prunings.
	pruneEvery = 1000
)

// applications are those that this process has met.
type applications struct {
	mu       sync.RWMutex
	known    map[string]*application
	sweeping bool
}

func (x *applications) init() { x.known = make(map[string]*application) }

// maxApps is how many applications are remembered: if there are more, somebody makes
// them up.
const maxApps = 1024

// An application is what a process knows of one.
type application struct {
	name string
	keys appKeys

	keepsAlways, keepsNever bool
	wanted                  atomic.Bool // its ends, as far as is known
	announced               atomic.Bool // it is in the list of applications
	sweeps                  int         // by sweepAll alone

	// hints are the buckets that have something for Ended, a bit for each.
	hints [maxBuckets / 64]atomic.Uint64
}

func (x *applications) get(s *Store, name string) *application {
	x.mu.RLock()
	a := x.known[name]
	x.mu.RUnlock()
	if a != nil {
		return a
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if a = x.known[name]; a != nil {
		return a
	}
	name = strings.Clone(name)
	a = &application{name: name, keys: s.keys.of(name), keepsAlways: s.o.Ends > 0, keepsNever: s.o.Ends < 0}
	a.wanted.Store(true) // rather too many are remembered than too few, until it is known
	if len(x.known) < maxApps {
		x.known[name] = a
		if !x.sweeping {
			x.sweeping = true
			s.background.run(s.sweepAll)
		}
	}
	return a
}

func (x *applications) all() []*application {
	x.mu.RLock()
	defer x.mu.RUnlock()
	all := make([]*application, 0, len(x.known))
	for _, a := range x.known {
		all = append(all, a)
	}
	return all
}

// keeps reports whether ends of the application are remembered.
func (a *application) keeps() bool {
	return a.keepsAlways || !a.keepsNever && a.wanted.Load()
}

func (a *application) hint(bucket int) { a.hints[bucket/64].Or(1 << (bucket % 64)) }

// takeHints returns the buckets that have something for Ended, and forgets them.
func (a *application) takeHints() (hinted []int) {
	for i := range a.hints {
		for word := a.hints[i].Swap(0); word != 0; word &= word - 1 {
			hinted = append(hinted, 64*i+bits.TrailingZeros64(word))
		}
	}
	return hinted
}

// endsOfBucket is how many ends one bucket remembers.
func (s *Store) endsOfBucket() int {
	n := s.o.Ends
	if n == 0 {
		n = DefaultEnds
	}
	return (n + s.keys.buckets - 1) / s.keys.buckets
}

// A duty says whether this process does what is to be done now and then, and the time
// of the server.
type duty struct {
	mine bool
	now  int64
}

// duty asks for what is to be done of an application once in that time. Whoever asks
// first when it is due has it; should that process die, the next one is another's.
func (s *Store) duty(ctx context.Context, a *application, wants bool, what string, every time.Duration) (duty, error) {
	v, err := s.one(ctx, &call{script: s.scripts.duty, key: a.keys.about(), args: []string{string(flag(wants)), what, itoa(micros(every))}})
	if err != nil {
		return duty{}, err
	}
	parts, err := v.AsIntSlice()
	if err != nil || len(parts) != 3 {
		return duty{}, errors.Join(errReply, err)
	}
	a.wanted.Store(parts[1] == 1)
	s.ahead.Store(parts[2] - s.shifted(time.Now().UnixMicro()))
	return duty{parts[0] == 1, parts[2]}, nil
}

// sweepAll sweeps, now and then, what is due of all applications: sessions expire whether
// anybody asks for them or not.
func (s *Store) sweepAll() {
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	failing := false
	for {
		for _, a := range s.apps.all() {
			err := s.sweepDue(a)
			switch {
			case s.ctx.Err() != nil:
				return
			case err != nil && !failing:
				s.o.Logger.Warn("redisstore: sessions that expired cannot be looked for", "app", a.name, "err", err)
			case err == nil && failing:
				s.o.Logger.Info("redisstore: sessions that expired are looked for again", "app", a.name)
			}
			failing = err != nil
		}
		select {
		case <-tick.C:
		case <-s.ctx.Done():
			return
		}
	}
}

func (s *Store) sweepDue(a *application) error {
	ctx, cancel := context.WithTimeout(s.ctx, time.Minute)
	defer cancel()
	d, err := s.duty(ctx, a, false, "swept", sweepInterval)
	if err != nil || !d.mine {
		return err
	}
	a.sweeps++
	if a.sweeps%pruneEvery == 1 {
		if err := s.prune(ctx, a, d.now); err != nil {
			return err
		}
	}
	for of := range slices.Chunk(s.allBuckets(), dueBuckets) {
		for more := true; more; {
			due, err := s.due(ctx, a, of, d.now, 0)
			if err != nil {
				return err
			}
			if _, err := s.visit(ctx, a, due.all, 0, 0); err != nil {
				return err
			}
			more = due.more
		}
	}
	return nil
}

// prune takes sessions out of the index whose ends nobody has claimed until they were
// gone.
func (s *Store) prune(ctx context.Context, a *application, now int64) error {
	var calls []call
	for _, bucket := range s.allBuckets() {
		calls = append(calls, call{command: "ZREMRANGEBYSCORE", key: a.keys.index(bucket),
			args: []string{"-inf", itoa(endsBase + now - 2*retention.Microseconds())}})
	}
	_, err := s.several(ctx, calls)
	return err
}

func (s *Store) allBuckets() []int {
	all := make([]int, s.keys.buckets)
	for i := range all {
		all[i] = i
	}
	return all
}

// candidates are sessions that are to be looked at.
type candidates struct {
	all  []candidate
	more bool // there are perhaps more in their buckets
}

type candidate struct {
	session string
	bucket  int
	score   float64
}

// due finds the sessions of some buckets that are to be looked at: those that should have
// expired and, of each bucket, up to so many with ends that can be claimed.
func (s *Store) due(ctx context.Context, a *application, of []int, now int64, ends int) (due candidates, err error) {
	var calls []call
	var from []int
	add := func(bucket int, low, high int64, limit int) {
		calls = append(calls, call{command: "ZRANGEBYSCORE", key: a.keys.index(bucket),
			args: []string{itoa(low), itoa(high), "WITHSCORES", "LIMIT", "0", itoa(int64(limit))}})
		from = append(from, bucket)
	}
	for _, bucket := range of {
		if ends > 0 {
			add(bucket, endsBase, endsBase+now, ends)
		}
		add(bucket, 0, now, sweepBatch)
	}
	answers, err := s.several(ctx, calls)
	if err != nil {
		return due, err
	}
	for i, v := range answers {
		found, err := v.AsZScores()
		if err != nil {
			return due, errors.Join(errReply, err)
		}
		due.more = due.more || len(found) == sweepBatch
		for _, f := range found {
			due.all = append(due.all, candidate{f.Member, from[i], f.Score})
		}
	}
	return due, nil
}

// visit looks at sessions: those that have expired end, up to so many ends are claimed
// for that long, and the index learns when to look again.
func (s *Store) visit(ctx context.Context, a *application, due []candidate, limit int, lease time.Duration) (ends []store.End, err error) {
	in := append(a.begin(9), flag(limit > 0)).u64(uint64(micros(lease)))
	next := make(map[int][]string) // what rescore is told, by bucket
	for len(due) > 0 && (limit <= 0 || len(ends) < limit) {
		n := min(len(due), visitBatch)
		if limit > 0 {
			n = min(n, limit-len(ends))
		}
		seen, failed := s.look(ctx, a, due[:n], string(in))
		if err = failed; err != nil {
			break
		}
		for i, sight := range seen {
			c := due[i]
			next[c.bucket] = append(next[c.bucket], c.session, score(c.score), sight.score())
			if sight.ready != 0 && sight.ready <= sight.now {
				a.hint(c.bucket) // it has another one
			}
			if sight.end == "" {
				continue
			}
			end := store.End{Key: hex.EncodeToString([]byte(sight.id)) + "." + c.session, ID: store.ID{App: a.name, Session: c.session}}
			if failed := parseEnd(sight.end, sight.now, &end); failed != nil {
				err = failed
				continue
			}
			ends = append(ends, end)
		}
		s.keepSubjects(ctx, a, due[:n], seen)
		due = due[n:]
	}
	for _, c := range due {
		a.hint(c.bucket)
	}
	rescores := make([]call, 0, len(next))
	for bucket, args := range next {
		rescores = append(rescores, call{script: s.scripts.rescore, key: a.keys.index(bucket), args: args})
	}
	if len(rescores) > 0 {
		if _, failed := s.several(ctx, rescores); err == nil {
			err = failed
		}
	}
	if len(ends) > 0 {
		err = nil // what was claimed is delivered; the rest is looked at again
	}
	return ends, err
}

// look visits some sessions.
func (s *Store) look(ctx context.Context, a *application, at []candidate, in string) ([]sight, error) {
	calls := make([]call, len(at))
	for i, c := range at {
		calls[i] = call{script: s.scripts.visit, key: a.keys.session(c.session), args: []string{in}}
	}
	answers, err := s.several(ctx, calls)
	if err != nil {
		return nil, err
	}
	seen := make([]sight, len(at))
	for i, v := range answers {
		if seen[i], err = parseSight(v); err != nil {
			return nil, err
		}
	}
	return seen, nil
}

// keepSubjects brings the sets of subjects into line with what was seen of sessions.
// What it does not come to, the next sweep or list will.
func (s *Store) keepSubjects(ctx context.Context, a *application, at []candidate, seen []sight) {
	var calls []call
	gone := make(map[string][]string)
	for i, sight := range seen {
		switch {
		case sight.subject == "":
		case sight.deadline != 0:
			calls = append(calls, s.registering(a, at[i].session, sight.subject, duration(2*(sight.deadline-sight.now)), false))
		default:
			gone[sight.subject] = append(gone[sight.subject], at[i].session)
		}
	}
	for subject, sessions := range gone {
		calls = append(calls, s.unregistering(a, subject, sessions))
	}
	if len(calls) > 0 {
		_, _ = s.several(ctx, calls)
	}
}

// A sight is what a visit has seen.
type sight struct {
	deadline, ready int64 // when to look again: as it expires, as an end can be claimed; 0 for never
	subject         string
	id, end         string // the end that was claimed
	now             int64
}

func parseSight(v valkey.ValkeyMessage) (sight, error) {
	parts, err := v.ToArray()
	if err != nil || len(parts) != 6 {
		return sight{}, errors.Join(errReply, err)
	}
	a := answer{parts: parts}
	return sight{a.int(0), a.int(1), a.text(2), a.text(3), a.text(4), a.int(5)}, nil
}

// score is when to look again, as the index has it; empty for never.
func (s sight) score() string {
	switch {
	case s.ready != 0:
		return itoa(endsBase + s.ready)
	case s.deadline != 0:
		return itoa(s.deadline)
	}
	return ""
}

func score(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }
func itoa(n int64) string    { return strconv.FormatInt(n, 10) }

// Ended implements [store.Ender]; see [Options].Ends for which ends there are. It looks
// where this process has ended sessions, and once in two seconds, for all processes
// together, everywhere else.
func (s *Store) Ended(ctx context.Context, app string, limit int, lease time.Duration) ([]store.End, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if s.o.Ends < 0 {
		return nil, nil
	}
	ctx, cancel := s.limited(ctx)
	defer cancel()
	a := s.apps.get(s, app)
	d, err := s.duty(ctx, a, true, "claimed", claimInterval)
	if err != nil || limit <= 0 {
		return nil, err
	}
	of := a.takeHints()
	if d.mine {
		of = s.allBuckets()
	}
	var ends []store.End
	for ; len(of) > 0 && len(ends) < limit && err == nil; of = of[min(len(of), dueBuckets):] {
		var more []store.End
		more, err = s.claim(ctx, a, of[:min(len(of), dueBuckets)], d.now, limit-len(ends), lease)
		ends = append(ends, more...)
	}
	for _, bucket := range of {
		a.hint(bucket)
	}
	if len(ends) > 0 {
		err = nil
	}
	return ends, err
}

// claim claims ends of some buckets. Where it has not come to, it leaves hints.
func (s *Store) claim(ctx context.Context, a *application, of []int, now int64, limit int, lease time.Duration) ([]store.End, error) {
	due, err := s.due(ctx, a, of, now, limit)
	if err != nil || due.more {
		for _, bucket := range of {
			a.hint(bucket)
		}
	}
	if err != nil {
		return nil, err
	}
	return s.visit(ctx, a, due.all, limit, lease)
}

// Ack implements [store.Ender].
func (s *Store) Ack(ctx context.Context, app string, keys []string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	a := s.apps.get(s, app)
	var scores, acks []call
	var ends []candidate
	for _, key := range keys {
		name, session, ok := strings.Cut(key, ".")
		id, err := hex.DecodeString(name)
		if !ok || err != nil || len(id) == 0 {
			continue
		}
		end := candidate{session: session, bucket: s.keys.bucketOf(session)}
		ends = append(ends, end)
		scores = append(scores, call{command: "ZSCORE", key: a.keys.index(end.bucket), args: []string{session}})
		acks = append(acks, call{script: s.scripts.ack, key: a.keys.session(session), args: []string{string(a.begin(0)), string(id)}})
	}
	return s.acknowledge(ctx, a, ends, scores, acks)
}

// acknowledge makes the calls acks about ends, and tells the index unless it has changed
// since the calls scores.
func (s *Store) acknowledge(ctx context.Context, a *application, ends []candidate, scores, acks []call) error {
	if len(ends) == 0 {
		return nil
	}
	before, err := s.several(ctx, scores)
	if err != nil {
		return err
	}
	answers, err := s.several(ctx, acks)
	if err != nil {
		return err
	}
	var rescores []call
	for i, v := range answers {
		old, err := before[i].AsFloat64()
		if err != nil {
			continue // it is in no index
		}
		parts, err := v.AsIntSlice()
		if err != nil || len(parts) != 2 {
			return errors.Join(errReply, err)
		}
		seen := sight{deadline: parts[0], ready: parts[1]}
		rescores = append(rescores, call{script: s.scripts.rescore, key: scores[i].key, args: []string{ends[i].session, score(old), seen.score()}})
	}
	if len(rescores) > 0 {
		_, err = s.several(ctx, rescores)
	}
	return err
}

// dropOldest forgets the ends of a bucket that are too many.
func (s *Store) dropOldest(a *application, bucket int, indexed valkey.ValkeyMessage) {
	if !indexed.IsArray() {
		return
	}
	sessions, err := indexed.AsStrSlice()
	if err != nil || len(sessions) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.o.Timeout)
	defer cancel()
	var scores, acks []call
	var ends []candidate
	for _, session := range sessions {
		ends = append(ends, candidate{session: session, bucket: bucket})
		scores = append(scores, call{command: "ZSCORE", key: a.keys.index(bucket), args: []string{session}})
		acks = append(acks, call{script: s.scripts.ack, key: a.keys.session(session), args: []string{string(a.begin(0)), ""}})
	}
	_ = s.acknowledge(ctx, a, ends, scores, acks) // else the next that ends
}
