package database

import (
	"strings"
	"testing"
)

// A database that is away is told at the start, without the password.
func TestNoDatabase(t *testing.T) {
	_, _, err := Sessions("postgres://shop:s3cret@127.0.0.1:1/shop")
	if err == nil || !strings.Contains(err.Error(), "refused") || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("%v", err)
	}
}
