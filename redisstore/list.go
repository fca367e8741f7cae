package redisstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

const (
	// defaultPage is how many sessions a page of a list has by default.
	defaultPage = 500
	// listBuckets is how many buckets are looked into together.
	listBuckets = 128
	// settling is how long a session may be in a subject's set that is not there (yet).
	settling = time.Minute
)

// announce puts an application into the list of all, once in this process.
func (s *Store) announce(ctx context.Context, a *application) error {
	if a.announced.Load() {
		return nil
	}
	if _, err := s.one(ctx, &call{command: "SADD", key: s.keys.apps(), args: []string{a.name}}); err != nil {
		return err
	}
	a.announced.Store(true)
	return nil
}

// register puts a session into the set of its subject, before it has the subject: what
// is in the set is looked at, so that a session too many costs nothing, and one that is
// missing would not be signed out.
func (s *Store) register(ctx context.Context, a *application, session, subject string, timeout time.Duration) error {
	if subject == "" {
		return nil
	}
	c := s.registering(a, strings.Clone(session), strings.Clone(subject), 2*timeout, true)
	_, err := s.one(ctx, &c)
	return err
}

// registering keeps the set for as long as the session may live without the sweep
// meeting it, which puts it into the set again.
func (s *Store) registering(a *application, session, subject string, keep time.Duration, now bool) call {
	keep = min(keep, 10*365*24*time.Hour) + 2*24*time.Hour
	return call{script: s.scripts.register, key: a.keys.subject(subject), args: []string{session, itoa(micros(keep)), string(flag(now))}}
}

// unregister takes sessions out of the set of a subject that they do not have any more.
func (s *Store) unregister(ctx context.Context, a *application, subject string, sessions ...string) error {
	c := s.unregistering(a, subject, sessions)
	_, err := s.one(ctx, &c)
	return err
}

func (s *Store) unregistering(a *application, subject string, sessions []string) call {
	return call{script: s.scripts.unregister, key: a.keys.subject(subject), args: append([]string{itoa(micros(settling))}, sessions...)}
}

// A place is where a list is: after a session, of a bucket, of an application. Of a
// subject's sessions the bucket is 0.
type place struct {
	app     string
	bucket  int
	session string
}

func (p place) String() string {
	return fmt.Sprintf("%d.%d.%s%s", p.bucket, len(p.app), p.app, p.session)
}

func parsePlace(s string) (place, error) {
	bucket, rest, _ := strings.Cut(s, ".")
	length, rest, _ := strings.Cut(rest, ".")
	b, err1 := strconv.Atoi(bucket)
	n, err2 := strconv.Atoi(length)
	if err1 != nil || err2 != nil || b < 0 || n < 0 || n > len(rest) {
		return place{}, fmt.Errorf("redisstore: Query.After %q is nothing that List returned", s)
	}
	return place{rest[:n], b, rest[n:]}, nil
}

// List implements [store.Lister]. It reads the store's own indexes, and never the keys
// of others. Sessions come by application, and in an order that means nothing.
func (s *Store) List(ctx context.Context, q store.Query) (page []store.Listed, next string, err error) {
	if err := ctx.Err(); err != nil {
		return nil, "", err
	}
	ctx, cancel := s.limited(ctx)
	defer cancel()
	if q.Limit <= 0 {
		q.Limit = defaultPage
	}
	var from place
	if q.After != "" {
		if from, err = parsePlace(q.After); err != nil {
			return nil, "", err
		}
	}
	apps := []string{q.App}
	if q.App == "" {
		if apps, err = s.applications(ctx); err != nil {
			return nil, "", err
		}
	}
	for _, app := range apps {
		if app < from.app {
			continue
		}
		if app > from.app {
			from = place{app: app}
		}
		a := s.apps.get(s, app)
		for from.bucket < s.keys.buckets {
			if page, from, err = s.list(ctx, a, q, from, page); err != nil {
				return nil, "", err
			}
			if len(page) == q.Limit {
				return page, from.String(), nil
			}
		}
	}
	return page, "", nil
}

// applications are all that have sessions, or have had.
func (s *Store) applications(ctx context.Context) ([]string, error) {
	v, err := s.one(ctx, &call{command: "SMEMBERS", key: s.keys.apps()})
	if err != nil {
		return nil, err
	}
	apps, err := v.AsStrSlice()
	slices.Sort(apps)
	return apps, err
}

// list appends what there is in the next buckets, or of the subject, to page, until that
// is full, and returns where to go on.
func (s *Store) list(ctx context.Context, a *application, q store.Query, from place, page []store.Listed) ([]store.Listed, place, error) {
	var calls []call
	if q.Subject != "" {
		calls = append(calls, call{command: "ZRANGE", key: a.keys.subject(q.Subject), args: []string{"0", "-1"}})
	} else {
		for bucket := from.bucket; bucket < min(from.bucket+listBuckets, s.keys.buckets); bucket++ {
			calls = append(calls, call{command: "ZRANGE", key: a.keys.index(bucket), args: []string{"0", "-1"}})
		}
	}
	answers, err := s.several(ctx, calls)
	if err != nil {
		return nil, from, err
	}
	for _, v := range answers {
		sessions, err := v.AsStrSlice()
		if err != nil {
			return nil, from, errors.Join(errReply, err)
		}
		slices.Sort(sessions)
		i, found := slices.BinarySearch(sessions, from.session)
		if found {
			i++
		}
		for sessions = sessions[i:]; len(sessions) > 0; {
			batch := sessions[:min(q.Limit-len(page), len(sessions), visitBatch)]
			sessions = sessions[len(batch):]
			if page, err = s.peek(ctx, a, q, batch, page); err != nil {
				return nil, from, err
			}
			from.session = batch[len(batch)-1]
			if len(page) == q.Limit {
				return page, from, nil
			}
		}
		from = place{app: from.app, bucket: from.bucket + 1}
	}
	if q.Subject != "" {
		from.bucket = s.keys.buckets
	}
	return page, from, nil
}

// peek appends the sessions that are there to page.
func (s *Store) peek(ctx context.Context, a *application, q store.Query, sessions []string, page []store.Listed) ([]store.Listed, error) {
	calls := make([]call, len(sessions))
	for i, session := range sessions {
		calls[i] = call{script: s.scripts.peek, key: a.keys.session(session), args: []string{string(a.begin(0))}}
	}
	answers, err := s.several(ctx, calls)
	if err != nil {
		return nil, err
	}
	var others []string
	for i, v := range answers {
		ans, err := parseAnswer(v)
		if err != nil {
			return nil, err
		}
		one := store.Listed{ID: store.ID{App: a.name, Session: sessions[i]}}
		if ans.code == codeOK {
			if err := parseHeader(ans.text(1), &one.Record); err != nil {
				return nil, err
			}
			if one.Record.Locked {
				one.Record.LockAge = duration(ans.int(0))
			}
			if q.Subject == "" || one.Record.Subject == q.Subject {
				page = append(page, one)
				continue
			}
		}
		others = append(others, sessions[i])
	}
	if q.Subject != "" && len(others) > 0 {
		_ = s.unregister(ctx, a, q.Subject, others...) // else the next list
	}
	return page, nil
}
