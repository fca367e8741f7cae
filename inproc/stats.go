package inproc

// Stats is what a store is at a moment, for metrics.
type Stats struct {
	Sessions int64 // that are there, or expired and not swept yet
	Bytes    int64 // of memory that they take, as MaxBytes counts them
}

// Stats returns what the store is at this moment. It costs little.
func (s *Store) Stats() Stats { return Stats{Sessions: s.count.Load(), Bytes: s.bytes.Load()} }
