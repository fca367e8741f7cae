//go:build unix

package vfs

import "testing"

func TestRemovedFileStaysOpen(t *testing.T) {
	both(t, func(t *testing.T, folder FS) {
		f := put(t, folder, "a", "still here")
		ok(t, folder.Remove("a"))
		if got := content(t, folder, "a"); got != "absent" {
			t.Errorf("removed, and it holds %q", got)
		}
		if got := text(t, f); got != "still here" {
			t.Errorf("open, and it holds %q", got)
		}
		put(t, folder, "a", "another")
		if got := text(t, f); got != "still here" {
			t.Errorf("open, and it holds %q", got)
		}
	})
}
