//go:build linux || darwin || freebsd

package serve

import "syscall"

// diskSize returns the size of the file system that dir is on.
func diskSize(dir string) (int64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, err
	}
	return int64(s.Blocks) * int64(s.Bsize), nil
}
