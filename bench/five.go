package main

import "time"

//go:generate go run github.com/tinylib/msgp@v1.6.5 -file five.go -o five_msgp.go -tests=false -io=false -unexported

// five are the values of a session, as a struct with generated code.
type five struct {
	User  string    `msg:"user"`
	Since time.Time `msg:"since"`
	Hits  int       `msg:"hits"`
	Total float64   `msg:"total"`
	Admin bool      `msg:"admin"`
}

var fiveValues = five{"a.visitor@example.com", time.Date(2026, 11, 21, 1, 2, 3, 0, time.UTC), 42, 12.5, true}

func (f five) toMap() map[string]any {
	return map[string]any{"user": f.User, "since": f.Since, "hits": f.Hits, "total": f.Total, "admin": f.Admin}
}
