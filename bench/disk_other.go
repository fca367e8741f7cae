//go:build !linux

package main

// fileSystem names the file system that a folder is on; it is known on Linux only.
func fileSystem(string) string { return "" }
