//go:build !race

package items

// raceEnabled is true where allocations cannot be counted.
const raceEnabled = false
