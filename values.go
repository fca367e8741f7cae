package holdfast

import (
	"iter"
	"strings"
	"time"

	"github.com/holdfast-session/holdfast/items"
)

// A cell is what a request did with one value. The cells are an operation log over
// base, the content as last read: laid over it at the end, and, where no lock kept
// others out, over whatever is newest then.
type cell struct {
	name string
	def  definition
	op   op
	gen  uint32 // of the last change
	// seen: the handler was shown the saved value, which was saw (zero: absent), or
	// what its own Updates made of that. Overwriting it is refused where another has
	// changed it since.
	seen bool
	saw  items.Value
	// val is the value as changed by op.
	val items.Value
	// live points to the T that the handler has and may change in place; from is
	// what it was decoded from, or last encoded as.
	live any
	from items.Value
	// fns are the functions of op update, to be run again on a newer value.
	fns []updater
}

type op uint8

const (
	untouched op = iota
	set
	update
	remove
)

// An updater maps a value to the next one; the zero Value is an absent one.
type updater func(items.Value) (items.Value, error)

// A definition is a Key's type, erased.
type definition interface {
	// encode returns the bytes of the T that live points to.
	encode(live any) (items.Value, error)
	// again decodes v and encodes it: how this program writes what v says.
	again(v items.Value) (items.Value, error)
}

// find returns the cell of name, or nil. Called with mu held.
func (s *Session) find(name string) *cell {
	for i := range s.cells {
		if c := &s.cells[i]; c.name == name || strings.EqualFold(c.name, name) {
			return c
		}
	}
	return nil
}

// at is like find, but adds the cell that is not there.
func (s *Session) at(name string, def definition) *cell {
	c := s.find(name)
	if c == nil {
		if s.cells == nil {
			s.cells = s.inline[:0]
		}
		s.cells = append(s.cells, cell{name: name})
		c = &s.cells[len(s.cells)-1]
	}
	c.def = def
	return c
}

// show notes that the handler is shown c as it is now. Called with mu held.
func (c *cell) show(s *Session) {
	switch {
	case s.cleared != 0, c.op == set, c.op == remove:
		// This is the request's own doing, and tells nothing of what is saved.
	case c.seen && (c.op == update || c.live != nil):
		// It has what it was shown then, whatever was merged since.
	case c.live != nil && c.op == untouched:
		c.seen, c.saw = true, c.from
	default:
		c.seen = true
		c.saw, _, _ = s.base.Get(c.name)
	}
}

// remove takes the value of c out, as change gen. Called with mu held.
func (c *cell) remove(gen uint32) {
	c.op, c.val, c.live, c.fns, c.gen = remove, items.Value{}, nil, nil, gen
}

// view returns the value of name as the handler sees it; the error is that of a
// value that cannot be read. Called with mu held.
func (s *Session) view(name string) (items.Value, bool, error) {
	if c := s.find(name); c != nil && c.op != untouched {
		return c.val, c.op != remove, nil
	}
	if s.cleared != 0 {
		return items.Value{}, false, nil
	}
	return s.base.Get(name)
}

// names yields the names of the values as the handler sees them: those of base in
// order, then new ones. Called with mu held.
func (s *Session) names() iter.Seq[string] {
	return func(yield func(string) bool) {
		if s.cleared == 0 {
			for name := range s.base.Names() {
				if isReserved(name) {
					continue
				}
				if c := s.find(name); (c == nil || c.op != remove) && !yield(name) {
					return
				}
			}
		}
		for i := range s.cells {
			c := &s.cells[i]
			if c.op == set || c.op == update {
				if _, old, err := s.base.Get(c.name); s.cleared == 0 && (old || err != nil) {
					continue
				}
				if !yield(c.name) {
					return
				}
			}
		}
	}
}

// discard forgets all changes. Called with mu held.
func (s *Session) discard() {
	clear(s.cells)
	s.cells = s.cells[:0]
	s.gen++
	s.cleared, s.discarded = 0, s.gen
	s.newID = false
	s.now, s.live = s.kept, s.liveKept
	s.err = nil
}

// changes are a copy of the operation log, so that the handler's other goroutines
// can go on while it is laid over the store's content.
type changes struct {
	gen     uint32
	cleared bool
	newID   bool
	renewal bool // newID is not the application's doing
	now     traits
	traits  bool // now, or live, differs from what is saved
	live    *liveValues
	cells   []cell
}

func (ch *changes) find(name string) *cell {
	for i := range ch.cells {
		if c := &ch.cells[i]; c.name == name {
			return c
		}
	}
	return nil
}

// collect finds the values that were changed in place, and copies the log.
func (s *Session) collect() (changes, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.access != ReadOnly {
		for i := range s.cells {
			if err := s.cells[i].settle(s); err != nil {
				return changes{}, err
			}
		}
	}
	ch := changes{gen: s.gen, cleared: s.cleared != 0, newID: s.newID, now: s.now, traits: s.now != s.kept || s.live != s.liveKept, live: s.live}
	ch.cells = s.log[:0]
	for i := range s.cells {
		if s.cells[i].op != untouched {
			ch.cells = append(ch.cells, s.cells[i])
		}
	}
	return ch, nil
}

// settle turns a change in place into a Set. That a value is encoded otherwise
// than it is stored is no change by itself: another version of the program, or
// another platform, may have written it. So what is stored is decoded and encoded
// again, and compared with that.
func (c *cell) settle(s *Session) error {
	if c.live == nil {
		return nil
	}
	v, err := c.def.encode(c.live)
	if err != nil {
		return err
	}
	if v == c.from {
		return nil
	}
	if c.op == untouched {
		again, err := c.def.again(c.from)
		if err != nil {
			return err
		}
		if v == again {
			return nil
		}
	}
	c.show(s) // it was, be it by an Update or by a Set that is saved, whose T it kept
	s.gen++
	c.op, c.val, c.from, c.fns, c.gen = set, v, v, nil, s.gen
	return nil
}

// over lays the changes over base and returns the new content, or base itself if
// that comes to the same. It is [ErrConflict] if a value is overwritten that the
// handler had read and another has changed since.
func (ch *changes) over(base *items.Item) (*items.Item, error) {
	it := base
	own := func() *items.Item {
		if it == base {
			it = base.Clone()
		}
		return it
	}
	if ch.cleared && base.Len() > 0 {
		own().Clear()
	}
	for i := range ch.cells {
		c := &ch.cells[i]
		old, _, _ := base.Get(c.name)
		if c.op != update && c.seen && old != c.saw {
			return nil, ErrConflict
		}
		if ch.cleared {
			old = items.Value{}
		}
		v := c.val
		switch c.op {
		case remove:
			_, there, err := it.Get(c.name)
			if there || err != nil {
				own().Delete(c.name)
			}
			continue
		case update:
			v = old
			for _, f := range c.fns {
				var err error
				if v, err = f(v); err != nil {
					return nil, err
				}
			}
		}
		if v != old {
			own().Set(c.name, v)
		}
	}
	if ch.live != nil {
		if _, lost, _ := it.Get(liveName); lost {
			own().Delete(liveName) // there are new ones
		}
	}
	if ch.now.timeout != it.Timeout {
		own().Timeout = ch.now.timeout
	}
	if was := traitsOf(base, ""); was.persist != ch.now.persist || was.since != ch.now.since || ch.cleared && base.Len() > 0 {
		ch.now.hide(own())
	}
	return it, nil
}

// applied makes it, the saved content, the base of what comes. What was changed
// after collect stays in the log.
func (s *Session) applied(ch *changes, it *items.Item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.base = it
	s.kept, s.liveKept = ch.now, ch.live
	s.now.since = ch.now.since // which is no doing of the handler's
	if own := ch.now.timeout; own < s.m.o.Timeout {
		s.m.touch.note(s.key, s.m.interval(own))
	}
	if ch.newID {
		s.newID = false
	}
	forgotten := max(s.cleared, s.discarded) > ch.gen // meanwhile: what changed since then is no more of it
	if s.cleared <= ch.gen {
		s.cleared = 0
	}
	for i := range s.cells {
		c := &s.cells[i]
		if c.op == untouched {
			continue
		}
		v, _, _ := it.Get(c.name)
		if c.gen > ch.gen { // changed again since
			if was := ch.find(c.name); was != nil && !forgotten {
				c.rebase(was, v)
			}
			continue
		}
		if c.live != nil && c.from != v {
			// Merged with what another saved: the handler's copy is out of date.
			c.live = nil
		}
		if c.op != update || c.val == v {
			c.saw = v // else the handler has not seen what was merged with its Updates
		}
		c.op, c.fns, c.val = untouched, nil, items.Value{}
	}
}

// rebase makes c, which has changed while was was saved as v, a change of v.
func (c *cell) rebase(was *cell, v items.Value) {
	known := was.op != update || was.val == v // nothing was merged that the handler does not know
	switch {
	case c.op == update && was.op == update:
		c.fns = c.fns[len(was.fns):]
		if !known && !c.seen { // what it is shown from now on comes from before the merge
			c.seen, c.saw = true, was.val
		}
	case c.op == set && was.op != update:
		c.seen = true // it may be an Update of what was saved
	}
	if known {
		c.saw = v
	}
}

// What a session keeps beside its values, and a record has no field for, is in items
// of its own, under names that no Key can have.
const (
	reserved    = "holdfast:"
	persistName = reserved + "persist"
	sinceName   = reserved + "since"
	liveName    = reserved + "live" // which live values it had, where these could not be kept
)

func isReserved(name string) bool {
	return len(name) >= len(reserved) && strings.EqualFold(name[:len(reserved)], reserved)
}

var (
	hidden     = mustCodec[int64]()
	hiddenText = mustCodec[string]()
)

func mustCodec[T any]() *items.Codec[T] {
	c, err := items.NewCodec[T]()
	if err != nil {
		panic(err)
	}
	return c
}

// traitsOf reads what base and its record say of the session.
func traitsOf(base *items.Item, subject string) traits {
	t := traits{timeout: base.Timeout, subject: subject}
	if base.Len() == 0 {
		return t
	}
	if v, ok, err := base.Get(persistName); ok && err == nil {
		seconds, _ := hidden.Decode(v)
		t.persist = time.Duration(seconds) * time.Second
		if seconds < 0 {
			t.persist = -1
		}
	}
	if v, ok, err := base.Get(sinceName); ok && err == nil {
		t.since, _ = hidden.Decode(v)
	}
	return t
}

// hide writes into it what traitsOf reads.
func (t traits) hide(it *items.Item) {
	put := func(name string, n int64) {
		if n == 0 {
			it.Delete(name)
			return
		}
		if v, err := hidden.Encode(n); err == nil { // which an integer has none of
			it.Set(name, v)
		}
	}
	seconds := int64(t.persist / time.Second)
	if t.persist < 0 {
		seconds = -1
	}
	put(persistName, seconds)
	put(sinceName, t.since)
}
