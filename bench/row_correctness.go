package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

var correctnessRow = row{
	name:  "correctness",
	title: "What goes wrong, counted",
	note: "The same application by each library. Updates lost: 50 requests at once set one value each in the same session, with 5 ms of work between reading and writing; those that are not there afterwards. " +
		"Sign-outs undone: a request that changes something is under way while the visitor signs out; how often the old cookie is signed in afterwards (gorilla's CookieStore cannot end a session: whoever kept the cookie has it). " +
		"Chosen IDs adopted: a visitor comes with an ID of the right form that was never issued, and the next with the same ID is in that visitor's session. " +
		"Late changes lost: the handler has sent the beginning of a long response before it changes the session. " +
		"What cannot be stored is a channel.",
	metrics: []metric{metricLost50, metricUndone, metricAdopted, metricLate, metricStrange},
	slow:    true,
	cells:   correctnessCells,
}

const (
	// tries is how often each thing is tried in a round.
	tries = 10
	// underWay is how long a request works while something else happens, at a third
	// of that time.
	underWay = 30 * time.Millisecond
)

func correctnessCells(s *suite) ([]cell, error) {
	apps, err := s.applications(func(l library) bool {
		return l.name != noSessions && (!s.quick || l.place == inProcess || l.place == onServer)
	})
	if err != nil {
		return nil, err
	}
	one := cell{name: "each library"}
	c := newClient()
	s.later(c.CloseIdleConnections)
	for _, a := range apps {
		found, err := a.strangeFound(context.Background(), c)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", a.name, err)
		}
		one.sides = append(one.sides, side{a.name, func(ctx context.Context, _ window) (figures, error) {
			lost, err := a.updatesLost(ctx, c)
			if err != nil {
				return nil, err
			}
			f := figures{metricLost50.Name: float64(lost), metricStrange.Name: found}
			for name, wrong := range map[string]func(context.Context, *http.Client) (bool, error){
				metricUndone.Name: a.signOutUndone, metricAdopted.Name: a.idAdopted, metricLate.Name: a.lateLost,
			} {
				n, err := count(ctx, c, wrong)
				if err != nil {
					return nil, fmt.Errorf("%s: %w", name, err)
				}
				f[name] = float64(n) / tries * 100
			}
			return f, nil
		}})
	}
	return []cell{one}, nil
}

// count tries something that may go wrong, side by side with visitors of their own.
func count(ctx context.Context, c *http.Client, wrong func(context.Context, *http.Client) (bool, error)) (int, error) {
	var all sync.WaitGroup
	var mu sync.Mutex
	var n int
	var errs error
	for range tries {
		all.Go(func() {
			bad, err := wrong(ctx, c)
			mu.Lock()
			defer mu.Unlock()
			errs = errors.Join(errs, err)
			if bad {
				n++
			}
		})
	}
	all.Wait()
	return n, errs
}

// filled is a visitor with a session.
func (a *running) filled(ctx context.Context, c *http.Client) (*browser, error) {
	b := a.browser(c)
	_, err := b.must(ctx, fmt.Sprintf("/fill?size=%d", smallSession))
	return b, err
}

// has reports whether the session has a text.
func (b *browser) has(ctx context.Context, name string) (bool, error) {
	text, err := b.must(ctx, "/get?names="+name)
	return text == name, err
}

// updatesLost sets values of one session side by side.
func (a *running) updatesLost(ctx context.Context, c *http.Client) (int, error) {
	b, err := a.filled(ctx, c)
	if err != nil {
		return 0, err
	}
	before := *b
	var all sync.WaitGroup
	var mu sync.Mutex
	var errs error
	for _, name := range setNames {
		all.Go(func() {
			one := before
			_, err := one.must(ctx, "/set?work=5ms&name="+name)
			mu.Lock()
			defer mu.Unlock()
			b.cookie = one.cookie // as in a browser, the last one that came
			errs = errors.Join(errs, err)
		})
	}
	all.Wait()
	if errs != nil {
		return 0, errs
	}
	text, err := b.must(ctx, "/get?names="+strings.Join(setNames, ","))
	there := strings.Count(text, "key")
	return len(setNames) - there, err
}

// signOutUndone signs out while a request is under way.
func (a *running) signOutUndone(ctx context.Context, c *http.Client) (bool, error) {
	b, err := a.filled(ctx, c)
	if err != nil {
		return false, err
	}
	if _, err := b.must(ctx, "/in"); err != nil {
		return false, err
	}
	signedIn := *b
	done := make(chan error, 1)
	go func() {
		one := signedIn
		_, _, err := one.get(ctx, "/change?work="+underWay.String()) // however it is answered
		done <- err
	}()
	time.Sleep(underWay / 3)
	_, err = b.must(ctx, "/out")
	if err := errors.Join(err, <-done); err != nil {
		return false, err
	}
	old := signedIn
	return old.has(ctx, userName)
}

// idAdopted comes with an ID that was never issued.
func (a *running) idAdopted(ctx context.Context, c *http.Client) (bool, error) {
	b, err := a.filled(ctx, c)
	if err != nil {
		return false, err
	}
	chosen := *b
	chosen.cookie = forged(b.cookie)
	victim := chosen
	if _, err := victim.must(ctx, "/set?name="+userName); err != nil {
		return false, err
	}
	return chosen.has(ctx, userName)
}

// forged changes a letter in the middle of a cookie's value.
func forged(cookie string) string {
	b := []byte(cookie)
	at := (strings.IndexByte(cookie, '=') + len(b)) / 2
	if b[at] == 'a' {
		b[at] = 'b'
	} else {
		b[at] = 'a'
	}
	return string(b)
}

// lateLost changes a session behind the beginning of the response.
func (a *running) lateLost(ctx context.Context, c *http.Client) (bool, error) {
	b, err := a.filled(ctx, c)
	if err != nil {
		return false, err
	}
	if _, _, err := b.get(ctx, "/late"); err != nil {
		return false, err
	}
	there, err := b.has(ctx, lateName)
	return !there, err
}

// strangeFound says when a value is found that cannot leave the process, as
// metricStrange has it.
func (a *running) strangeFound(ctx context.Context, c *http.Client) (float64, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, self) // without a standard input, so it ends at once
	cmd.Env = append(os.Environ(), workerRole+"="+roleOf(a.library, a.backing, "strange"))
	if out, err := cmd.Output(); err != nil {
		if len(out) > 0 {
			return 0, fmt.Errorf("it began with %q and ended with %w", out, err)
		}
		return 0, nil
	}
	b, err := a.filled(ctx, c)
	if err != nil {
		return 0, err
	}
	status, _, err := b.get(ctx, "/strange")
	switch {
	case err != nil:
		return 0, err
	case status >= http.StatusInternalServerError:
		return 1, nil
	}
	return 2, nil
}
