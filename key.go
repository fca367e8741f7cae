package holdfast

import (
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/holdfast-session/holdfast/items"
)

// A Key is the name and the type of a value that sessions have. Declare it once,
// as a package variable:
//
//	var cart = holdfast.NewKey[[]Line]("cart")
//
// A value is kept as its bytes, so that it works alike wherever sessions are kept.
// One that the handler got and changes in place (a map, a slice, what a pointer
// points to) is saved without a Set. Times are kept in UTC to 100 ns, durations to
// 100 ns.
type Key[T any] struct{ def *definitionOf[T] }

type definitionOf[T any] struct {
	name  string
	codec *items.Codec[T]
}

// declared are the keys of the program by folded name.
var declared struct {
	sync.Mutex
	keys map[string]declaration
}

type declaration struct {
	def   any
	typ   reflect.Type
	place string
}

// NewKey declares the value called name, an ASCII name that is the same in upper
// and lower case.
//
// It panics, as regexp.MustCompile does, when the program is wrong: when a T would
// not survive leaving the process, with the field that would not and what to do
// about it, and when the name is declared with another type, or in another place.
func NewKey[T any](name string) Key[T] {
	_, file, line, _ := runtime.Caller(1)
	place := fmt.Sprintf("%s:%d", file, line)
	return Key[T]{declare(name, "NewKey", place, reflect.TypeFor[T](), func() (*definitionOf[T], error) {
		codec, err := items.NewCodec[T]()
		return &definitionOf[T]{name, codec}, err
	})}
}

// declare enters a name into the program's list, or returns what it stands for there.
func declare[D any](name, what, place string, typ reflect.Type, def func() (D, error)) D {
	if name == "" {
		panic("holdfast: " + what + ": the name is empty")
	}
	for i := range len(name) {
		if name[i] < ' ' || name[i] > '~' {
			panic(fmt.Sprintf("holdfast: %s(%q): a name is printable ASCII", what, name))
		}
	}
	if isReserved(name) {
		panic(fmt.Sprintf("holdfast: %s(%q): names that begin with %q are holdfast's own", what, name, reserved))
	}
	declared.Lock()
	defer declared.Unlock()
	folded := strings.ToLower(name)
	if d, ok := declared.keys[folded]; ok {
		if d.typ != typ {
			panic(fmt.Sprintf("holdfast: %s(%q) at %s: the name is declared as %v at %s", what, name, place, d.typ, d.place))
		}
		if d.place != place && !testing.Testing() {
			panic(fmt.Sprintf("holdfast: %s(%q) at %s: the name is declared at %s already; export that variable, or take another name", what, name, place, d.place))
		}
		return d.def.(D)
	}
	v, err := def()
	if err != nil {
		panic(fmt.Sprintf("holdfast: %s(%q) at %s: %v", what, name, place, err))
	}
	if declared.keys == nil {
		declared.keys = make(map[string]declaration)
	}
	declared.keys[folded] = declaration{v, typ, place}
	return v
}

// Name returns the name that the key was declared with.
func (k Key[T]) Name() string { return k.def.name }

// Get returns the value, or the zero T if there is none, or if it cannot be read
// (of which [Options.OnError] hears; use [Key.Lookup] to know).
func (k Key[T]) Get(s *Session) T {
	v, _, err := k.lookup(s)
	if err != nil {
		s.m.report(&s.ctx, err, "a value could not be read", s)
	}
	return v
}

// Lookup returns the value, or the zero T if there is none. The error is that of a
// value that is there and cannot be read as a T. Its bytes stay as they are until
// Set replaces them, and the other values work.
func (k Key[T]) Lookup(s *Session) (T, error) {
	v, _, err := k.lookup(s)
	return v, err
}

// Has reports whether there is a value.
func (k Key[T]) Has(s *Session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.at(k.def.name, k.def)
	if !c.seen { // else the handler sees no more of it than it has
		c.show(s)
	}
	_, ok, err := s.view(k.def.name)
	return ok || err != nil || c.live != nil
}

func (k Key[T]) lookup(s *Session) (v T, ok bool, err error) {
	d := k.def
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.at(d.name, d)
	c.show(s)
	if live, ok := c.live.(*T); ok {
		return *live, true, nil
	}
	raw, ok, err := s.view(d.name)
	if err == nil && ok {
		v, err = d.codec.Decode(raw)
	}
	if err != nil {
		return v, false, fmt.Errorf("holdfast: value %q: %w", d.name, err)
	}
	if ok && d.codec.Mutable() {
		live := v
		c.live, c.from = &live, raw
	}
	return v, ok, nil
}

// Set puts v in. An error is kept in [Session.Err].
func (k Key[T]) Set(s *Session, v T) {
	d := k.def
	raw, err := d.codec.Encode(v)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.writable() {
		return
	}
	if err != nil {
		s.err = fmt.Errorf("holdfast: value %q: %w", d.name, err)
		return
	}
	c := s.at(d.name, d)
	d.assign(s, c, set, raw, v)
}

// assign makes raw, the encoded v, the value of c. Called with mu held.
func (d *definitionOf[T]) assign(s *Session, c *cell, o op, raw items.Value, v T) {
	s.gen++
	c.op, c.val, c.gen = o, raw, s.gen
	c.live, c.from = nil, raw
	if o == set {
		c.fns = nil
	}
	if d.codec.Mutable() {
		live := v
		c.live = &live
	}
}

// Update replaces the value by f of it (of the zero T if there is none). It is how
// a value is changed that other requests change too: where requests are merged, f
// is run again on the newest value, so it must depend on nothing else, must not
// use the session, and may be called more than once. A value that cannot be read
// is not updated; that is an error, kept in [Session.Err].
func (k Key[T]) Update(s *Session, f func(T) T) {
	d := k.def
	for {
		old, raw, gen, ok := d.current(s)
		if !ok {
			return
		}
		v := f(old)
		next, err := d.codec.Encode(v)

		s.mu.Lock()
		c := s.at(d.name, d)
		switch {
		case !s.writable():
		case err != nil:
			s.err = fmt.Errorf("holdfast: value %q: %w", d.name, err)
		case c.gen != gen:
			s.mu.Unlock()
			continue // another goroutine of this handler was faster
		case s.merging && c.op != set && c.op != remove && s.cleared == 0:
			c.fns = append(c.fns, d.updater(f))
			d.assign(s, c, update, next, v)
		default:
			if c.op == untouched && s.cleared == 0 && !c.seen {
				c.seen, c.saw = true, raw // the lock that protects it may be given up at this moment
			}
			d.assign(s, c, set, next, v)
		}
		s.mu.Unlock()
		return
	}
}

// current returns the value that an Update begins with, as a T and as its bytes, and
// the generation of its cell; not ok if there is an error, which is kept. The
// application's marshalers may panic in here.
func (d *definitionOf[T]) current(s *Session) (v T, raw items.Value, gen uint32, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.writable() {
		return v, raw, 0, false
	}
	c := s.at(d.name, d)
	err := c.settle(s) // a change in place counts as a Set
	if err == nil {
		raw, _, err = s.view(d.name)
	}
	if live, ok := c.live.(*T); ok {
		v = *live
		if c.op == untouched {
			raw = c.from
		}
	} else if err == nil && !raw.IsZero() {
		v, err = d.codec.Decode(raw)
	}
	if err != nil {
		s.err = fmt.Errorf("holdfast: value %q: %w", d.name, err)
		return v, raw, 0, false
	}
	return v, raw, c.gen, true
}

func (d *definitionOf[T]) updater(f func(T) T) updater {
	return func(raw items.Value) (items.Value, error) {
		var old T
		if !raw.IsZero() {
			var err error
			if old, err = d.codec.Decode(raw); err != nil {
				return raw, fmt.Errorf("holdfast: value %q: %w", d.name, err)
			}
		}
		next, err := d.codec.Encode(f(old))
		if err != nil {
			return raw, fmt.Errorf("holdfast: value %q: %w", d.name, err)
		}
		return next, nil
	}
}

// Delete takes the value out.
func (k Key[T]) Delete(s *Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.writable() {
		return
	}
	s.gen++
	s.at(k.def.name, k.def).remove(s.gen)
}

// Take returns the value and deletes it: for messages that are shown once.
func (k Key[T]) Take(s *Session) T {
	v := k.Get(s)
	k.Delete(s)
	return v
}

func (d *definitionOf[T]) encode(live any) (items.Value, error) {
	v, err := d.codec.Encode(*live.(*T))
	if err != nil {
		err = fmt.Errorf("holdfast: value %q, changed in place: %w", d.name, err)
	}
	return v, err
}

func (d *definitionOf[T]) again(v items.Value) (items.Value, error) {
	t, err := d.codec.Decode(v)
	if err == nil {
		v, err = d.codec.Encode(t)
	}
	if err != nil {
		err = fmt.Errorf("holdfast: value %q: %w", d.name, err)
	}
	return v, err
}
