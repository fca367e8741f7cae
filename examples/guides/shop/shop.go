// Package shop has what the guides' applications have in common, whichever library
// keeps their sessions.
package shop

// A Line is an article in a cart.
type Line struct {
	Article string
	Count   int
}
