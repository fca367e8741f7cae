package sqlstore

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-session/holdfast/store"
)

// What is told of ASPState here needs no server. The values were read in ASP.NET
// databases, or computed by .NET.

func TestASPStateKey(t *testing.T) {
	for name, want := range map[string]string{
		"/LM/W3SVC/1/ROOT":       "2014c0f1",
		"/lm/w3svc/1/Root":       "2014c0f1",
		"/LM/W3SVC/2/ROOT":       "2b7731d2",
		"/LM/W3SVC/1/ROOT/myapp": "6565ceab",
	} {
		const id = "4m4irghotazmxblpyakfaw1d"
		if got := aspKey(id, aspAppID(aspAppName(name))); got != id+want {
			t.Errorf("the key of %s in %s is %q; want %q", id, name, got, id+want)
		}
	}
	if id := aspAppID(aspAppName("/LM/W3SVC/1/ROOT")); id != 538231025 {
		t.Errorf("the application's ID is %d; want 538231025", id)
	}
}

// Names that differ are different in the table, and none is more than the columns take
// or differs from another only in what a server overlooks.
func TestASPStateNames(t *testing.T) {
	more := []string{"a", "A", "a ", " a", strings.Repeat("x", 80), strings.Repeat("x", 81), strings.Repeat("x", 1<<20), digest("a"), digest(digest("a")), "~", "/shop", "/Shop", "/lmx"}
	sessions, apps := make(map[string]string), make(map[string]string)
	for _, name := range slices.Concat(hostile, more) {
		id := aspSessionID(name)
		if other, ok := sessions[id]; ok && other != name {
			t.Errorf("the sessions %q and %q are both %q", name, other, id)
		}
		sessions[id] = name
		if len(id) > 80 || !isPrintable(id) {
			t.Errorf("the session %q is %q", name, id)
		}
		app := aspAppName(name)
		if other, ok := apps[app]; ok && other != name {
			t.Errorf("the applications %q and %q are both %q", name, other, app)
		}
		apps[app] = name
		if app == "" || len(app) > 280 || !isPrintable(app) || app != strings.ToLower(app) || app != strings.TrimRight(app, " ") {
			t.Errorf("the application %q is %q", name, app)
		}
	}
	for _, as := range []string{"4m4irghotazmxblpyakfaw1d", "550e8400-e29b-41d4-a716-446655440000", "CustomID_1"} {
		if got := aspSessionID(as); got != as {
			t.Errorf("the session ID %q, which ASP.NET has as it is, is %q", as, got)
		}
	}
}

func TestASPStateTimeout(t *testing.T) {
	for timeout, want := range map[time.Duration]int32{
		time.Second: 1, 59 * time.Second: 1, time.Minute: 1, 61 * time.Second: 2, 90 * time.Second: 2, 20 * time.Minute: 20,
		1500 * time.Millisecond: 1, 365 * 24 * time.Hour: 525600, 200 * 365 * 24 * time.Hour: (1<<31 - 61 + 59) / 60,
	} {
		seconds, minutes, flags := aspMinutes(timeout)
		if minutes != want {
			t.Errorf("a timeout of %v has %d minutes; want %d", timeout, minutes, want)
		}
		if timeout%time.Minute == 0 && timeout < 68*365*24*time.Hour && flags != 0 {
			t.Errorf("a timeout of %v, whole minutes, needs flags: %b", timeout, flags)
		}
		if flags&(aspUninitialized|aspMoving) != 0 {
			t.Errorf("the seconds of %v are where other flags are: %b", timeout, flags)
		}
		if got := aspTimeout(minutes, flags|aspUninitialized); got != time.Duration(seconds)*time.Second || timeout < time.Hour && got != timeout.Truncate(time.Second)+boolSecond(timeout%time.Second > 0) {
			t.Errorf("a timeout of %v is %v", timeout, got)
		}
	}
	if got := aspTimeout(1<<31-1, 0); got <= 0 {
		t.Errorf("the longest timeout is %v", got)
	}
}

func boolSecond(b bool) time.Duration {
	if b {
		return time.Second
	}
	return 0
}

func TestASPStateVersion(t *testing.T) {
	created := time.Date(2026, 1, 2, 3, 4, 5, 670e6, time.UTC)
	free := &aspRow{cookie: 7, created: created, item: []byte("a")}
	stamp, cookie := aspVersion(free.version())
	if cookie != 7 || stamp != int64(aspStamp(created)) {
		t.Errorf("a version says %d, %d; want %d, 7", stamp, cookie, aspStamp(created))
	}
	seen := map[store.Version]string{free.version(): "free"}
	for what, r := range map[string]*aspRow{
		"another cookie":     {cookie: 8, created: created, item: []byte("a")},
		"another session":    {cookie: 7, created: created.Add(10 * time.Millisecond), item: []byte("a")},
		"locked":             {cookie: 7, created: created, item: []byte("a"), locked: true},
		"locked, other item": {cookie: 7, created: created, item: []byte("b"), locked: true},
	} {
		v := r.version()
		if other, twice := seen[v]; twice || v == 0 {
			t.Errorf("%s: the version %d is that of %s", what, v, other)
		}
		seen[v] = what
	}
}

// vector is an item that .NET wrote.
func vector(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "items", "testdata", "vectors", name+".bin"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A compressed item is raw DEFLATE and FF, as ASP.NET writes it.
func TestASPStateCompression(t *testing.T) {
	s := &ASPState{packer: &packer{max: 1 << 20}, compress: true}
	plain := vector(t, "item_two")
	got, err := s.decode([]byte("kept"), vector(t, "item_two_deflated_mono_zlib"))
	if err != nil || string(got) != "kept"+string(plain) {
		t.Errorf("what .NET compressed is %x, %v; want %x", got, err, plain)
	}
	for _, body := range [][]byte{nil, plain, bytes.Repeat([]byte("ab"), 1<<19), []byte(hex.EncodeToString(plain))} {
		item, err := s.encode(body)
		if err != nil || item[len(item)-1] != 0xff {
			t.Fatalf("encode: %x, %v; want FF at the end", item, err)
		}
		if got, err := s.decode(nil, item); err != nil || !bytes.Equal(got, body) {
			t.Errorf("%d bytes came back as %d, %v", len(body), len(got), err)
		}
	}
	if _, err := s.encode(make([]byte, 1<<20+1)); err == nil {
		t.Error("an item that is too large was encoded")
	}
	if _, err := s.decode(nil, plain); err == nil {
		t.Error("an item that is not compressed was decoded")
	}
}

// aspSchema are the columns of the table of sessions, as ASP.NET's installer makes it.
var aspSchema = map[string]string{
	"SessionId": "nvarchar(88)", "Created": "datetime", "Expires": "datetime", "LockDate": "datetime", "LockDateLocal": "datetime",
	"LockCookie": "int", "Timeout": "int", "Locked": "bit", "SessionItemShort": "varbinary(7000)", "SessionItemLong": "image", "Flags": "int",
}

// The statements name no column that ASPState lacks, change of a row what they may and
// nothing else, and are all about one session, which is alive.
func TestASPStateStatements(t *testing.T) {
	s := newASPStatements(newASPTables("dbo"), "GETUTCDATE()")
	const (
		table = "dbo.ASPStateTempSessions"
		key   = "SessionId = @id AND SessionId = @id COLLATE Latin1_General_BIN2"
		alive = key + " AND Expires > @now"
	)
	item := []string{"SessionItemShort", "SessionItemLong"}
	saved := append([]string{"Timeout", "Flags", "Locked", "LockDate", "LockDateLocal", "Expires", "LockCookie"}, item...)
	column := regexp.MustCompile(`\b[A-Z][a-z]+[A-Za-z]*\b`)
	for name, c := range map[string]struct {
		query string
		sets  []string
		where []string
	}{
		"load":              {s.load, []string{"Expires"}, []string{alive}},
		"touch":             {s.touch, []string{"Expires"}, []string{alive}},
		"lock":              {s.lock, []string{"LockCookie", "Locked", "LockDate", "LockDateLocal", "Expires"}, []string{alive, "(Locked = 0 OR LockCookie = @mine OR"}},
		"unlock":            {s.unlock, []string{"Locked", "Expires"}, []string{alive, "Locked = 1 AND LockCookie = @cookie"}},
		"remove":            {s.remove, nil, []string{alive, "(@cookie = 0 OR Locked = 1 AND LockCookie = @cookie)"}},
		"saveLocked, short": {s.saveLocked[aspShort], saved, []string{alive, "LockCookie = @cookie", "@created"}},
		"saveLocked, long":  {s.saveLocked[aspLong], saved, []string{alive, "LockCookie = @cookie", "@created"}},
		"saveAt, short":     {s.saveAt[aspShort], saved, []string{alive, "Locked = 0 AND LockCookie = @cookie", "@created"}},
		"saveAt, long":      {s.saveAt[aspLong], saved, []string{alive, "Locked = 0 AND LockCookie = @cookie", "@created"}},
		"create, short":     {s.create[aspShort], nil, []string{key + " AND Expires <= @now", "WHERE NOT EXISTS"}},
		"create, long":      {s.create[aspLong], nil, []string{key + " AND Expires <= @now", "WHERE NOT EXISTS"}},
	} {
		if strings.Contains(c.query, ";") || strings.Contains(c.query, "%!") {
			t.Errorf("%s has a semicolon, or is not whole:\n%s", name, c.query)
		}
		bare := regexp.MustCompile(`@\w+|dbo\.\w+|Latin1_General_BIN2`).ReplaceAllString(c.query, "")
		for _, word := range column.FindAllString(bare, -1) {
			if _, ok := aspSchema[word]; !ok {
				t.Errorf("%s names %q, which is no column:\n%s", name, word, c.query)
			}
		}
		for _, where := range c.where {
			if !strings.Contains(c.query, where) {
				t.Errorf("%s has no condition %q:\n%s", name, where, c.query)
			}
		}
		set, _, _ := strings.Cut(c.query, "\nWHERE ")
		if _, after, ok := strings.Cut(set, "UPDATE "+table+" SET "); ok {
			if got := assigned(after); !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(c.sets))) {
				t.Errorf("%s sets %v; want %v", name, got, c.sets)
			}
		} else if c.sets != nil {
			t.Errorf("%s is no UPDATE of %s:\n%s", name, table, c.query)
		}
	}
	for i, want := range []string{"SessionItemShort = CONVERT(varbinary(max), SUBSTRING(@item, 1, @size)), SessionItemLong = NULL", "SessionItemShort = NULL, SessionItemLong = @item"} {
		for _, query := range []string{s.saveAt[i], s.saveLocked[i]} {
			if !strings.Contains(query, want) {
				t.Errorf("no %q in:\n%s", want, query)
			}
		}
	}
	if !strings.Contains(s.saveAt[aspShort], "LockCookie = LockCookie + 1\n") {
		t.Errorf("a Save without a lock does not add one to the cookie:\n%s", s.saveAt[aspShort])
	}
	if kind, _ := aspItem(make([]byte, 7000)); kind != aspShort {
		t.Error("an item of 7,000 bytes is not short")
	}
	if kind, _ := aspItem(make([]byte, 7001)); kind != aspLong {
		t.Error("an item of 7,001 bytes is not long")
	}
}

// assigned are the columns to which the SET of an UPDATE assigns.
func assigned(set string) (columns []string) {
	depth, start := 0, 0
	set = strings.NewReplacer("CASE", "(", "END", ")").Replace(set) + ","
	for i, r := range set {
		switch r {
		case '(':
			depth++
		case ')':
			depth--
		case ',':
			if depth == 0 {
				column, _, _ := strings.Cut(set[start:i], " = ")
				columns = append(columns, strings.TrimSpace(column))
				start = i + 1
			}
		}
	}
	return columns
}

// The installer's tables have ASP.NET's columns, and its procedures ASP.NET's names and
// parameters.
func TestASPStateScript(t *testing.T) {
	script := ASPStateScript()
	for column, typ := range aspSchema {
		if !regexp.MustCompile(`\b` + column + ` ` + regexp.QuoteMeta(typ) + `( COLLATE \w+)?( NOT)? NULL`).MatchString(script) {
			t.Errorf("no column %s %s", column, typ)
		}
	}
	for _, want := range []string{
		"AppId int NOT NULL PRIMARY KEY", "AppName char(280) NOT NULL", "INDEX Index_Expires ON dbo.ASPStateTempSessions (Expires)", "INDEX Index_AppName",
	} {
		if !strings.Contains(script, want) {
			t.Errorf("no %q", want)
		}
	}
	const returns = "@id, @itemShort OUTPUT, @locked OUTPUT, @lockAge OUTPUT, @lockCookie OUTPUT, @actionFlags OUTPUT"
	procedures := map[string]string{
		"TempGetVersion": "@ver OUTPUT", "GetMajorVersion": "@@ver OUTPUT", "GetHashCode": "@input, @hash OUTPUT", "TempGetAppID": "@appName, @appId OUTPUT",
		"TempGetStateItem3": returns, "TempGetStateItemExclusive3": returns, "TempReleaseStateItemExclusive": "@id, @lockCookie",
		"TempInsertUninitializedItem": "@id, @itemShort, @timeout", "TempInsertStateItemShort": "@id, @itemShort, @timeout", "TempInsertStateItemLong": "@id, @itemLong, @timeout",
		"TempUpdateStateItemShort": "@id, @itemShort, @timeout, @lockCookie", "TempUpdateStateItemLong": "@id, @itemLong, @timeout, @lockCookie",
		"TempUpdateStateItemShortNullLong": "@id, @itemShort, @timeout, @lockCookie", "TempUpdateStateItemLongNullShort": "@id, @itemLong, @timeout, @lockCookie",
		"TempRemoveStateItem": "@id, @lockCookie", "TempResetTimeout": "@id", "DeleteExpiredSessions": "",
	}
	for _, p := range aspProcedures {
		params := regexp.MustCompile(` [a-z]+(\(\d+\))?( OUTPUT)?(,|$)`).ReplaceAllString(p.params, "$2$3")
		if want, ok := procedures[p.name]; !ok || params != want {
			t.Errorf("the procedure %s has the parameters %q; want %q", p.name, params, want)
		}
		delete(procedures, p.name)
	}
	if len(procedures) > 0 {
		t.Errorf("these procedures are missing: %v", procedures)
	}
	for batch := range strings.SplitSeq(script, "\nGO\n") {
		if batch != "" && !strings.HasPrefix(batch, "IF OBJECT_ID(N'dbo.") {
			t.Errorf("a batch changes what may be there:\n%s", batch)
		}
	}
}
