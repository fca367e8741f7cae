package holdfast

import (
	"fmt"
	"maps"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/holdfast-session/holdfast/items"
)

// A LiveKey is the name and the type of a value that cannot leave the process: a
// connection, a function, a lock. It is shared by all requests of a session, also
// those that run at the same time, and lives as long as the session does in this
// process. A failed request does not take back what it did to it, and what it holds is
// for the application to guard and, in [Options.OnEnd], to close.
//
// Where sessions of this process outlive it (inproc with a backing), live values do not:
// the session is read back without them, and [Session.Lost] says so.
//
// A Manager whose store is not in this process refuses to start while the program
// declares live keys ([Options.AllowLiveKeys]).
type LiveKey[T any] struct{ def *liveDefinition }

type liveDefinition struct{ name, place string }

// NewLiveKey declares the live value called name. Names follow the rules of
// [NewKey], and no Key has the same.
func NewLiveKey[T any](name string) LiveKey[T] {
	_, file, line, _ := runtime.Caller(1)
	def := &liveDefinition{name, fmt.Sprintf("%s:%d", file, line)}
	typ := reflect.TypeFor[T]()
	return LiveKey[T]{declare(name, "NewLiveKey", def.place, reflect.TypeFor[LiveKey[T]](), func() (*liveDefinition, error) {
		live.Lock()
		defer live.Unlock()
		live.keys = append(live.keys, fmt.Sprintf("%q (%v, %s)", name, typ, def.place))
		return def, nil
	})}
}

// live are the live keys of the program, as a message lists them.
var live struct {
	sync.Mutex
	keys []string
}

func liveKeys() string {
	live.Lock()
	defer live.Unlock()
	return strings.Join(live.keys, ", ")
}

// liveValues are those of one session, carried along from save to save.
type liveValues struct {
	mu sync.Mutex
	of map[*liveDefinition]any
}

// kept is the content of a session with live values, in a store of this process.
type kept struct {
	body string
	live *liveValues
}

// MemSize is what a session takes in memory besides what its live values refer to.
func (k *kept) MemSize() int {
	k.live.mu.Lock()
	defer k.live.mu.Unlock()
	return len(k.body) + 96 + 48*len(k.live.of)
}

// AppendBody appends what can leave the process, for a store that keeps its sessions
// over a restart as well: the values, and the names of the live values that were lost.
func (k *kept) AppendBody(b []byte) []byte {
	k.live.mu.Lock()
	names := make([]string, 0, len(k.live.of))
	for def := range k.live.of {
		names = append(names, def.name)
	}
	k.live.mu.Unlock()
	slices.Sort(names)
	var it items.Item
	v, err := hiddenText.Encode(strings.Join(names, " "))
	if err == nil && len(names) > 0 && it.Parse([]byte(k.body)) == nil {
		it.Set(liveName, v)
		if all, err := it.Append(b); err == nil {
			return all
		}
	}
	return append(b, k.body...)
}

// hasLostLive reports whether the session had live values in a process that has ended,
// and none have been put in since. Called with mu held.
func (s *Session) hasLostLive() bool {
	if s.live != nil || s.base == nil {
		return false
	}
	_, lost, err := s.base.Get(liveName)
	return lost && err == nil
}

// adopt makes the live values that are kept with the session this request's, and
// adds to them what it has put in by itself. Called with mu held.
func (s *Session) adopt(l *liveValues) {
	if mine := s.live; mine != nil && mine != l {
		mine.mu.Lock()
		defer mine.mu.Unlock()
		l.mu.Lock()
		defer l.mu.Unlock()
		maps.Copy(l.of, mine.of)
	}
	s.live, s.liveKept = l, l
}

// Name returns the name that the key was declared with.
func (k LiveKey[T]) Name() string { return k.def.name }

// Get returns the value, or the zero T if there is none.
func (k LiveKey[T]) Get(s *Session) T {
	v, _ := k.Lookup(s)
	return v
}

// Lookup returns the value, and whether there is one.
func (k LiveKey[T]) Lookup(s *Session) (T, bool) {
	s.mu.Lock()
	l := s.live
	s.mu.Unlock()
	if l == nil {
		var zero T
		return zero, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	v, ok := l.of[k.def].(T)
	return v, ok
}

// Set puts v in. In a session that has no live value yet it takes effect for other
// requests when this one saves, afterwards at once. Where the store is not in this
// process it is an error, kept in [Session.Err].
func (k LiveKey[T]) Set(s *Session, v T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.writable():
		return
	case !s.m.local && !s.m.off:
		s.err = fmt.Errorf("holdfast: live value %q: the sessions of this Manager leave the process; keep it elsewhere, or in a Manager over inproc", k.def.name)
		return
	case s.live == nil:
		s.live = &liveValues{of: make(map[*liveDefinition]any)}
	}
	s.live.mu.Lock()
	defer s.live.mu.Unlock()
	s.live.of[k.def] = v
}

// Delete takes the value out, as Set puts it in.
func (k LiveKey[T]) Delete(s *Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.writable() || s.live == nil {
		return
	}
	s.live.mu.Lock()
	defer s.live.mu.Unlock()
	delete(s.live.of, k.def)
}
