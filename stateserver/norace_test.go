//go:build !race

package stateserver

const raceEnabled = false
