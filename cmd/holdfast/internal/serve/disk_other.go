//go:build !linux && !darwin && !freebsd

package serve

import "errors"

func diskSize(string) (int64, error) {
	return 0, errors.New("the size of the disk is not known on this platform; write an amount such as 20GB")
}
