package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// One small web application, written once and run by each library with sessions, in a
// process of its own: what the rows web, contention and correctness ask for.

// A visit is a request's view of its session, by whatever library.
type visit interface {
	hits() int
	setHits(n int)
	text(name string) string
	setText(name, value string)
	// setStrange puts a value in that cannot leave the process.
	setStrange()
	// save makes the changes last, where the library leaves that to the application.
	save() error
	// end signs out, and renew gives the session a new ID as it is signed in, where
	// the library can.
	end() error
	renew() error
}

// A pageFunc answers a request: ask returns what its query says of a name.
type pageFunc func(v visit, ask func(name string) string, answer io.Writer) error

// pages are those of the application, by their paths.
var pages = map[string]pageFunc{
	// Puts in a counter, and texts of size bytes in all.
	"/fill": func(v visit, ask func(string) string, answer io.Writer) error {
		size, err := strconv.Atoi(ask("size"))
		if err != nil {
			return err
		}
		v.setHits(0)
		for _, name := range fillNames {
			v.setText(name, strings.Repeat("x", size/len(fillNames)))
		}
		return saved(v, answer, "filled")
	},
	"/read":      look,
	"/unchanged": look,
	// Counts, after some work.
	"/change": func(v visit, ask func(string) string, answer io.Writer) error {
		n := v.hits()
		if err := takeTime(ask); err != nil {
			return err
		}
		v.setHits(n + 1)
		return saved(v, answer, strconv.Itoa(n+1))
	},
	"/set": func(v visit, ask func(string) string, answer io.Writer) error {
		if err := takeTime(ask); err != nil {
			return err
		}
		v.setText(ask("name"), "set")
		return saved(v, answer, "set")
	},
	"/get": func(v visit, ask func(string) string, answer io.Writer) error {
		var all []string
		for name := range strings.SplitSeq(ask("names"), ",") {
			if v.text(name) != "" {
				all = append(all, name)
			}
		}
		_, err := io.WriteString(answer, strings.Join(all, ","))
		return err
	},
	"/in": func(v visit, _ func(string) string, answer io.Writer) error {
		if err := v.renew(); err != nil {
			return err
		}
		v.setText(userName, "alice")
		return saved(v, answer, "in")
	},
	"/out": func(v visit, _ func(string) string, answer io.Writer) error {
		if err := v.end(); err != nil {
			return err
		}
		_, err := io.WriteString(answer, "out")
		return err
	},
	// Puts something in when the response has begun, and more of it than is buffered.
	"/late": func(v visit, _ func(string) string, answer io.Writer) error {
		if _, err := io.WriteString(answer, strings.Repeat("x", 64<<10)); err != nil {
			return err
		}
		v.setText(lateName, "set")
		return v.save()
	},
	"/strange": func(v visit, _ func(string) string, answer io.Writer) error {
		v.setStrange()
		return saved(v, answer, "strange")
	},
}

// look reads what is there.
func look(v visit, _ func(string) string, answer io.Writer) error {
	if v.text(fillNames[0]) == "" {
		return errors.New("the session is empty")
	}
	_, err := io.WriteString(answer, strconv.Itoa(v.hits()))
	return err
}

// takeTime takes the time that the request asks for.
func takeTime(ask func(string) string) error {
	if ask("work") == "" {
		return nil
	}
	d, err := time.ParseDuration(ask("work"))
	time.Sleep(d)
	return err
}

// saved answers once the session is saved.
func saved(v visit, answer io.Writer, text string) error {
	if err := v.save(); err != nil {
		return err
	}
	_, err := io.WriteString(answer, text)
	return err
}

// The names of the texts in a session.
const userName, lateName = "visitor", "late"

var (
	fillNames  = numbered("item%d", 10)
	setNames   = numbered("key%d", 50)
	otherNames = []string{userName, lateName}
	allNames   = slices.Concat(fillNames, setNames, otherNames)
)

func numbered(format string, n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf(format, i)
	}
	return names
}

// Where sessions are.
const (
	inProcess  = "in the application's process or its files"
	onServer   = "on a server of its own"
	inPostgres = "PostgreSQL"
	inMariaDB  = "MariaDB"
	inSQLite   = "SQLite"
)

// A library is a way to have sessions, and where it keeps them.
type library struct {
	name  string
	place string // whom it is compared with
	// store is what has to run for it, and the library is told the address of.
	store storeKind
	// open makes the application. With strange, it declares a value that cannot leave
	// the process, where the library wants values to be declared.
	open func(address string, strange bool) (application, error)
}

// An application serves its pages until the listener is closed.
type application func(net.Listener) error

// httpApplication serves pages with net/http: view opens a request's session, and wrap
// puts the library's middleware around the page with a path.
func httpApplication(view func(w http.ResponseWriter, r *http.Request) (visit, error), wrap func(path string, h http.Handler) http.Handler) application {
	mux := http.NewServeMux()
	for path, page := range pages {
		var h http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			v, err := view(w, r)
			if err == nil {
				err = page(v, asked(r), w)
			}
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
			}
		})
		if wrap != nil {
			h = wrap(path, h)
		}
		mux.Handle("GET "+path, h)
	}
	return func(l net.Listener) error { return http.Serve(l, mux) }
}

// asked looks into a request's query, which most have not.
func asked(r *http.Request) func(string) string {
	var q url.Values
	if r.URL.RawQuery != "" {
		q = r.URL.Query()
	}
	return q.Get
}

// serveApplication is a worker that runs an application: it says where, and serves
// until its standard input ends.
func serveApplication(name, address string, strange bool, in io.Reader, out io.Writer) error {
	i := slices.IndexFunc(libraries, func(l library) bool { return l.name == name })
	if i < 0 {
		return fmt.Errorf("there is no library %q", name)
	}
	app, err := libraries[i].open(address, strange)
	if err != nil {
		return err
	}
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- app(l) }()
	if _, err := fmt.Fprintln(out, "ready", l.Addr()); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, in)
		ended <- err
	}()
	select {
	case err := <-failed:
		return err
	case err := <-ended:
		return err
	}
}
