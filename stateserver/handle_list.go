package stateserver

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/holdfast-session/holdfast/store"
)

// The answers to requests about many sessions at once.

const (
	// maxPage is how many sessions or ends one answer has at most.
	maxPage = 1000
	// endsAtATime is how many ends are claimed at a time, and maxEnds how many bytes of
	// them are enough for an answer: what was claimed has to be delivered.
	endsAtATime = 16
	maxEnds     = 1 << 20
)

var errNoApp = errors.New("stateserver: ends are those of one application; its name is missing")

// handleLists answers List, Ended and Ack.
func (c *conn) handleLists() {
	q, err := parseListQuery(c.req.target)
	need := Write
	switch {
	case c.call == callList && q.App == "":
		need = Admin
	case c.call == callList:
		need = Read
	}
	why, ok := c.admit(q.App, need)
	switch {
	case !ok:
		c.deny(why)
	case err != nil:
		c.refuse(err)
	case c.req.bad != 0:
		c.refuse(errBadField)
	case c.call != callList && q.App == "":
		c.refuse(errNoApp)
	case c.call == callList:
		c.handleList(q)
	case c.call == callEnded:
		c.handleEnded(q)
	default:
		c.handleAck(q)
	}
}

func (c *conn) handleList(q listQuery) {
	lister, ok := c.s.Store.(store.Lister)
	if !ok {
		c.unsupported("list its sessions")
		return
	}
	if q.Limit == 0 || q.Limit > maxPage {
		q.Limit = maxPage
	}
	page, next, err := lister.List(c.s.base, q.Query)
	if err != nil {
		c.answer(err)
		return
	}
	all := listAnswer{Sessions: make([]listedSession, 0, len(page)), Next: escaped(next)}
	for i := range page {
		page[i].Record.Body = nil
		if one, ok := listedOf(page[i].ID, &page[i].Record); ok {
			all.Sessions = append(all.Sessions, one)
		}
	}
	c.answerJSON(all)
}

func (c *conn) handleEnded(q listQuery) {
	ender, ok := c.s.Store.(store.Ender)
	if !ok {
		c.unsupported("remember which sessions ended")
		return
	}
	all := endedAnswer{Ends: []endedSession{}}
	limit, size := min(q.Limit, maxPage), 0
	for {
		n := min(limit-len(all.Ends), endsAtATime)
		ends, err := ender.Ended(c.s.base, q.App, n, q.lease)
		if err != nil && len(all.Ends) == 0 {
			c.answer(err)
			return
		}
		for i := range ends {
			if ends[i].Record.Items != nil {
				c.answer(errItems)
				return
			}
			one, ok := listedOf(ends[i].ID, &ends[i].Record)
			if !ok {
				continue
			}
			size += len(one.Body)
			all.Ends = append(all.Ends, endedSession{
				Key:           escaped(ends[i].Key),
				Reason:        ends[i].Reason.Kind.String(),
				Age:           seconds(ends[i].Reason.Age),
				To:            escaped(ends[i].Reason.To),
				listedSession: one,
			})
		}
		if len(ends) < n || len(all.Ends) == limit || size >= maxEnds || err != nil {
			break
		}
	}
	c.answerJSON(all)
}

func (c *conn) handleAck(q listQuery) {
	ender, ok := c.s.Store.(store.Ender)
	if !ok {
		c.unsupported("remember which sessions ended")
		return
	}
	c.answer(ender.Ack(c.s.base, q.App, q.keys))
}

// unsupported answers a call that the store does not have.
func (c *conn) unsupported(what string) {
	c.fail(statusUnsupported, fmt.Sprintf("stateserver: the server keeps its sessions in a %T, which does not %s", c.s.Store, what))
}

// answerJSON answers with v.
func (c *conn) answerJSON(v any) {
	b, err := json.Marshal(v)
	if err != nil {
		c.answer(err)
		return
	}
	if !c.holdAnswer(len(b)) {
		c.deny(refusedMemory)
		return
	}
	c.start(statusOK)
	c.out = append(c.out, "\r\nContent-Type: application/json"...)
	c.finish(alias(b))
}
