package stateserver

import (
	"flag"
	"fmt"
	"os"
	"testing"
)

// serverVar makes this test binary the server that it tests in a process of its own.
const serverVar = "HOLDFAST_TEST_SERVER"

// TestMain lets more parallel tests run than there are processors: those of the
// conformance suite spend their time waiting for sessions to expire.
func TestMain(m *testing.M) {
	if os.Getenv(serverVar) != "" {
		if err := runServer(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0) // with the race detector's code instead, if it has found anything
	}
	flag.Parse()
	flag.Set("test.parallel", "12")
	os.Exit(m.Run())
}
