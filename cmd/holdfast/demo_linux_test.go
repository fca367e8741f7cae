package main

import (
	"fmt"
	"os"
	"path/filepath"
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

	// What it had in a folder is removed by the next demo, which leaves that of one that
	// runs.
	folders := func() int {
		all, err := filepath.Glob(filepath.Join(os.TempDir(), "holdfast-demo-*"))
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	if folders() != 1 {
		t.Errorf("%d folders are left", folders())
	}
	next, _ := openDemo(t)
	other, _ := openDemo(t)
	if folders() != 2 {
		t.Errorf("there are %d folders of two demos", folders())
	}
	next.stop()
	other.stop()
	if folders() != 0 {
		t.Errorf("%d folders are left of those that were stopped", folders())
	}
}
