package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-session/holdfast/host"
)

// A desk is where the host is told what to do to its workers, by the buttons of the
// page, and where they ask it what has happened. All other requests go to the workers.
type desk struct {
	h       *host.Host
	workers int
	config  string // the watched file

	mu      sync.Mutex // held while something is done to config
	changes int        // of config
}

const (
	// reportPath is where the workers get the host's [report].
	reportPath = "/host.json"
	// reported is how many entries of the journal a report has.
	reported = 100
	// byButton is what the journal says of what a visitor did.
	byButton = "by the button on the page"
	// pressed is how long what a button does may take.
	pressed = 20 * time.Second
)

// A report is how the workers are, and what has happened to them.
type report struct {
	Workers []host.Status
	Journal []host.Entry // the newest last
}

func (d *desk) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST /kill", button(d.kill))
	mux.Handle("POST /recycle", button(d.recycle))
	mux.Handle("POST /touch", button(d.touch))
	mux.Handle("POST /change", button(d.change))
	mux.HandleFunc("GET "+reportPath, d.report)
	mux.Handle("/", d.h)
	return mux
}

// errForm means that a form lacks what its button needs.
var errForm = errors.New("the form does not say which worker")

// button is a handler that acts, and leads back to the page, which says what was done
// if the query has that.
func button(act func(context.Context, *http.Request) (said url.Values, err error)) http.Handler {
	return http.NewCrossOriginProtection().Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, 4<<10)
		ctx, cancel := context.WithTimeout(r.Context(), pressed)
		defer cancel()
		said, err := act(ctx, r)
		switch {
		case errors.Is(err, errForm):
			http.Error(w, err.Error(), http.StatusBadRequest)
		case err != nil:
			http.Error(w, err.Error(), http.StatusInternalServerError)
		default:
			http.Redirect(w, r, backTo(r.PostFormValue("back"), said), http.StatusSeeOther)
		}
	}))
}

// kill ends the process that the form names, and returns when it is gone.
func (d *desk) kill(ctx context.Context, r *http.Request) (url.Values, error) {
	pid, err := strconv.Atoi(r.PostFormValue("pid"))
	if err != nil {
		return nil, errForm
	}
	said := "killed"
	switch err := d.h.Kill(ctx, pid, byButton); {
	case errors.Is(err, host.ErrNoWorker):
		said = "gone" // somebody was faster
	case err != nil:
		return nil, err
	}
	return url.Values{said: {strconv.Itoa(pid)}}, nil
}

// recycle replaces the process of the worker that the form names, and returns when the
// next one has its requests.
func (d *desk) recycle(ctx context.Context, r *http.Request) (url.Values, error) {
	worker, err := strconv.Atoi(r.PostFormValue("worker"))
	if err != nil || worker < 1 {
		return nil, errForm
	}
	if err := d.h.Recycle(ctx, worker, byButton); err != nil {
		return nil, err
	}
	return url.Values{"recycled": {strconv.Itoa(worker)}}, nil
}

// touch gives the watched file another time and the same content, and returns when the
// host has taken notice of that.
func (d *desk) touch(ctx context.Context, _ *http.Request) (url.Values, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	ignored := func() int64 {
		return d.h.Totals().Entries[host.Cause{Event: host.Ignored, Reason: host.FileChanged}]
	}
	before, now := ignored(), time.Now()
	if err := os.Chtimes(d.config, now, now); err != nil {
		return nil, err
	}
	err := await(ctx, "the host has not noticed that the file was touched", func() bool { return ignored() > before })
	return url.Values{"touched": {fmt.Sprint(ignored())}}, err
}

// change gives the watched file another content, and returns when all workers are
// newer than that.
func (d *desk) change(ctx context.Context, _ *http.Request) (url.Values, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	at := time.Now()
	d.changes++
	if err := writeConfig(d.config, mottos[d.changes%len(mottos)]); err != nil {
		return nil, err
	}
	err := await(ctx, "not all workers could be recycled", func() bool {
		newer := 0
		for _, s := range d.h.Status() {
			if s.State == host.Ready && s.Began.After(at) {
				newer++
			}
		}
		return newer == d.workers
	})
	return url.Values{"changed": {"1"}}, err
}

// await returns when ok reports true; when ctx is done before that, it fails.
func await(ctx context.Context, failure string, ok func() bool) error {
	every := time.NewTicker(50 * time.Millisecond)
	defer every.Stop()
	for !ok() {
		select {
		case <-every.C:
		case <-ctx.Done():
			return fmt.Errorf("%s; the journal may say why: %w", failure, context.Cause(ctx))
		}
	}
	return nil
}

// report answers a worker that asks. It names the watched file without its folder.
func (d *desk) report(w http.ResponseWriter, _ *http.Request) {
	all := report{Workers: d.h.Status(), Journal: d.h.Journal()}
	all.Journal = all.Journal[max(0, len(all.Journal)-reported):]
	for i := range all.Journal {
		e := &all.Journal[i]
		e.Detail = strings.ReplaceAll(e.Detail, d.config, filepath.Base(d.config))
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(all) // a worker that is gone
}
