package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-session/holdfast/internal/load"
)

var webRow = row{
	name:  "web",
	title: "Whole web requests, by the processor time of application and store",
	note: "The same small application by each library, in a process of its own, asked over loopback by 32 connections with a session each: a counter and ten texts, of 500 bytes or 4 KiB in all. " +
		"Read reads two values, on a page that is declared read-only where the library has such a thing; unchanged is the same page without that; change adds one to the counter. " +
		"Served is how many requests one second of processor time serves, that of the application and of its store together (Redis, PostgreSQL with all its processes, and so on). " +
		"Sessions end 20 minutes after the last request, except with scs, whose default is a fixed lifetime; with IdleTimeout it does the same as the others. " +
		"Commands count a script as one; bytes are those that Redis reads and writes. The databases sync each change to the disk, SQLite at its checkpoints.",
	metrics: []metric{metricServed, metricAppCPU, metricStoreCPU, metricRate, metricP50, metricP99, metricAsked, metricWire},
	charted: []string{webServerCell, "change, 500 bytes, in the"},
	cells:   webCells,
}

const (
	webServerCell  = "change, 500 bytes, on a server"
	webConnections = 32
	// metered is how many requests are made to count what they ask of the store.
	metered = 50
)

// A webShape is one kind of request.
type webShape struct {
	path string
	size int
}

func (h webShape) String() string { return fmt.Sprintf("%s, %d bytes", h.path[1:], h.size) }

func webShapes(s *suite) []webShape {
	shapes := []webShape{{"/change", smallSession}, {"/read", smallSession}, {"/unchanged", smallSession}, {"/change", 4 << 10}, {"/read", 4 << 10}, {"/unchanged", 4 << 10}}
	switch {
	case s.quick:
		return shapes[:1]
	case s.full:
		return shapes
	}
	return shapes[:4]
}

func webCells(s *suite) ([]cell, error) {
	apps, err := s.applications(nil)
	if err != nil {
		return nil, err
	}
	var cells []cell
	for _, shape := range webShapes(s) {
		for _, place := range []string{inProcess, onServer, inPostgres, inMariaDB, inSQLite} {
			one := cell{name: fmt.Sprintf("%s, %s", shape, place)}
			for _, a := range apps {
				if a.place != place || a.name == cookieStore && shape.size > smallSession {
					continue
				}
				side, err := a.side(shape)
				if err != nil {
					return nil, fmt.Errorf("%s: %s: %w", one.name, a.name, err)
				}
				one.sides = append(one.sides, side)
			}
			cells = append(cells, one)
		}
	}
	return cells, nil
}

// A running is an application in a process of its own.
type running struct {
	library
	*backing
	pid  int
	base string // its URL
}

// applicationRole begins the role of a worker that runs an application; what follows
// is the library, the store's address, and whether to declare something strange.
const applicationRole = "application"

func roleOf(l library, b *backing, strange string) string {
	return strings.Join([]string{applicationRole, l.name, b.address, strange}, "\t")
}

// applications starts the application by each library that is wanted, which is all if
// wanted is nil, and the stores that they need.
func (s *suite) applications(wanted func(library) bool) ([]*running, error) {
	stores := make(map[storeKind]*backing)
	var all []*running
	for _, l := range libraries {
		if wanted != nil && !wanted(l) {
			continue
		}
		b, ok := stores[l.store]
		if !ok || l.store == storeFolder { // each has a folder of its own
			var err error
			b, err = s.backing(l.store)
			if err != nil && !errors.Is(err, errAbsent) {
				return nil, fmt.Errorf("%s: %w", l.store, err)
			}
			stores[l.store] = b
		}
		if b == nil {
			continue
		}
		a, err := s.application(l, b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", l.name, err)
		}
		all = append(all, a)
	}
	return all, nil
}

func (s *suite) application(l library, b *backing) (*running, error) {
	w, err := s.worker(roleOf(l, b, ""))
	if err != nil {
		return nil, err
	}
	f, err := w.hear()
	if err != nil {
		return nil, err
	}
	return &running{l, b, w.pid, "http://" + f[1]}, nil
}

// A browser is a visitor with a cookie.
type browser struct {
	app    *running
	client *http.Client
	cookie string
}

func (a *running) browser(c *http.Client) *browser { return &browser{app: a, client: c} }

// get asks for a page and keeps the cookie that comes. The status is 0 where the
// connection was cut.
func (b *browser) get(ctx context.Context, path string) (status int, text string, err error) {
	r, err := http.NewRequestWithContext(ctx, "GET", b.app.base+path, nil)
	if err != nil {
		return 0, "", err
	}
	if b.cookie != "" {
		r.Header.Set("Cookie", b.cookie)
	}
	res, err := b.client.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, "", err
	}
	for _, c := range res.Cookies() {
		if c.Value != "" && c.MaxAge >= 0 {
			b.cookie = c.Name + "=" + c.Value
		}
	}
	return res.StatusCode, string(body), nil
}

// must asks for a page that has to come.
func (b *browser) must(ctx context.Context, path string) (string, error) {
	status, text, err := b.get(ctx, path)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%s was answered %d: %s", path, status, text)
	}
	return text, err
}

// newClient returns a client for many requests at once.
func newClient() *http.Client {
	return &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
}

// side is the application under load.
func (a *running) side(h webShape) (side, error) {
	ctx := context.Background()
	c := newClient()
	defer c.CloseIdleConnections()
	drivers := make([]load.Driver, webConnections)
	var first *browser
	for i := range drivers {
		b := a.browser(c)
		if _, err := b.must(ctx, fmt.Sprintf("/fill?size=%d", h.size)); err != nil {
			return side{}, err
		}
		if first == nil {
			first = b
		}
		drivers[i] = &webDriver{request: []byte("GET " + h.path + " HTTP/1.1\r\nHost: bench\r\nCookie: " + b.cookie + "\r\n\r\n")}
	}
	asked := make(figures)
	if a.meter != nil {
		var err error
		asked, err = a.meter(ctx, func() error {
			for range metered {
				if _, err := first.must(ctx, h.path); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return side{}, err
		}
		for name := range asked {
			asked[name] /= metered
		}
	}
	return side{a.name, func(ctx context.Context, w window) (figures, error) { return a.run(ctx, drivers, w) }}.with(asked), nil
}

// run asks for a page over and over.
func (a *running) run(ctx context.Context, drivers []load.Driver, w window) (figures, error) {
	var apps, stores []time.Duration // before and after
	config := load.Config{
		Drivers: drivers, Ops: []string{"request"},
		Dial: func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", strings.TrimPrefix(a.base, "http://"))
		},
		ServerCPU: func() (time.Duration, error) {
			app, err := load.CPUTime(a.pid)
			if err != nil {
				return 0, err
			}
			store, err := a.cpu()
			apps, stores = append(apps, app), append(stores, store)
			return app + store, err
		},
	}
	f, err := serverFigures(w, func(w window) (load.Result, error) {
		apps, stores = nil, nil
		config.Warmup, config.Duration = w.warmup, w.measure
		return load.Run(ctx, config)
	})
	if err != nil {
		return nil, err
	}
	perRequest := f[metricCPU.Name] / (micros(apps[1]-apps[0]) + micros(stores[1]-stores[0]))
	delete(f, metricCPU.Name)
	f[metricAppCPU.Name] = micros(apps[1]-apps[0]) * perRequest
	f[metricStoreCPU.Name] = micros(stores[1]-stores[0]) * perRequest
	f[metricServed.Name] = 1e6 / (f[metricAppCPU.Name] + f[metricStoreCPU.Name])
	return f, nil
}

// A webDriver asks for the same page again and again.
type webDriver struct{ request []byte }

func (d *webDriver) Next(b []byte, finish bool) ([]byte, int) {
	if finish {
		return b, 0
	}
	return append(b, d.request...), 1
}

func (d *webDriver) Answer(b []byte) (int, load.Answer, error) {
	n, err := webAnswer(b)
	return n, load.Answer{}, err
}

// webAnswer returns the length of the response at the start of b, or 0 if that is not
// all of it. One that is not granted is an error.
func webAnswer(b []byte) (int, error) {
	end := bytes.Index(b, []byte("\r\n\r\n"))
	if end < 0 {
		return 0, nil
	}
	const ok, length = "HTTP/1.1 200 ", "\r\nContent-Length: "
	at := bytes.Index(b[:end], []byte(length))
	if !bytes.HasPrefix(b, []byte(ok)) || at < 0 {
		return 0, fmt.Errorf("the application answered %q", b[:min(len(b), 400)])
	}
	digits, _, _ := bytes.Cut(b[at+len(length):end], []byte("\r\n"))
	n, err := strconv.Atoi(string(digits))
	if err != nil || len(b) < end+4+n {
		return 0, err
	}
	return end + 4 + n, nil
}
