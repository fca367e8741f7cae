package serve

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// DefaultData returns the folder where this platform wants a service, or a user, to
// keep state. getenv is [os.Getenv].
func DefaultData(getenv func(string) string) (string, error) {
	// systemd says where StateDirectory= is; it may name several.
	if dir, _, _ := strings.Cut(getenv("STATE_DIRECTORY"), ":"); dir != "" {
		return dir, nil
	}
	var base string
	switch runtime.GOOS {
	case "windows":
		base = getenv("LocalAppData")
	case "darwin", "ios":
		if os.Geteuid() == 0 {
			return "/Library/Application Support/holdfast", nil
		}
		if home := getenv("HOME"); home != "" {
			base = filepath.Join(home, "Library", "Application Support")
		}
	default:
		if os.Geteuid() == 0 {
			return "/var/lib/holdfast", nil
		}
		if base = getenv("XDG_STATE_HOME"); !filepath.IsAbs(base) { // others are to be ignored
			base = ""
			if home := getenv("HOME"); home != "" {
				base = filepath.Join(home, ".local", "state")
			}
		}
	}
	if base == "" {
		return "", errors.New("there is no folder for state here (no home directory is known); name one with --data DIR, or keep nothing with --memory")
	}
	return filepath.Join(base, "holdfast"), nil
}
