package inproc

import "github.com/holdfast-session/holdfast/store"

// Stats is what a store is at a moment, for metrics.
type Stats struct {
	Sessions int64 // that are there, or expired and not swept yet
	Bytes    int64 // of memory that they take, as MaxBytes counts them
	// EndedBy counts the sessions that ended since New, by [store.Kind].
	EndedBy [store.Restarted + 1]uint64
}

// Stats returns what the store is at this moment. It costs little.
func (s *Store) Stats() Stats {
	st := Stats{Sessions: s.count.Load(), Bytes: s.bytes.Load()}
	for i := range s.ended {
		st.EndedBy[i] = s.ended[i].Load()
	}
	return st
}
