package e2e

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast"
)

// The same value, as two versions of one application know it. The new one has
// fields that the old one has never heard of, one of them deep inside.

type oldProfile struct {
	Name      string
	Addresses []oldAddress
	Prefs     map[string]oldPref
}

type oldAddress struct{ City string }

type oldPref struct{ On bool }

type newProfile struct {
	Name      string
	Phone     string
	Addresses []newAddress
	Prefs     map[string]newPref
	Since     time.Time
}

type newAddress struct {
	Zip  int
	City string
}

type newPref struct {
	On    bool
	Level float64
}

func newBinary(m *holdfast.Manager) http.Handler {
	profile := holdfast.NewKey[newProfile]("profile")
	pages := map[string]http.HandlerFunc{
		"put": func(w http.ResponseWriter, r *http.Request) {
			profile.Set(holdfast.From(r), newProfile{
				Name:      "ann",
				Phone:     "555-1234",
				Addresses: []newAddress{{8001, "Zürich"}, {3000, "Bern"}},
				Prefs:     map[string]newPref{"dark": {true, 0.5}, "loud": {false, 1}},
				Since:     time.Date(2026, 11, 21, 3, 4, 5, 678900, time.UTC),
			})
		},
	}
	return versions(m, profile, pages)
}

func oldBinary(m *holdfast.Manager) http.Handler {
	profile := holdfast.NewKey[oldProfile]("profile")
	return versions(m, profile, map[string]http.HandlerFunc{
		"put": func(w http.ResponseWriter, r *http.Request) {
			profile.Set(holdfast.From(r), oldProfile{Name: "bob", Addresses: []oldAddress{{"Chur"}}})
		},
	})
}

// versions are the pages that both have, for each access.
func versions[T any](m *holdfast.Manager, profile holdfast.Key[T], pages map[string]http.HandlerFunc) http.Handler {
	visits := holdfast.NewKey[int]("visits")
	pages["show"] = func(w http.ResponseWriter, r *http.Request) {
		v, err := profile.Lookup(holdfast.From(r))
		fmt.Fprintf(w, "%+v %v", v, err)
	}
	pages["visit"] = func(w http.ResponseWriter, r *http.Request) { // changes another value, and saves the session
		visits.Update(holdfast.From(r), func(n int) int { return n + 1 })
		fmt.Fprintf(w, "%+v %d", profile.Get(holdfast.From(r)), visits.Get(holdfast.From(r)))
	}
	pages["signin"] = func(w http.ResponseWriter, r *http.Request) { // writes the whole session anew
		fmt.Fprintf(w, "%+v", profile.Get(holdfast.From(r)))
		holdfast.From(r).RegenerateID()
	}
	pages["flush"] = func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%+v", profile.Get(holdfast.From(r)))
		http.NewResponseController(w).Flush()
		visits.Update(holdfast.From(r), func(n int) int { return n + 1 })
	}
	mux := http.NewServeMux()
	for name, h := range pages {
		for _, a := range []holdfast.Access{holdfast.Exclusive, holdfast.Merge} {
			mux.Handle("/"+a.String()+"/"+name, m.With(a).Handler(h))
		}
	}
	return mux
}

// TestRollingDeploy: while two versions of an application serve the same sessions,
// the old one reads a value with fields that it does not know. As long as it does
// not change that value it loses none of them, whatever else it saves.
func TestRollingDeploy(t *testing.T) {
	state := stateServer(t)
	older, newer := worker(t, "old", state.addr), worker(t, "new", state.addr)
	const (
		asNew = "{Name:ann Phone:555-1234 Addresses:[{Zip:8001 City:Zürich} {Zip:3000 City:Bern}] Prefs:map[dark:{On:true Level:0.5} loud:{On:false Level:1}] Since:2026-11-21 03:04:05.0006789 +0000 UTC}"
		asOld = "{Name:ann Addresses:[{City:Zürich} {City:Bern}] Prefs:map[dark:{On:true} loud:{On:false}]}"
	)
	for _, access := range []string{"/Exclusive", "/Merge"} {
		t.Run(access[1:], func(t *testing.T) {
			v := newVisitor(t)
			v.get(newer.addr, access+"/put")
			visits := 0
			for _, page := range []string{"/show", "/visit", "/signin", "/visit", "/flush", "/show"} {
				want := asOld
				switch page {
				case "/show":
					want += " <nil>"
				case "/visit":
					visits++
					want += fmt.Sprint(" ", visits)
				case "/flush":
					visits++
				}
				if got := v.get(older.addr, access+page); got != want {
					t.Errorf("%s: the old binary shows\n%s, want\n%s", page, got, want)
				}
				if got := v.get(newer.addr, access+"/show"); got != asNew+" <nil>" {
					t.Errorf("after the old binary's %s the new one shows\n%s, want\n%s", page, got, asNew)
				}
			}
		})
	}
}

// TestRollBack: a value that the old version wrote is read by the new one, with its
// new fields zero, and is no change by being read.
func TestRollBack(t *testing.T) {
	state := stateServer(t)
	older, newer := worker(t, "old", state.addr), worker(t, "new", state.addr)
	for _, access := range []string{"/Exclusive", "/Merge"} {
		t.Run(access[1:], func(t *testing.T) {
			v := newVisitor(t)
			v.get(older.addr, access+"/put")
			const asNew = "{Name:bob Phone: Addresses:[{Zip:0 City:Chur}] Prefs:map[] Since:0001-01-01 00:00:00 +0000 UTC}"
			const asOld = "{Name:bob Addresses:[{City:Chur}] Prefs:map[]}"
			for i := range 3 {
				if got, want := v.get(newer.addr, access+"/visit"), fmt.Sprint(asNew, " ", 2*i+1); got != want {
					t.Errorf("the new binary shows\n%s, want\n%s", got, want)
				}
				if got, want := v.get(older.addr, access+"/visit"), fmt.Sprint(asOld, " ", 2*i+2); got != want {
					t.Errorf("the old binary shows\n%s, want\n%s", got, want)
				}
			}
		})
	}
}
