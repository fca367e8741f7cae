package stateserver

import (
	"flag"
	"os"
	"testing"
)

// TestMain lets more parallel tests run than there are processors: those of the
// conformance suite spend their time waiting for sessions to expire.
func TestMain(m *testing.M) {
	flag.Parse()
	flag.Set("test.parallel", "12")
	os.Exit(m.Run())
}
