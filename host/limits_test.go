package host

import (
	"errors"
	"testing"
	"time"
)

func TestNextTime(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	at := func(s string) time.Time {
		v, err := time.ParseInLocation(time.DateTime, s, berlin)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, c := range []struct {
		now   string
		times []time.Duration
		want  string
	}{
		{"2026-01-31 02:00:00", []time.Duration{3 * time.Hour}, "2026-01-31 03:00:00"},
		{"2026-01-31 03:00:00", []time.Duration{3 * time.Hour}, "2026-02-01 03:00:00"},
		{"2026-01-31 12:00:00", []time.Duration{3 * time.Hour, 18*time.Hour + 30*time.Minute + time.Second}, "2026-01-31 18:30:01"},
		{"2026-12-31 23:59:59", []time.Duration{0}, "2027-01-01 00:00:00"},
		// Summer begins: there is no half past two. It ends: there are two.
		{"2026-03-28 12:00:00", []time.Duration{2*time.Hour + 30*time.Minute}, "2026-03-30 02:30:00"},
		{"2026-03-28 12:00:00", []time.Duration{3 * time.Hour}, "2026-03-29 03:00:00"},
		{"2026-10-24 12:00:00", []time.Duration{2*time.Hour + 30*time.Minute}, "2026-10-25 02:30:00"},
	} {
		if got := nextTime(at(c.now), c.times).Format(time.DateTime); got != c.want {
			t.Errorf("after %s of %v: %s, want %s", c.now, c.times, got, c.want)
		}
	}
}

func TestMemorySamples(t *testing.T) {
	began := time.Now()
	sample := func(mib int64, served uint64, after time.Duration) memorySample {
		return memorySample{mib << 20, served, began.Add(after)}
	}
	for name, c := range map[string]struct {
		before, now memorySample
		want        time.Duration
	}{
		"the first":         {memorySample{}, sample(10, 0, 0), quickSample},
		"idle":              {sample(10, 5, 0), sample(10, 5, time.Second), slowSample},
		"used":              {sample(10, 5, 0), sample(9, 6, time.Second), quickSample},
		"grows slowly":      {sample(10, 5, 0), sample(11, 5, 10*time.Second), slowSample},
		"grows":             {sample(40, 5, 0), sample(70, 5, 3*time.Second), time.Second},
		"grows fast":        {sample(40, 5, 0), sample(90, 5, time.Second), leastSample},
		"grows in steps":    {sample(90, 5, 0), sample(90, 5, 100*time.Millisecond), quickSample},
		"is past the limit": {sample(90, 5, 0), sample(110, 5, time.Second), leastSample},
	} {
		if got := c.now.next(c.before, 100<<20); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestLimitsThatMakeNoSense(t *testing.T) {
	for _, l := range []Limits{
		{Memory: -1}, {Age: -1}, {Idle: -1}, {MemoryPercent: 101}, {MemoryPercent: -1}, {Times: []time.Duration{24 * time.Hour}}, {Times: []time.Duration{-1}},
	} {
		if l.check() == nil {
			t.Errorf("%+v is taken", l)
		}
	}
	if err := (&Health{Path: "healthz"}).check(); err == nil {
		t.Error("a path without a slash is taken")
	}
}

func TestLimitOfMemory(t *testing.T) {
	total := totalMemory()
	for _, c := range []struct {
		l    Limits
		want int64
	}{
		{Limits{}, 0},
		{Limits{Memory: 1000}, 1000},
		{Limits{MemoryPercent: 50}, total / 2},
		{Limits{Memory: 1000, MemoryPercent: 50}, 1000},
		{Limits{Memory: total, MemoryPercent: 50}, total / 2},
	} {
		if got := c.l.memory(); got != c.want {
			t.Errorf("%+v: %d, want %d", c.l, got, c.want)
		}
	}
}

func TestFailures(t *testing.T) {
	f := failures{RapidFail: RapidFail{Failures: 3, Within: time.Minute}}
	now := time.Now()
	for i, c := range []struct {
		after   time.Duration
		early   bool
		pause   time.Duration
		tooMany bool
	}{
		{0, true, 0, false},
		{time.Second, true, firstPause, false},
		{61 * time.Second, true, 2 * firstPause, false}, // the first is too long ago
		{62 * time.Second, false, 0, false},
		{63 * time.Second, true, 0, true},
	} {
		at := now.Add(c.after)
		f.ended(at, c.early, "test")
		if f.pause() != c.pause || f.tooMany(at) != c.tooMany {
			t.Errorf("failure %d: pause %s, too many %v; want %s, %v", i+1, f.pause(), f.tooMany(at), c.pause, c.tooMany)
		}
	}
	never := failures{RapidFail: RapidFail{Failures: -1}}
	for range 100 {
		never.ended(now, true, "test")
	}
	if never.tooMany(now) || never.pause() != lastPause {
		t.Errorf("without a bound: too many %v, pause %s", never.tooMany(now), never.pause())
	}
}

func TestInnermostError(t *testing.T) {
	inner := errors.New("inner")
	if got := unwrapped(errors.Join(inner)); got.Error() != "inner" {
		t.Errorf("%v", got)
	}
	if got := unwrapped(&startError{1, inner}); got != inner {
		t.Errorf("%v", got)
	}
}
