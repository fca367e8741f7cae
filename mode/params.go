package mode

import (
	"fmt"
	"math"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// params are the parameters of a spec. What cannot be read is kept in errs, so that
// all mistakes are told at once.
type params struct {
	values  url.Values
	foreign url.Values // those of a driver
	errs    []error
}

// foreignQuery is what a URL for the driver ends with.
func (p *params) foreignQuery() string {
	if len(p.foreign) == 0 {
		return ""
	}
	return "?" + p.foreign.Encode()
}

func (p *params) text(name string) string { return p.values.Get(name) }

func (p *params) wrong(name, want string) {
	p.errs = append(p.errs, fmt.Errorf("%s=%s: want %s", name, clip(p.text(name)), want))
}

func (p *params) duration(name string) time.Duration { return p.durationOr(name, "") }

func (p *params) durationOr(name, other string) time.Duration {
	if !p.values.Has(name) {
		return 0
	}
	d, err := time.ParseDuration(p.text(name))
	if err != nil || d <= 0 {
		p.wrong(name, "a duration such as 500ms, 2s or 1m30s"+other)
		return 0
	}
	return d
}

func (p *params) number(name string) int { return p.numberOr(name, "") }

func (p *params) numberOr(name, other string) int {
	if !p.values.Has(name) {
		return 0
	}
	n, err := strconv.ParseInt(p.text(name), 10, 32)
	if err != nil || n <= 0 {
		p.wrong(name, "a number above 0"+other)
		return 0
	}
	return int(n)
}

// orNone reads, by read, the value of an option that a number below zero turns off. In a
// spec that is the word none.
func orNone[N int | int64 | time.Duration](p *params, name string, read func(name, other string) N) N {
	if strings.EqualFold(p.text(name), "none") {
		return -1
	}
	return read(name, ", or none")
}

func (p *params) flag(name string) bool {
	switch strings.ToLower(p.text(name)) {
	case "1", "true", "yes", "on":
		return true
	case "0", "false", "no", "off":
		return false
	}
	if p.values.Has(name) {
		p.wrong(name, "1 or 0")
	}
	return false
}

// choice returns the index of the value in of, or 0.
func (p *params) choice(name string, of ...string) int {
	if !p.values.Has(name) {
		return 0
	}
	for i, value := range of {
		if strings.EqualFold(p.text(name), value) {
			return i
		}
	}
	p.wrong(name, strings.Join(of, " or "))
	return 0
}

func (p *params) size(name string) int64 { return p.sizeOr(name, "") }

func (p *params) sizeOr(name, other string) int64 {
	if !p.values.Has(name) {
		return 0
	}
	n, ok := parseSize(p.text(name))
	if !ok {
		p.wrong(name, "a size such as 1048576, 512MiB or 10GB"+other)
	}
	return n
}

var units = []struct {
	name  string
	bytes float64
}{
	{"kib", 1 << 10}, {"mib", 1 << 20}, {"gib", 1 << 30}, {"tib", 1 << 40},
	{"kb", 1e3}, {"mb", 1e6}, {"gb", 1e9}, {"tb", 1e12}, {"b", 1}, {"", 1},
}

// parseSize reads a number of bytes above 0.
func parseSize(s string) (int64, bool) {
	s = strings.ToLower(strings.TrimSpace(s))
	for _, u := range units {
		number, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		number = strings.TrimSpace(number)
		if n, err := strconv.ParseInt(number, 10, 64); err == nil && u.bytes == 1 {
			return n, n > 0
		}
		if strings.Trim(number, "0123456789.") != "" {
			return 0, false
		}
		f, err := strconv.ParseFloat(number, 64)
		if f *= u.bytes; err != nil || f < 1 || f >= math.MaxInt64 {
			return 0, false
		}
		return int64(f), true
	}
	return 0, false
}
