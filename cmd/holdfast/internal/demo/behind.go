package demo

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-session/holdfast"
	"github.com/holdfast-session/holdfast/store"
)

// behind is what a page shows of its making.
type behind struct {
	Worker, Workers int
	PID             int
	Up              time.Duration // how long the worker has been running
	Mode            string
	Where           string // where sessions are kept in this mode
	Session         string // the hash of the ID
	Age             time.Duration
	Timeout         time.Duration
	Items           []item
	Config          string // the watched file
	Limit, Leak     int64  // bytes; a second
}

// An item is a value in the session.
type item struct{ Name, Value string }

func (s *shop) behind(sess *holdfast.Session) *behind {
	b := &behind{
		Worker: s.Number, Workers: s.Of, PID: os.Getpid(), Up: time.Since(s.began),
		Mode: "StateServer", Where: "in a process of its own, at " + s.StateServer,
		Session: sess.LogID(), Timeout: sess.Timeout(),
		Config: s.Config, Limit: memoryLimit, Leak: leakStep * int64(time.Second/leakEvery),
	}
	if s.Mode == InProc {
		b.Mode, b.Where = "InProc", "in the memory of this worker"
	}
	if s.Handover {
		b.Where += ", and handed over at a recycle"
	}
	if b.Session != "" {
		b.Age = time.Since(sess.Created())
	}
	for name, v := range sess.All() {
		b.Items = append(b.Items, item{name, brief(v)})
	}
	return b
}

// brief writes a value of a session in a few words.
func brief(v any) string {
	switch v := v.(type) {
	case []any:
		parts := make([]string, len(v))
		for i := range v {
			parts[i] = brief(v[i])
		}
		return cut("[" + strings.Join(parts, ", ") + "]")
	case map[string]any:
		return cut(pairs(v, func(k string) string { return k }))
	case map[any]any:
		return cut(pairs(v, func(k any) string { return fmt.Sprint(k) }))
	case string:
		return cut(strconv.Quote(v))
	case time.Time:
		return v.Local().Format(time.TimeOnly)
	default:
		return cut(fmt.Sprint(v))
	}
}

func pairs[K comparable](m map[K]any, name func(K) string) string {
	parts := make([]string, 0, len(m))
	for k, v := range m {
		parts = append(parts, name(k)+": "+brief(v))
	}
	slices.Sort(parts)
	return "{" + strings.Join(parts, ", ") + "}"
}

func cut(s string) string {
	const most = 120
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}

// notices are the messages at the top of a page.
func (s *shop) notices(r *http.Request, sess *holdfast.Session, inCart int) []notice {
	var all []notice
	q := r.URL.Query()
	number := func(name string) int {
		n, _ := strconv.Atoi(q.Get(name))
		return n
	}
	lost := s.lost(r, sess)
	what, kept := "", " Your session was not lost."
	switch {
	case number("killed") != 0:
		what, kept = fmt.Sprintf("Worker process %d is dead.", number("killed")), " Your session is not."
	case number("recycled") != 0:
		what = fmt.Sprintf("Worker %d was recycled.", number("recycled"))
	case q.Has("changed"):
		what = configName + " has changed, and every worker was recycled."
	}
	switch before := pastKey.Get(sess); {
	case lost != nil:
		all = append(all, *lost)
	case before.Title != "" && time.Since(before.At) < pastShown:
		all = append(all, notice{"bad", before.Title, before.Text + " What you put in since is in a new one."})
	case what != "" && sess.LogID() != "":
		all = append(all, notice{"good", what + kept, fmt.Sprintf("This page came from %s, and %s.", s.name(), s.kept(inCart))})
	case what != "":
		all = append(all, notice{"good", what, fmt.Sprintf("This page came from %s. Put something into the cart, and do it again.", s.name())})
	}
	switch {
	case number("gone") != 0:
		all = append(all, notice{"good", fmt.Sprintf("There is no worker process %d any more.", number("gone")), fmt.Sprintf("This page came from %s.", s.name())})
	case number("leaks") != 0:
		all = append(all, notice{"good", fmt.Sprintf("Worker process %d has sprung a leak.", number("leaks")), "When it reaches its memory limit, the host recycles it. Watch it here."})
	case number("touched") != 0:
		all = append(all, notice{"good", configName + " was touched, and nothing was recycled.",
			fmt.Sprintf("Its content is the same. Ignored so far: %d.", number("touched"))})
	}
	if p := bySlug[q.Get("added")]; p != nil && has(cartKey.Get(sess), p.Slug) {
		all = append(all, notice{"good", p.Name + " is in your cart.", ""})
	}
	switch signed := q.Get("signed"); {
	case signed == "in" && userKey.Has(sess):
		all = append(all, notice{"good", "Welcome aboard, " + userKey.Get(sess) + ".", "Your session has a new ID since you signed in; the one before is dead at once."})
	case signed == "out" && !userKey.Has(sess):
		all = append(all, notice{"good", "You are signed out.", "Your session was ended with all that was in it. No request that is still under way brings it back."})
	}
	return all
}

func has(cart []line, slug string) bool {
	for _, l := range cart {
		if l.Slug == slug {
			return true
		}
	}
	return false
}

// name names this worker.
func (s *shop) name() string { return fmt.Sprintf("worker %d (PID %d)", s.Number, os.Getpid()) }

func (s *shop) kept(inCart int) string {
	switch inCart {
	case 0:
		return "everything in your session is still there"
	case 1:
		return "the article in your cart is still there"
	default:
		return fmt.Sprintf("the %d articles in your cart are still there", inCart)
	}
}

// lost says why the session that the visitor's cookie names is not there; nil if it
// is, or if there is no cookie.
func (s *shop) lost(r *http.Request, sess *holdfast.Session) *notice {
	if _, err := r.Cookie(cookieName); err != nil || !sess.IsNew() {
		return nil
	}
	why := sess.Lost()
	ago := age(why.Age) + " ago"
	n := &notice{Kind: "bad", Title: "Your session is gone"}
	switch why.Kind {
	case store.Expired:
		n.Text = fmt.Sprintf("It expired %s: nobody had used it for its timeout of %s.", ago, age(sess.Timeout()))
	case store.Abandoned:
		n.Text = fmt.Sprintf("It was ended %s, by signing out.", ago)
	case store.Regenerated:
		n.Text = fmt.Sprintf("It got another ID %s, and your browser sent the old one.", ago)
	case store.Evicted:
		n.Text = fmt.Sprintf("It was dropped %s, because there was no more room.", ago)
	case store.Damaged:
		n.Text = fmt.Sprintf("It could not be read any more, %s.", ago)
	case store.Moved:
		n.Text = fmt.Sprintf("It was moved to another place %s.", ago)
	case store.Restarted:
		s.restarted(r.Context(), why, n)
	default:
		n.Text = "Nothing is known of it here, not even why."
	}
	if s.Mode == InProc && s.Of > 1 && !s.Handover && (why.Kind == store.Restarted || why.Kind == store.Unknown) {
		known := ""
		if end, ok := s.lastEnd(r.Context()); ok {
			known = fmt.Sprintf(" Or it ended with this worker’s predecessor at %s, because %s.", end.Time.Local().Format(time.TimeOnly), because(end))
		}
		n.Title = "This worker does not know your session"
		n.Text = fmt.Sprintf("%d workers take turns here, each with sessions of its own. Yours is not in %s; it may be in another one: load the page again, and it flickers back. "+
			"This is what a web garden does to InProc; run the demo without --mode inproc to see it mended.%s", s.Of, s.name(), known)
	}
	return n
}

// restarted explains the loss of a session whose store began anew.
func (s *shop) restarted(ctx context.Context, lost store.Reason, n *notice) {
	if s.Mode != InProc {
		n.Text = fmt.Sprintf("It was kept in the memory of the state server, and that started %s ago. A cart survives whatever happens to the workers, but not the end of the process that keeps it.", age(lost.Age))
		return
	}
	n.Text = "It was kept in the memory of a worker process, and ended with it."
	if end, ok := s.whyLost(ctx, lost); ok {
		n.Title = fmt.Sprintf("Your session was lost at %s, because %s.", end.Time.Local().Format(time.TimeOnly), because(end))
		n.Text = fmt.Sprintf("It was kept in the memory of worker %d (PID %d), and ended with it.", end.Worker, end.PID)
	}
	if s.Handover {
		n.Text += " A recycle hands sessions over, which a process that is killed cannot. Run the demo without --mode inproc, and the cart survives that as well."
	} else {
		n.Text += " Run the demo with --handover, and the cart survives a recycle; without --mode inproc, it survives everything."
	}
}
