package redisstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/valkey-io/valkey-go"

	"github.com/holdfast-session/holdfast/store"
)

const (
	// outage is for how long calls that are refused are tried again while nobody
	// answers at all. Then each is tried once.
	outage = 2 * time.Second

	firstPause   = 4 * time.Millisecond
	longestPause = 256 * time.Millisecond
)

// A call is a script, or else a command, with one key. Nothing in it is retained once
// it has an answer.
type call struct {
	script    *script
	command   string
	key       string
	args      []string
	replicate bool // and wait until replicas have it
	whole     bool // Redis has forgotten the script
	unsure    bool // a reply was lost: perhaps it was made once already
	done      bool
}

// errReplicas means that too few replicas have a change.
var errReplicas = errors.New("too few replicas have it")

// build makes a command of the call.
func (s *Store) build(c *call) valkey.Completed {
	b := s.client.B()
	if c.script == nil {
		return b.Arbitrary(c.command).Keys(c.key).Args(c.args...).Build()
	}
	args := c.args
	if s.shift != nil {
		args = append(args[:len(args):len(args)], strconv.FormatInt(s.shift.Load(), 10))
	}
	if c.whole {
		return b.Eval().Script(c.script.text).Numkeys(1).Key(c.key).Arg(args...).Build()
	}
	return b.Evalsha().Sha1(c.script.hash).Numkeys(1).Key(c.key).Arg(args...).Build()
}

// An outcome is what is known of a call that has no answer.
type outcome int

const (
	answered  outcome = iota
	forgotten         // Redis does not know the script: it is to be sent whole
	refused           // it was certainly not made, and may be another time
	hopeless          // it was certainly not made, and will not be
	lost              // it was perhaps made
)

// judge tells what became of a call.
func judge(r valkey.ValkeyResult) (outcome, error) {
	err := r.NonValkeyError()
	if err == nil {
		if err = r.Error(); err == nil || valkey.IsValkeyNil(err) {
			return answered, nil
		}
		return judgeReply(err), err
	}
	var dial *net.OpError
	var reply *valkey.ValkeyError
	switch {
	case errors.As(err, &dial) && dial.Op == "dial", errors.Is(err, valkey.ErrNoSlot), errors.Is(err, valkey.ErrNoAddr):
		return refused, err
	case errors.As(err, &reply): // to the greeting on a new connection
		if judgeReply(reply) == refused {
			return refused, err
		}
		return hopeless, err
	}
	return lost, err
}

// judgeReply tells what became of a call that was answered by an error.
func judgeReply(err error) outcome {
	text := err.Error()
	if _, inner, ok := strings.Cut(text, "@user_script"); ok && strings.HasPrefix(text, "ERR ") { // Redis 6
		if i := strings.Index(inner, ": -"); i >= 0 {
			text = inner[i+len(": -"):]
		}
	}
	code, _, _ := strings.Cut(text, " ")
	switch strings.TrimPrefix(code, "-") {
	case "NOSCRIPT":
		return forgotten
	case "LOADING", "CLUSTERDOWN", "TRYAGAIN", "MASTERDOWN", "READONLY", "BUSY", "NOREPLICAS", "MISCONF", "MOVED", "ASK", "OOM":
		return refused // before it changed anything
	case "NOAUTH", "WRONGPASS", "NOPERM", "CROSSSLOT", "WRONGTYPE":
		return hopeless
	}
	return lost
}

// one makes a call, and repeats it while it is refused or its reply is lost. It has the
// same tokens then, so that is the same to the session.
func (s *Store) one(ctx context.Context, c *call) (valkey.ValkeyMessage, error) {
	if err := ctx.Err(); err != nil {
		return valkey.ValkeyMessage{}, fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	ctx, cancel := s.limited(ctx)
	defer cancel()
	for try := 0; ; try++ {
		var r valkey.ValkeyResult
		if c.replicate {
			r = s.replicated(ctx, c)
		} else {
			r = s.client.Do(ctx, s.build(c))
		}
		how, err := judge(r)
		s.heard(how, err)
		switch how {
		case answered:
			v, _ := r.ToMessage() // its error is that it is nil
			return v, nil
		case forgotten:
			c.whole = true
			continue
		case lost:
			s.loses(c)
		}
		if !s.again(ctx, how, err, try) {
			return valkey.ValkeyMessage{}, s.failure(ctx, c.unsure, err)
		}
	}
}

// several makes calls together; those of one bucket are made in their order. All of them
// have answers, or its error is what became of the last that has none.
func (s *Store) several(ctx context.Context, calls []call) ([]valkey.ValkeyMessage, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	ctx, cancel := s.limited(ctx)
	defer cancel()
	answers := make([]valkey.ValkeyMessage, len(calls))
	unsure := false
	for try := 0; ; try++ {
		// A connection that broke may be at those of the last try still.
		commands := make([]valkey.Completed, 0, len(calls))
		for i := range calls {
			if c := &calls[i]; !c.done {
				commands = append(commands, s.build(c))
			}
		}
		if len(commands) == 0 {
			return answers, nil
		}
		worst, why := answered, error(nil)
		results := s.client.DoMulti(ctx, commands...)
		for i := range calls {
			c := &calls[i]
			if c.done {
				continue
			}
			how, err := judge(results[0])
			s.heard(how, err)
			switch how {
			case answered:
				c.done = true
				answers[i], _ = results[0].ToMessage()
			case forgotten:
				c.whole = true
			case lost:
				s.loses(c)
				unsure = true
			}
			if how >= worst {
				worst, why = how, err
			}
			results = results[1:]
		}
		if worst > forgotten && !s.again(ctx, worst, why, try) {
			return answers, s.failure(ctx, unsure, why)
		}
	}
}

// limited gives a call the time that it may take, if its caller has not.
func (s *Store) limited(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, s.o.Timeout)
}

// again waits before a call is made once more, and reports whether it is.
func (s *Store) again(ctx context.Context, how outcome, err error, try int) bool {
	if ctx.Err() != nil || how == hopeless || s.closed.Load() || isFull(err) || errors.Is(err, errReplicas) {
		return false
	}
	if since := s.silent.Load(); since != 0 && time.Since(s.began)-time.Duration(since) > outage {
		return false
	}
	pause := longestPause
	if try < 6 {
		pause = firstPause << try
	}
	timer := time.NewTimer(pause/2 + rand.N(pause))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// loses notes that the reply to a call was lost.
func (s *Store) loses(c *call) {
	c.unsure = true
	if s.lost != nil && c.script != nil && c.script.change {
		s.lost()
	}
}

// heard notes whether anybody answers.
func (s *Store) heard(how outcome, err error) {
	if how == answered || how == forgotten {
		if s.silent.Load() != 0 {
			s.silent.Store(0)
		}
		return
	}
	if _, reply := valkey.IsValkeyErr(err); !reply && !errors.Is(err, context.Canceled) && !errors.Is(err, errReplicas) {
		s.silent.CompareAndSwap(0, max(1, int64(time.Since(s.began))))
	}
}

// failure is the error of a call without an answer.
func (s *Store) failure(ctx context.Context, unsure bool, err error) error {
	how := store.ErrUnavailable
	switch {
	case isFull(err):
		how = store.ErrFull
	case unsure:
		how = store.ErrUnsure
	}
	if ctx.Err() != nil && !errors.Is(err, ctx.Err()) {
		err = fmt.Errorf("%w: %w", ctx.Err(), err)
	}
	return fmt.Errorf("%w: redis: %w", how, err)
}

func isFull(err error) bool {
	_, reply := valkey.IsValkeyErr(err)
	return reply && strings.Contains(err.Error(), "OOM ")
}

// replicated makes a change, and waits on the same connection until replicas have it.
func (s *Store) replicated(ctx context.Context, c *call) valkey.ValkeyResult {
	r := s.replicatedBy(ctx, s.client, false, c)
	reply, ok := valkey.IsValkeyErr(r.Error())
	if !ok {
		return r
	}
	// A dedicated connection does not go where it is sent.
	addr, asked := reply.IsAsk()
	if !asked {
		if addr, ok = reply.IsMoved(); !ok {
			return r
		}
	}
	if node, ok := s.client.Nodes()[addr]; ok {
		return s.replicatedBy(ctx, node, asked, c)
	}
	return r
}

func (s *Store) replicatedBy(ctx context.Context, on valkey.Client, asking bool, c *call) valkey.ValkeyResult {
	client, release := on.Dedicate()
	defer release()
	commands := make([]valkey.Completed, 0, 3)
	if asking {
		commands = append(commands, client.B().Asking().Build())
	}
	commands = append(commands, s.build(c),
		client.B().Wait().Numreplicas(int64(s.o.WaitReplicas)).Timeout(s.o.WaitTimeout.Milliseconds()).Build())
	results := client.DoMulti(ctx, commands...)
	if asking {
		results = results[1:]
	}
	change, wait := results[0], results[1]
	if change.Error() != nil {
		return change
	}
	switch n, err := wait.AsInt64(); {
	case err != nil:
		return valkey.NewErrorResult(fmt.Errorf("%w: WAIT: %v", errReplicas, err))
	case n < int64(s.o.WaitReplicas):
		return valkey.NewErrorResult(fmt.Errorf("%w: %d of %d after %v", errReplicas, n, s.o.WaitReplicas, s.o.WaitTimeout))
	}
	return change
}
