package stateserver

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

// serverVar makes this test binary the server that it tests in a process of its own,
// and attackVar, with its address and a session's target, those that attack it.
const (
	serverVar = "HOLDFAST_TEST_SERVER"
	attackVar = "HOLDFAST_TEST_ATTACK"
)

// TestMain lets more parallel tests run than there are processors: those of the
// conformance suite spend their time waiting for sessions to expire.
func TestMain(m *testing.M) {
	var child func() error
	if os.Getenv(serverVar) != "" {
		child = runServer
	} else if addr, large, ok := strings.Cut(os.Getenv(attackVar), " "); ok {
		child = func() error { return runAttack(addr, large) }
	}
	if child != nil {
		if err := child(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0) // with the race detector's code instead, if it has found anything
	}
	flag.Parse()
	flag.Set("test.parallel", "12")
	os.Exit(m.Run())
}
