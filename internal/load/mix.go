package load

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// An op is a kind of request.
type op int

const (
	opLoad op = iota
	opLock
	opSave
	opUnlock
	opTouch
	opCreate
	opRemove
)

var opNames = [...]string{"load", "lock", "save", "unlock", "touch", "create", "remove"}

// A Mix says what is asked for and how often: sequences of requests about one
// session each, with weights.
type Mix []sequence

type sequence struct {
	steps  []op
	weight int
}

// ParseMix reads a mix: sequences separated by commas, each the names of requests
// joined by "+", with ":" and a weight if it is not 1. For example
// "load:80,lock+save:20".
func ParseMix(s string) (Mix, error) {
	var m Mix
	for part := range strings.SplitSeq(s, ",") {
		names, weight, weighted := strings.Cut(strings.TrimSpace(part), ":")
		q := sequence{weight: 1}
		if weighted {
			n, err := strconv.Atoi(weight)
			if err != nil || n < 1 {
				return nil, fmt.Errorf("mix %q: the weight %q is not a number from 1", s, weight)
			}
			q.weight = n
		}
		for name := range strings.SplitSeq(names, "+") {
			i := slices.Index(opNames[:], name)
			if i < 0 {
				return nil, fmt.Errorf("mix %q: there is no request %q, only %s", s, name, strings.Join(opNames[:], ", "))
			}
			q.steps = append(q.steps, op(i))
		}
		if err := q.check(); err != nil {
			return nil, fmt.Errorf("mix %q: %w", s, err)
		}
		m = append(m, q)
	}
	return m, nil
}

// check refuses what no session can go through time and again.
func (q *sequence) check() error {
	for i, o := range q.steps {
		switch {
		case o == opCreate && i > 0:
			return fmt.Errorf("create can only come first, since it makes a session of its own")
		case o == opRemove && (q.steps[0] != opCreate || i < len(q.steps)-1):
			return fmt.Errorf("remove can only end a sequence that began with create, which else runs out of sessions")
		case o == opUnlock && !slices.Contains(q.steps[:i], opLock):
			return fmt.Errorf("unlock needs a lock before it")
		}
	}
	return nil
}

// held reports whether the sequence leaves its session locked.
func (q *sequence) held() bool {
	held := false
	for _, o := range q.steps {
		switch o {
		case opLock:
			held = true
		case opSave, opUnlock, opRemove:
			held = false
		}
	}
	return held
}

// checkPlain refuses what a foreign server cannot do.
func (m Mix) checkPlain() error {
	for _, q := range m {
		if q.held() {
			return fmt.Errorf("this server is not Holdfast's, and grants a lock once: end the sequence with save or unlock, as in lock+save")
		}
	}
	return nil
}

// checkHot refuses what connections cannot do to a session that they share.
func (m Mix) checkHot() error {
	for _, q := range m {
		seen := q.steps[0] == opCreate // its session is its own
		for _, o := range q.steps {
			seen = seen || o == opLoad || o == opLock
			if o == opSave && !seen {
				return fmt.Errorf("a session that all connections share can be saved only after load or lock, as in load+save")
			}
		}
		if q.held() {
			return fmt.Errorf("a session that all connections share must be given up again: end the sequence with save or unlock, as in lock+save")
		}
	}
	return nil
}

// uses returns the requests that the mix has, in the order of opNames.
func (m Mix) uses() []op {
	var used []op
	for o := range op(len(opNames)) {
		if slices.ContainsFunc(m, func(q sequence) bool { return slices.Contains(q.steps, o) }) {
			used = append(used, o)
		}
	}
	return used
}

func (m Mix) weight() int {
	sum := 0
	for _, q := range m {
		sum += q.weight
	}
	return sum
}

// at returns the sequence that a number below weight stands for.
func (m Mix) at(n int) *sequence {
	for i := range m {
		if n -= m[i].weight; n < 0 {
			return &m[i]
		}
	}
	return &m[len(m)-1]
}
