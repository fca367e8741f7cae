package logstore

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// A witness keeps its own record of what a store was asked and what it
// acknowledged, and holds the store to it after a crash. It is safe for concurrent
// use; the calls about one session must come one after the other.
type witness struct {
	mu       sync.Mutex
	sessions map[store.ID]*testimony
	acked    map[store.Version]answer // of ends, by the version that the session ended with
	watching bool                     // the ends of app "watched" are asked for

	// forgetful: the store need not know why a session is not there.
	forgetful bool
}

// watched is the application whose ends somebody wants.
const watched = "watched"

// A testimony is what is known of one session: its states in the order in which
// they were asked for. A call under way, or whose outcome is unknown, is the last.
type testimony struct {
	states []state
	active time.Time     // before the last call that restarted the timeout
	held   *store.Record // as Lock or a Save with hold left it; nil if not locked
	stale  bool          // there was a crash since, which drops locks
	maybe  bool          // the lock may be ours, by a call of which nobody knows how it ended
}

// A state is what a session was at one time.
type state struct {
	rec    *store.Record // nil: it was absent
	why    store.Kind    // why it was
	at     time.Time     // when that was acknowledged; zero if it was not
	doubt  bool          // it was found like this, but that may have been an earlier time
	before time.Time     // when it was asked for
}

func (s state) String() string {
	text := "absent (" + s.why.String() + ")"
	if s.rec != nil {
		text = fmt.Sprintf("version %x", uint64(s.rec.Version))
	}
	if s.at.IsZero() {
		return text + " (not acknowledged)"
	}
	return text + " at " + s.at.Format(clock)
}

// clock is how messages tell the time.
const clock = "04:05.000"

// An answer is what is known of an acknowledged end.
type answer uint8

const (
	perhaps answer = iota + 1
	certainly
)

func newWitness() *witness {
	return &witness{sessions: map[store.ID]*testimony{}, acked: map[store.Version]answer{}}
}

// clone returns what the witness knows at this moment.
func (w *witness) clone() *witness {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := &witness{sessions: map[store.ID]*testimony{}, acked: maps.Clone(w.acked), watching: w.watching, forgetful: w.forgetful}
	for id, t := range w.sessions {
		copied := *t
		copied.states = slices.Clone(t.states)
		c.sessions[id] = &copied
	}
	return c
}

// about returns what is known of a session. The caller has mu.
func (w *witness) about(id store.ID) *testimony {
	t := w.sessions[id]
	if t == nil {
		t = &testimony{states: []state{{at: time.Unix(0, 0)}}}
		w.sessions[id] = t
	}
	return t
}

// now returns the last state, and the lock held with whether it may have been
// dropped.
func (w *witness) now(id store.ID) (last state, held *store.Record, stale bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.about(id)
	return t.states[len(t.states)-1], t.held, t.stale
}

// crashed notes that locks are gone, and that a timeout which was only restarted, with
// nothing saved, may not have been unless that was before a time: this alone is written
// when there is an occasion, an interval later at most.
func (w *witness) crashed(before time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range w.sessions {
		t.stale = true
		if !t.active.Before(before) {
			t.active = time.Time{}
		}
	}
}

// asks notes a call that will leave the session in another state.
func (w *witness) asks(id store.ID, next state) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.about(id)
	next.before = time.Now()
	t.states = append(t.states, next)
}

// answered notes the outcome of the call noted by asks.
func (w *witness) answered(id store.ID, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.about(id)
	last := &t.states[len(t.states)-1]
	switch {
	case err == nil:
		last.at = time.Now()
		t.active = last.before
	case unsure(err):
		t.held, t.maybe = nil, true
	default:
		t.states = t.states[:len(t.states)-1]
	}
}

// restarted notes that the timeout was, by a call that began at that time.
func (w *witness) restarted(id store.ID, began time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.about(id).active = began
}

// holds notes the lock that the caller has, or nil.
func (w *witness) holds(id store.ID, rec *store.Record) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.about(id)
	t.held, t.stale, t.maybe = rec, false, false
}

// mayHold notes that the lock may be ours, or reports whether it was noted.
func (w *witness) mayHold(id store.ID, note bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.about(id)
	t.maybe = t.maybe || note
	return t.maybe
}

// acknowledged is what every state that was acknowledged must outlast.
func acknowledged(s state) bool { return !s.at.IsZero() }

// observe takes what a Load, begun at that time, returned: it must be the state
// that the last state for which must is true left, or a later one. What was found
// is then acknowledged, and what is later never was.
func (w *witness) observe(id store.ID, rec *store.Record, err error, began time.Time, must func(state) bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.about(id)
	low := 0
	for i, s := range t.states {
		if must(s) {
			low = i
		}
	}
	var found []int
	for i := low; i < len(t.states); i++ {
		if t.states[i].is(rec, err, w.forgetful) {
			found = append(found, i)
		}
	}
	kind := store.ReasonOf(err).Kind
	if w.forgetful && kind == store.Unknown {
		kind = store.Expired
	}
	if errors.Is(err, store.ErrNotFound) && t.expired(low, kind) {
		t.states = append(t.states, state{why: store.Expired, doubt: true})
		found = append(found, len(t.states)-1)
	}
	if len(found) == 0 {
		got := fmt.Sprint(err)
		if err == nil {
			got = fmt.Sprintf("version %x", uint64(rec.Version))
		}
		return fmt.Errorf("session %s/%s is %s; want one of %v (before: %v; active %v ago)",
			id.App, id.Session, got, t.states[low:], latest(t.states[:low]), time.Since(t.active))
	}
	last := found[len(found)-1]
	t.states = t.states[:last+1]
	for i := found[0]; i <= last; i++ {
		t.states[i].doubt = t.states[i].doubt || found[0] < last
	}
	if found := &t.states[last]; found.at.IsZero() {
		found.at = time.Now()
		// An end that was not acknowledged may have come through without the state that
		// it was to end: this goes by what was there.
		found.doubt = found.doubt || found.rec == nil && last > low+1
	}
	if err == nil {
		t.active = began
		return differ(rec, t.states[last].rec)
	}
	return nil
}

// latest returns the last few states, for messages.
func latest(states []state) []state { return states[max(0, len(states)-8):] }

// is reports whether what a Load returned names the state.
func (s state) is(rec *store.Record, err error, forgetful bool) bool {
	if err == nil {
		return s.rec != nil && s.rec.Version == rec.Version
	}
	why := store.ReasonOf(err).Kind
	return s.rec == nil && errors.Is(err, store.ErrNotFound) && (why == s.why || forgetful && why == store.Unknown)
}

// expired reports whether the session, in a state from low on, may have ended by
// its timeout, and the store may say so by kind. The tombstone of a short session is
// not kept for ever.
func (t *testimony) expired(low int, kind store.Kind) bool {
	for i, s := range t.states[low:] {
		switch {
		case s.rec != nil && kind == store.Expired:
			began := s.before
			if low+i == len(t.states)-1 && t.active.After(began) {
				began = t.active
			}
			if !time.Now().Before(began.Add(s.rec.Timeout)) {
				return true
			}
		case s.rec == nil && low > 0 && kind == store.Unknown && !s.at.IsZero():
			return time.Since(s.at) >= t.states[low-1].rec.Timeout
		}
	}
	return false
}

// check loads every session and holds the store to what the witness knows.
func (w *witness) check(ctx context.Context, s store.Store, must func(state) bool) error {
	w.mu.Lock()
	ids := slices.SortedFunc(maps.Keys(w.sessions), compareIDs)
	w.mu.Unlock()
	var problems []error
	for _, id := range ids {
		var rec store.Record
		began := time.Now()
		err := s.Load(ctx, id, &rec)
		if err := w.observe(id, &rec, err, began, must); err != nil {
			problems = append(problems, err)
		}
		if len(problems) == 5 {
			break // the rest would say the same
		}
	}
	return errors.Join(problems...)
}

func compareIDs(a, b store.ID) int {
	return cmp.Or(strings.Compare(a.App, b.App), strings.Compare(a.Session, b.Session))
}

// checkList holds a list of all sessions to what check found.
func (w *witness) checkList(ctx context.Context, s store.Lister) error {
	listed := map[store.ID]*store.Record{}
	for q := (store.Query{Limit: 3}); ; {
		page, next, err := s.List(ctx, q)
		if err != nil {
			return fmt.Errorf("List: %w", err)
		}
		for _, l := range page {
			if listed[l.ID] != nil {
				return fmt.Errorf("List has %v twice", l.ID)
			}
			listed[l.ID] = &l.Record
		}
		if next == "" {
			break
		}
		q.After = next
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, t := range w.sessions {
		last := t.states[len(t.states)-1]
		rec := listed[id]
		delete(listed, id)
		switch {
		case rec == nil && last.rec != nil && time.Since(t.active) < last.rec.Timeout:
			return fmt.Errorf("List lacks %v, which is %v", id, last)
		case rec != nil && last.rec == nil:
			return fmt.Errorf("List has %v, which is %v", id, last)
		case rec != nil && (rec.Version != last.rec.Version || rec.Subject != last.rec.Subject):
			return fmt.Errorf("List has version %x of %v, which is %v", uint64(rec.Version), id, last)
		}
	}
	for id := range listed {
		return fmt.Errorf("List has %v, which nobody made", id)
	}
	return nil
}

// checkEnds holds the ends that the store delivers, once all earlier claims have
// run out, to the states that check found; it returns the keys by version.
func (w *witness) checkEnds(ctx context.Context, s store.Ender, lease time.Duration) (map[store.Version]string, error) {
	delivered, err := s.Ended(ctx, watched, 10_000, lease)
	if err != nil {
		return nil, fmt.Errorf("Ended: %w", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	keys := map[store.Version]string{}
	for _, e := range delivered {
		if keys[e.Record.Version] != "" {
			return nil, fmt.Errorf("the end of %v with version %x came twice", e.ID, uint64(e.Record.Version))
		}
		keys[e.Record.Version] = e.Key
		if w.acked[e.Record.Version] == certainly {
			return nil, fmt.Errorf("the end of %v with version %x came again after Ack", e.ID, uint64(e.Record.Version))
		}
		if err := w.about(e.ID).ended(e); err != nil {
			return nil, fmt.Errorf("the end of %v: %w", e.ID, err)
		}
	}
	for id, t := range w.sessions {
		for i, s := range t.states {
			if id.App != watched || i == 0 || s.rec != nil || t.states[i-1].rec == nil || s.doubt || s.at.IsZero() {
				continue
			}
			if v := t.states[i-1].rec.Version; keys[v] == "" && w.acked[v] == 0 {
				return nil, fmt.Errorf("the end of %v with version %x is lost: %v", id, uint64(v), latest(t.states))
			}
		}
	}
	return keys, nil
}

// ended holds one end to what is known of its session.
func (t *testimony) ended(e store.End) error {
	doubt := false
	for i := len(t.states) - 1; i >= 0; i-- {
		s := t.states[i]
		doubt = doubt || s.doubt
		if s.rec == nil || s.rec.Version != e.Record.Version {
			continue
		}
		if i+1 < len(t.states) && t.states[i+1].rec == nil {
			if why := t.states[i+1].why; why != e.Reason.Kind && !doubt {
				return fmt.Errorf("says %v, not %v", e.Reason.Kind, why)
			}
		} else if i+1 == len(t.states) && e.Reason.Kind == store.Expired && !time.Now().Before(t.active.Add(s.rec.Timeout)) {
			// Nobody has asked for the session since: this is how one hears of it.
			t.states = append(t.states, state{why: store.Expired, at: time.Now()})
		} else if !doubt {
			return fmt.Errorf("with version %x, which did not end: %v", uint64(e.Record.Version), latest(t.states))
		}
		return differ(&e.Record, s.rec)
	}
	return fmt.Errorf("with version %x, which it never had: %v", uint64(e.Record.Version), latest(t.states))
}

// makeRecord returns a record with content that its version determines wholly, so
// that a mix of two is seen. A short one lives for seconds.
func makeRecord(v store.Version, short bool) *store.Record {
	r := rand.New(rand.NewPCG(uint64(v), 1))
	size := r.IntN(600)
	switch r.IntN(12) {
	case 0:
		size = 0
	case 1:
		size = r.IntN(8000)
	}
	rec := &store.Record{
		Version: v,
		Timeout: time.Duration(20*60+r.IntN(600)) * time.Second,
		Created: time.Unix(1_700_000_000+r.Int64N(1e6), 0),
		Subject: []string{"", "anna", "berta", "clara"}[r.IntN(4)],
		Body:    make([]byte, size),
	}
	if short {
		rec.Timeout = time.Duration(1+r.IntN(3)) * time.Second
	}
	for i := range rec.Body {
		rec.Body[i] = byte(r.Uint32())
	}
	return rec
}

// follow returns the record that a Save over prev leaves.
func follow(prev *store.Record, next store.Version, short bool) *store.Record {
	rec := makeRecord(next, short)
	rec.Created = prev.Created
	rec.History = [3]store.Version{prev.Version, prev.History[0], prev.History[1]}
	return rec
}

// differ says in which fields that a crash keeps two records differ.
func differ(got, want *store.Record) error {
	var d []string
	add := func(differs bool, name string, got, want any) {
		if differs {
			d = append(d, fmt.Sprintf("%s is %v, want %v", name, got, want))
		}
	}
	add(got.Version != want.Version, "Version", got.Version, want.Version)
	add(got.History != want.History, "History", got.History, want.History)
	add(got.Timeout != want.Timeout, "Timeout", got.Timeout, want.Timeout)
	add(!got.Created.Equal(want.Created), "Created", got.Created, want.Created)
	add(got.Subject != want.Subject, "Subject", got.Subject, want.Subject)
	add(got.Flags != want.Flags, "Flags", got.Flags, want.Flags)
	add(!bytes.Equal(got.Body, want.Body), "Body", fmt.Sprintf("%d bytes", len(got.Body)), fmt.Sprintf("others, %d", len(want.Body)))
	if len(d) > 0 {
		return fmt.Errorf("version %x is a mix: %s", uint64(got.Version), strings.Join(d, "; "))
	}
	return nil
}

// acks notes that an end was acknowledged, or perhaps.
func (w *witness) acks(v store.Version, a answer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.acked[v] = a
}

func sortedVersions(keys map[store.Version]string) []store.Version {
	return slices.Sorted(maps.Keys(keys))
}
