package main

import (
	"fmt"
	"testing"
)

// Nothing is left when the demo itself is killed.
func TestDemoKilledLeavesNoOrphans(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir()) // where the killed leave something
	p, b := openDemo(t)
	b.bothAnswer()
	children := p.children()
	if len(children) < 3 {
		t.Fatalf("children: %v", children)
	}
	p.kill()
	for _, pid := range children {
		eventually(t, fmt.Sprintf("process %d ends", pid), func() bool { return !alive(pid) })
	}
}
