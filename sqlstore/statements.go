package sqlstore

import (
	"database/sql"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/holdfast-session/holdfast/store"
)

// The states of a row.
const (
	stateAlive   = 0 // a session, which may have expired without anybody having noticed
	stateEnded   = 1 // a tombstone
	statePending = 2 // a tombstone whose end is still to be delivered: it has the content yet
)

// A param is a parameter of the statements. In their text it is a colon and its name.
type param int

const (
	pID param = iota
	pApp
	pAppHash
	pSession
	pCookie  // of a lock that is taken
	pOwner   // of a lock that is taken, or asked about
	pMyOwner // with pMyCookie: the lock that the caller has, 0 for any
	pMyCookie
	pStale
	pVersion
	pVersion1
	pVersion2
	pVersion3
	pAcquired
	pNext
	pTimeout
	pSlide
	pCreated
	pHasCreated
	pFlags
	pSubject
	pSubjectHash
	pPacking
	pItems
	pHold
	pReason
	pMovedTo
	pWanted // 1 if ends are wanted of every application
	pQuiet  // 1 if this end is not delivered
	pNewID
	pAfter
	pUpTo
	pLease
	pTurn // until when the turn at sweeping is that the caller has
	pLimit
	params
)

var paramNames = [params]string{
	pID: "id", pApp: "app", pAppHash: "app_hash", pSession: "session", pCookie: "cookie", pOwner: "owner",
	pMyOwner: "my_owner", pMyCookie: "my_cookie", pStale: "stale", pVersion: "version", pVersion1: "version1",
	pVersion2: "version2", pVersion3: "version3", pAcquired: "acquired", pNext: "next", pTimeout: "timeout", pSlide: "slide",
	pCreated: "created", pHasCreated: "has_created", pFlags: "flags", pSubject: "subject", pSubjectHash: "subject_hash", pPacking: "packing",
	pItems: "items", pHold: "hold", pReason: "reason", pMovedTo: "moved_to", pWanted: "wanted", pQuiet: "quiet",
	pNewID: "new_id", pAfter: "after", pUpTo: "upto", pLease: "lease", pTurn: "turn", pLimit: "limit",
}

// args are the values of parameters.
type args [params]any

// A statement is the text of one, in a dialect, with the parameters in the order in
// which the driver wants them.
type statement struct {
	text  string
	order []place

	mu       sync.Mutex
	prepared *sql.Stmt // where the dialect prepares

	gathering *gathering // nil if its calls are made one by one
}

// A place is that of a parameter: which one it is, and of which of the sessions that the
// statement is for.
type place struct {
	session int
	param   param
}

// The names that stand in the texts for what is put in last: the table, the table beside
// it, and the time.
const (
	inTable = "{table}"
	inMeta  = "{meta}"
	inNow   = "{now}"
)

// compile puts the dialect's parameters and the names into a text.
func compile(d dialect, n names, text string) *statement {
	st := new(statement)
	numbers := make(map[place]int)
	text = paramPattern.ReplaceAllStringFunc(text, func(name string) string {
		name, session, _ := strings.Cut(name[1:], "@")
		p := place{param: paramNamed(name)}
		p.session, _ = strconv.Atoi(session)
		number, known := numbers[p]
		if !known || !d.reuses() {
			st.order = append(st.order, p)
			number = len(st.order)
			numbers[p] = number
		}
		return d.param(number)
	})
	st.text = n.replacer().Replace(text)
	return st
}

var paramPattern = regexp.MustCompile(`:[a-z][a-z0-9_]*(@[0-9]+)?`)

func paramNamed(name string) param {
	for p, known := range paramNames {
		if known == name {
			return param(p)
		}
	}
	panic("sqlstore: there is no parameter " + name)
}

// several turns the text of a statement for one session, which has the condition id = :id,
// into one for so many, in which each parameter is that of the row at hand: those of the
// third session have @2 behind their names. It finds rows by their key as the other does.
func several(d dialect, text string, sessions int) string {
	before, after, found := strings.Cut(text, "id = :id")
	if !found {
		panic("sqlstore: not a statement for one session: " + text)
	}
	ids := make([]string, sessions)
	for i := range ids {
		ids[i] = fmt.Sprintf(":id@%d", i)
	}
	each := func(text string) string {
		return paramPattern.ReplaceAllStringFunc(text, func(name string) string {
			var b strings.Builder
			b.WriteString("CASE id")
			for i, id := range ids {
				fmt.Fprintf(&b, " WHEN %s THEN %s", id, d.typed(fmt.Sprintf("%s@%d", name, i), paramNamed(name[1:]).typ()))
			}
			return b.String() + " END"
		})
	}
	return each(before) + "id IN (" + strings.Join(ids, ", ") + ")" + each(after)
}

// values returns the arguments in the statement's order, for one session or several. Those
// of sessions that are not given are NULL, which is no session's key.
func (st *statement) values(a ...*args) []any {
	values := make([]any, len(st.order))
	for i, p := range st.order {
		if p.session < len(a) {
			values[i] = a[p.session][p.param]
		}
		if values[i] == nil {
			values[i] = p.param.null()
		}
	}
	return values
}

// typ is the type of the columns that a parameter is for.
func (p param) typ() columnType {
	switch p {
	case pID, pNewID:
		return typeKey
	case pApp, pSession, pSubject, pMovedTo:
		return typeBytes
	case pItems:
		return typeBody
	}
	return typeInt
}

// null is NULL as a parameter that is left out: with its type, which SQL Server needs.
func (p param) null() any {
	if p.typ() == typeInt {
		return sql.NullInt64{}
	}
	return []byte(nil)
}

// peekColumns are what a session is without its content, and the time; allColumns are
// all. Both are read by [row.scan].
const (
	peekColumns = "state, reason, moved_to, ended_at, expires, timeout, version, version1, version2, version3, acquired, " +
		"lock_cookie, lock_owner, lock_date, created, flags, subject, " + inNow
	allColumns  = peekColumns + ", packing, items"
	listColumns = "id, app, session_id, " + peekColumns
	endColumns  = "id, app, session_id, " + allColumns
)

// Conditions.
const (
	// isThere: the row is a session that has not expired.
	isThere = "id = :id AND state = 0 AND expires > " + inNow
	isFree  = "lock_date = 0"
	// isMine: the lock is the one that the caller names. A parameter takes its type from
	// where it stands first.
	isMine = "(lock_owner = :my_owner OR :my_owner = 0) AND (lock_cookie = :my_cookie OR :my_cookie = 0)"
)

// statements are all that a store says to its database. In an UPDATE, what an assignment
// reads is assigned after it: MySQL assigns from left to right.
type statements struct {
	load, peek           *statement
	lock                 *statement // returns allColumns where the dialect returns
	mark                 *statement // marks a lock as waited for; returns peekColumns
	touch                *statement
	create               *statement
	save, saveMine, hold *statement // without a lock; with one; with one that is kept
	unlock               *statement
	remove, removeMine   *statement
	expire               *statement
	forget, rename       *statement // a tombstone that is in the way of a new session

	wantEnds            *statement
	claim, claimed      *statement // claim returns endColumns where the dialect returns
	ack, ackRenamed     *statement
	tooMany, forgetEnds *statement

	turn, turnUntil                      *statement // at sweeping, for one process of all
	keepTurn, turnOver                   *statement // for who has it
	due                                  *statement // whether a session is
	expireFirst, delayFirst, forgetFirst *statement

	list, listSubject *statement

	// For several sessions at once, by how many: 2, 4 and so on. They return the key of
	// each before the columns, where the dialect returns. Empty where it does not gather.
	loadAll, lockAll, saveMineAll, unlockAll []*statement
}

// sweepBatch is how many rows a statement of a sweep changes at most.
const sweepBatch = 100

func newStatements(d dialect, n names) *statements {
	c := func(text string) *statement { return compile(d, n, text) }
	all := func(text string) (all []*statement) {
		n := n
		n.now = d.once(n.now)
		for k := 2; k <= maxTogether && d.gathers(); k *= 2 {
			all = append(all, compile(d, n, several(d, text, k)))
		}
		return all
	}
	update := func(set, where string) *statement { return c(d.update(inTable, set, where, "")) }
	released := func(set, where string) *statement { return c(d.update(inTable, set, where, d.wake(n.channel))) }
	ends := func(set, where string) *statement {
		return c(d.update(inTable, set, where, d.durable(d.wake(n.channel))))
	}
	relaxed := func(columns string) string { // of a row: its state is the first
		return d.relaxed("state") + strings.TrimPrefix(columns, "state")
	}
	restarted := d.greatest(inNow+" + slide", "CASE WHEN lock_date <> 0 THEN lock_date + lock_timeout ELSE 0 END")
	kept := inNow + " + " + d.least(d.greatest("slide", "2 * lock_timeout"), fmt.Sprint(keepAtMost.Microseconds()))
	wanted := "(:wanted = 1 OR EXISTS (SELECT 1 FROM " + inMeta + " WHERE kind = " + fmt.Sprint(metaEnds) + " AND meta_id = app_hash))"

	const (
		advance = "version3 = version2, version2 = version1, version1 = version, version = :next, items = :items, packing = :packing, " +
			"timeout = :timeout, slide = :slide, flags = :flags, subject = :subject, subject_hash = :subject_hash, "
		unseen = " AND version = :version AND version <> :next AND version1 <> :next AND version2 <> :next AND version3 <> :next"
		free   = "lock_owner = 0, lock_date = 0"
	)
	due := "due = " + d.least("due", inNow+" + :slide")

	// What a session becomes that ended at a time for a reason. Of the ends that somebody
	// wants, the row keeps the content until they are acknowledged.
	ended := func(at, reason, movedTo string) string {
		is := "NOT (" + d.odd("flags") + ") AND :quiet = 0 AND " + wanted
		return strings.Join([]string{
			"ended_at = " + at, "reason = " + reason, "moved_to = " + movedTo, "due = " + kept, "subject_hash = NULL",
			"lease = CASE WHEN " + is + " THEN " + at + " ELSE NULL END",
			"items = CASE WHEN " + is + " THEN items ELSE NULL END",
			"state = CASE WHEN " + is + " THEN 2 ELSE 1 END",
			free,
		}, ", ")
	}
	removed := ended(inNow, ":reason", ":moved_to")
	expired := ended("expires", fmt.Sprint(int(store.Expired)), "NULL")
	const isExpired = "state = 0 AND expires <= " + inNow
	batch := fmt.Sprint(sweepBatch)
	isTurn := fmt.Sprintf("kind = %d AND meta_id = 0", metaSweep)
	const (
		isDue     = "state = 0 AND due <= " + inNow
		forgotten = "state = 1, lease = NULL, items = NULL"
		listed    = "state = 0 AND expires > " + inNow + " AND id > :after AND id <= :upto"
	)
	load := func(columns string) string { return "SELECT " + columns + " FROM " + inTable + " WHERE id = :id" }
	lock := func(columns string) string {
		return d.update(inTable,
			"lock_cookie = CASE WHEN lock_date <> 0 AND lock_owner = :owner THEN lock_cookie ELSE :cookie END, "+
				"acquired = version, waited = CASE WHEN lock_date <> 0 THEN waited ELSE 0 END, lock_timeout = :stale, "+
				"expires = "+d.greatest("expires", d.greatest(inNow+" + slide", inNow+" + :stale"))+", "+
				"lock_owner = :owner, lock_date = "+inNow,
			isThere+" AND ("+isFree+" OR lock_owner = :owner OR (lock_date <= "+inNow+" - :stale AND :stale > 0))", columns)
	}
	saveMine := func(columns string) string {
		return d.update(inTable, advance+due+", expires = "+inNow+" + :slide, "+free, isThere+" AND ("+isFree+" OR ("+isMine+"))"+unseen, columns)
	}
	unlock := func(columns string) string {
		return d.update(inTable, "expires = "+inNow+" + slide, "+free, isThere+" AND lock_date <> 0 AND "+isMine, columns)
	}
	wake := d.wake(n.channel)
	return &statements{
		load:  c(load(allColumns)),
		peek:  c("SELECT " + peekColumns + " FROM " + inTable + " WHERE id = :id"),
		lock:  c(lock(relaxed(allColumns))),
		mark:  c(d.update(inTable, "waited = 1", isThere+" AND lock_date <> 0 AND lock_owner <> :owner", relaxed(peekColumns))),
		touch: c(d.update(inTable, "expires = "+restarted, isThere, d.relaxed(""))),
		create: c(d.insert(inTable,
			"id, app, app_hash, session_id, state, created, expires, due, timeout, slide, version, version1, version2, version3, acquired, "+
				"lock_cookie, lock_owner, lock_date, lock_timeout, waited, flags, subject, subject_hash, reason, ended_at, packing, items",
			":id, :app, :app_hash, :session, 0, CASE WHEN :has_created = 1 THEN :created ELSE "+inNow+" * 1000 END, "+inNow+" + :slide, "+inNow+" + :slide, :timeout, :slide, "+
				":version, :version1, :version2, :version3, :acquired, "+
				":cookie, :owner, CASE WHEN :hold = 1 THEN "+inNow+" ELSE 0 END, 0, 0, :flags, :subject, :subject_hash, 0, 0, :packing, :items")),
		save:     released(advance+due+", expires = "+inNow+" + :slide", isThere+" AND "+isFree+unseen),
		saveMine: c(saveMine(wake)),
		hold: update(advance+due+", expires = "+d.greatest(inNow+" + :slide", inNow+" + lock_timeout")+", acquired = :next, "+
			"lock_cookie = CASE WHEN lock_date = 0 THEN :cookie ELSE lock_cookie END, "+
			"lock_owner = CASE WHEN lock_date = 0 THEN :owner ELSE lock_owner END, lock_date = "+inNow,
			isThere+" AND ("+isFree+" OR ("+isMine+"))"+unseen),
		unlock:     c(unlock(d.relaxed(wake))),
		remove:     ends(removed, isThere),
		removeMine: ends(removed, isThere+" AND lock_date <> 0 AND "+isMine),
		expire:     released(expired, "id = :id AND "+isExpired),
		forget:     c("DELETE FROM " + inTable + " WHERE id = :id AND state = 1"),
		rename:     update("id = :new_id", "id = :id AND state = 2"),

		wantEnds: c(d.insert(inMeta, "kind, meta_id, value", fmt.Sprint(metaEnds)+", :app_hash, 1")),
		claim: c(d.updateFirst(":limit", inTable, "lease = "+inNow+" + :lease, lock_owner = :owner",
			"app_hash = :app_hash AND lease <= "+inNow, "lease", "lease <= "+inNow, endColumns)),
		claimed: c("SELECT " + endColumns + " FROM " + inTable + " WHERE app_hash = :app_hash AND lock_owner = :owner" +
			" AND lease > " + inNow + " - 60000000"), // all that were claimed just now, with any lease
		ack:        update(forgotten, "id = :id AND app_hash = :app_hash AND version = :version AND state = 2"),
		ackRenamed: update(forgotten, "app_hash = :app_hash AND lease IS NOT NULL AND version = :version AND state = 2"),
		tooMany:    c(d.first("1", ":limit", "due", inTable, "state = 2", "due DESC")),
		forgetEnds: c(d.updateFirst(batch, inTable, forgotten, "state = 2 AND due <= :upto", "due", "", "")),

		turn:      c(d.update(inMeta, "value = "+inNow+" + :lease", isTurn+" AND value <= "+inNow, "")),
		turnUntil: c("SELECT value FROM " + inMeta + " WHERE " + isTurn),
		keepTurn:  c(d.update(inMeta, "value = value + :lease", isTurn+" AND value = :turn", "")),
		turnOver:  c(d.update(inMeta, "value = "+inNow+" + :lease", isTurn+" AND value = :turn", "")),
		due:       c(d.first("1", "", "due", inTable, isDue, "due")),
		// What a crash undoes of a sweep, the next one does again.
		expireFirst: c(d.updateFirst(batch, inTable, expired, isDue, "due", isExpired, d.relaxed(""))),
		delayFirst:  c(d.updateFirst(batch, inTable, "due = expires", isDue, "due", "state = 0 AND expires > "+inNow, d.relaxed(""))),
		forgetFirst: c(d.deleteFirst(batch, inTable, "state = 1 AND due <= "+inNow, "due")),

		list:        c(d.first(":limit", "", listColumns, inTable, listed, "id")),
		listSubject: c(d.first(":limit", "", listColumns, inTable, "subject_hash = :subject_hash AND "+listed, "id")),

		loadAll:     all(load("id, " + allColumns)),
		lockAll:     all(lock("id, " + relaxed(allColumns))),
		saveMineAll: all(saveMine(withID(wake))),
		unlockAll:   all(unlock(withID(d.relaxed(wake)))),
	}
}

func withID(columns string) string {
	if columns == "" {
		return "id"
	}
	return "id, " + columns
}
