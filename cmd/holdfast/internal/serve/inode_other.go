//go:build !unix

package serve

import "io/fs"

func inode(fs.FileInfo) any { return nil }
