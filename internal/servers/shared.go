package servers

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
)

// Shared returns a function that starts a server when it is first called, and returns
// the same one from then on. The server ends with [Main], which the package's TestMain
// calls:
//
//	var postgres = servers.Shared(func(t testing.TB) *servers.Postgres { return servers.StartPostgres(t, nil) })
//
//	func TestMain(m *testing.M) { servers.Main(m) }
//
//	func TestSomething(t *testing.T) { db := postgres(t) … }
//
// The TB that start is given lives as long as the binary does.
func Shared[S any](start func(testing.TB) S) func(testing.TB) S {
	var (
		once sync.Once
		s    S
		done bool
	)
	return func(t testing.TB) S {
		t.Helper()
		once.Do(func() {
			s = start(&binary{TB: t})
			done = true
		})
		if !done {
			t.Fatal("the server that this test shares with an earlier one did not start")
		}
		return s
	}
}

// Main runs the tests, ends what [Shared] started, and exits.
func Main(m *testing.M) {
	code := m.Run()
	failed = code != 0
	for _, end := range slices.Backward(ends) {
		end()
	}
	os.Exit(code)
}

// What ends the servers of the binary, in the order in which they were started.
var (
	endsMu sync.Mutex
	ends   []func()
	failed bool
)

// A binary stands for all tests of the binary. While the server starts, a failure is
// that of the test which needed it first; one that comes later is a panic, as package
// testing has it for tests that have ended.
type binary struct{ testing.TB }

func (*binary) Cleanup(end func()) { AtExit(end) }

// AtExit has [Main] call end after the tests, before what was registered earlier.
func AtExit(end func()) {
	endsMu.Lock()
	defer endsMu.Unlock()
	ends = append(ends, end)
}

func (*binary) Failed() bool { return failed }

func (*binary) Logf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
