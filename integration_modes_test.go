package holdfast_test

import (
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/items"
	"github.com/holdfast-session/holdfast/store"
)

// A profile has something of each kind of type.
type profile struct {
	Name    string
	Age     *int
	Born    time.Time
	Quota   time.Duration
	Groups  []string
	Visits  map[string]int64
	Address struct{ Street, City string }
	Raw     []byte
}

var (
	profiles = holdfast.NewKey[profile]("shop.profile")
	pointer  = holdfast.NewKey[*profile]("shop.pointer")
	moment   = holdfast.NewKey[time.Time]("shop.moment")
	span     = holdfast.NewKey[time.Duration]("shop.span")
	price    = holdfast.NewKey[items.Decimal]("shop.price")
	yes      = holdfast.NewKey[bool]("shop.yes")
	ratio    = holdfast.NewKey[float64]("shop.ratio")
	blob     = holdfast.NewKey[[]byte]("shop.blob")
)

func aProfile() profile {
	age := 42
	return profile{
		Name: "Zoë \xff", Age: &age, Quota: 90 * time.Minute, Groups: []string{"a", ""}, Raw: []byte{0, 255},
		Born:   time.Date(1984, 2, 29, 11, 30, 0, 123456789, time.UTC),
		Visits: map[string]int64{"x": 1 << 40, "y": -1},
	}
}

// describe shows a profile with its pointer's target.
func describe(p profile) string {
	age := -1
	if p.Age != nil {
		age = *p.Age
	}
	p.Age = nil
	return fmt.Sprintf("%+v age %d", p, age)
}

// oneRequest is a handler that uses all of a session that one request can see. What
// it writes is the same in every mode.
func oneRequest(w http.ResponseWriter, r *http.Request) {
	s := holdfast.From(r)
	say := func(what string, v any) { fmt.Fprintf(w, "%s: %v\n", what, v) }
	say("new", s.IsNew())
	say("id", s.ID() == "" && s.LogID() == "")
	say("created", s.Created().IsZero())
	say("lost", s.Lost())
	say("timeout", s.Timeout())
	say("nothing", fmt.Sprint(s.Len(), hits.Get(s), hits.Has(s), cart.Get(s) == nil, note.Take(s) == ""))

	say("filled", fill(s))
	sees(w, s)

	say("abandon", s.Abandon())
	say("after", fmt.Sprint(s.Len(), hits.Get(s), s.IsNew(), s.Timeout(), s.Subject() == ""))
	hits.Set(s, 100)
	s.Clear()
	say("cleared", s.Len())
	hits.Set(s, 100)
	s.Discard()
	say("discarded", s.Len())
	say("err", s.Err())
}

// fill puts something of each kind in, and changes it in every way.
func fill(s *holdfast.Session) error {
	hits.Set(s, 1)
	hits.Update(s, increment)
	note.Set(s, "a\x00é")
	cart.Set(s, []line{{"rope", 2}})
	cart.Get(s)[0].Count++
	tags.Update(s, func(m map[string]int) map[string]int {
		if m == nil {
			m = map[string]int{}
		}
		m["a"]++
		return m
	})
	tags.Get(s)["b"] = 5
	profiles.Set(s, aProfile())
	p := aProfile()
	pointer.Set(s, &p)
	pointer.Get(s).Name = "changed"
	moment.Set(s, p.Born.In(time.FixedZone("", 3600)))
	span.Set(s, 1234567*time.Nanosecond)
	decimal, err := items.ParseDecimal("12.340")
	price.Set(s, decimal)
	yes.Set(s, true)
	ratio.Set(s, 0.1)
	blob.Set(s, []byte("blob"))
	user.Set(s, "gone")
	user.Delete(s)
	s.SetTimeout(90 * time.Second)
	s.SetSubject("42")
	return err
}

// sees writes what is in a session.
func sees(w http.ResponseWriter, s *holdfast.Session) {
	say := func(what string, v any) { fmt.Fprintf(w, "%s: %v\n", what, v) }
	say("hits", hits.Get(s))
	say("note", fmt.Sprintf("%q", note.Get(s)))
	say("cart", cart.Get(s))
	say("tags", tags.Get(s))
	say("profile", describe(profiles.Get(s)))
	if p := pointer.Get(s); p != nil {
		say("pointer", describe(*p))
	}
	say("moment", moment.Get(s))
	say("span", span.Get(s))
	say("price", price.Get(s))
	say("yes", fmt.Sprint(yes.Get(s), ratio.Get(s), string(blob.Get(s)), user.Has(s)))
	var names []string
	for name, v := range s.All() {
		names = append(names, fmt.Sprintf("%s %v", strings.TrimPrefix(name, "shop."), reflect.TypeOf(v)))
	}
	say("all", names)
	say("len", s.Len())
	say("timeout", s.Timeout())
	say("subject", s.Subject())
	say("err", s.Err())
}

func TestOneRequestIsTheSameInEveryMode(t *testing.T) {
	off := mode{"Off", false, func(testing.TB) store.Store { return holdfast.Off }, cookies}
	all := append([]mode{off}, modes...)
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			for i := range all {
				all[i].way = w
			}
			if w.urls {
				sameInAll(t, all[1:]) // in mode Off nobody is sent on
				return
			}
			sameInAll(t, all)
		})
	}
}

func sameInAll(t *testing.T, all []mode) {
	for _, a := range changing {
		var bodies []string
		for _, md := range all {
			st := newShop(t, md, nil)
			st.Handle("/one", st.m.With(a).Handler(http.HandlerFunc(oneRequest)))
			rp := st.browser().wantStatus("/one", 200)
			if rp.header["Set-Cookie"] != nil || rp.told != nil && !md.way.urls {
				t.Errorf("%s: the visitor was told an ID: %v", md.name, rp.header)
			}
			n := st.faults.Count()
			if md.way.urls {
				n = st.faults.Count("Save", "Touch")
			}
			if n != 0 {
				t.Errorf("%s: %d calls of the store for a session that was never to be stored", md.name, n)
			}
			if st.errs.len() != 0 {
				t.Errorf("%s: the hook heard of %v", md.name, st.errs.all)
			}
			bodies = append(bodies, rp.body)
		}
		for i, body := range bodies {
			if body != bodies[0] {
				t.Errorf("%v: %s says\n%s\n%s says\n%s", a, all[i].name, body, all[0].name, bodies[0])
			}
		}
		if !strings.Contains(bodies[0], "cart: [{rope 3}]\n") || strings.Count(bodies[0], "err: <nil>\n") != 2 {
			t.Errorf("%v: the request says\n%s", a, bodies[0])
		}
	}
}

// In mode Off every request is the first, whatever the browser sends.
func TestOffForgetsEveryRequest(t *testing.T) {
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			st := buildShop(t, holdfast.Off, w.with(nil))
			st.m = holdfast.New(holdfast.Off, w.with(nil)) // as an application does, without faults around
			st.url, st.to = "http://shop.test", directly{st.m.Handler(st)}
			st.hitPages()
			st.signInPages(holdfast.Exclusive)
			st.page("/all", holdfast.Exclusive, func(w http.ResponseWriter, r *http.Request, s *holdfast.Session) {
				hits.Set(s, 1)
				s.RegenerateID()
				fmt.Fprint(w, s.Save(r.Context()), hits.Get(s), s.Release(r.Context()), s.ID() == "")
			})
			b := st.browser()
			b.setID(strings.Repeat("a", 24))
			for range 2 {
				for path, want := range map[string]string{"/hit": "1", "/read": "0", "/nothing": "nothing", "/in": "", "/who": "", "/out": "", "/all": "<nil> 1 <nil> true"} {
					if rp := b.want(path, want); rp.told != nil {
						t.Errorf("%s was told the ID %q", path, *rp.told)
					}
				}
			}
		})
	}
}

// What one request has put in, every other one gets, whatever its access: the same
// in each mode, and as the request itself saw it.
func TestManyRequestsAreTheSameInEveryMode(t *testing.T) {
	byEveryIdentity(t, func(t *testing.T, md mode) {
		for _, a := range changing {
			t.Run(a.String(), func(t *testing.T) {
				st := newShop(t, md, nil)
				st.page("/fill", a, func(w http.ResponseWriter, r *http.Request, s *holdfast.Session) {
					fill(s)
					sees(w, s)
				})
				for _, other := range accesses[1:] {
					st.page("/"+other.String(), other, func(w http.ResponseWriter, _ *http.Request, s *holdfast.Session) { sees(w, s) })
				}
				st.page("/saved", a, func(w http.ResponseWriter, r *http.Request, s *holdfast.Session) {
					if err := s.Save(r.Context()); err != nil {
						t.Error(err)
					}
					sees(w, s)
				})
				st.do("/now", a, func(s *holdfast.Session) any {
					return fmt.Sprint(s.IsNew(), s.ID() != "", len(s.LogID()), s.Created().IsZero(), s.Lost())
				})
				b := st.browser()
				want := b.wantStatus("/fill", 200).body
				if !strings.Contains(want, "moment: 1984-02-29 11:30:00.1234567 +0000 UTC\n") || !strings.Contains(want, "span: 1.2345ms") {
					t.Errorf("the first request says\n%s", want)
				}
				for _, other := range accesses[1:] {
					b.want("/"+other.String(), want)
				}
				saves := st.faults.Count("Save")
				b.want("/saved", want)
				if n := st.faults.Count("Save") - saves; n != 0 {
					t.Errorf("UnchangedStaysUnchanged: %d Saves", n)
				}
				b.want("/now", "false true 8 false {unknown 0s }")
			})
		}
	})
}

// A session's values keep the order in which they came, and its ID until it ends.
func TestVisitorComesAgain(t *testing.T) {
	byEveryIdentity(t, func(t *testing.T, md mode) {
		for _, a := range changing {
			t.Run(a.String(), func(t *testing.T) {
				st := newShop(t, md, nil)
				st.page("/visit", a, func(w http.ResponseWriter, r *http.Request, s *holdfast.Session) {
					hits.Update(s, increment)
					slots[hits.Get(s)%len(slots)].Set(s, hits.Get(s))
					if hits.Get(s) == 3 {
						slots[1].Delete(s)
					}
					var names []string
					for name := range s.All() {
						names = append(names, strings.TrimPrefix(name, "shop."))
					}
					fmt.Fprint(w, names)
				})
				b := st.browser()
				b.want("/visit", "[hits slot1]")
				id := b.id()
				b.want("/visit", "[hits slot1 slot2]")
				b.want("/visit", "[hits slot2 slot3]")
				b.want("/visit", "[hits slot2 slot3 slot4]")
				if b.id() != id {
					t.Errorf("the ID was %q and is %q", id, b.id())
				}
				ids := []string{id}
				for range 20 {
					c := st.browser()
					c.want("/visit", "[hits slot1]")
					ids = append(ids, c.id())
				}
				slices.Sort(ids)
				if n := len(slices.Compact(ids)); n != 21 {
					t.Errorf("%d IDs of 21 visitors", n)
				}
			})
		}
	})
}
