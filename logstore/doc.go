// Package logstore keeps sessions in a folder: a store for one process whose sessions
// survive it, usable in a program as SQLite is, and the engine of the state server.
//
//	s, err := logstore.Open("/var/lib/shop/sessions", nil)
//	if err != nil {
//		log.Fatal(err)
//	}
//	defer s.Close()
//	sessions := holdfast.New(s, nil)
//
// # What is kept
//
// Everything that is saved is appended to a log, and an index of all sessions is in
// memory. A call returns once what it wrote, and what it read, is with the operating
// system, so a process that is killed loses nothing. What a power cut costs, [Sync]
// says; never an end: a logout is durable before it is acknowledged, in every mode.
//
// A graceful stop ([Store.Close]) keeps everything, locks and waiting ends too. A crash
// drops the locks, which the sessions' versions make safe (see package store), and
// adds a tenth to the timeouts that are running, so that no session ends early.
//
// # Damage
//
// Every record is checked when it is read. A session whose latest content cannot be
// read any more ends with the reason [store.Damaged]; it is never given back older than
// it was. Nothing else is affected.
//
// # Memory
//
// A session of 500 bytes with an ID of 43 characters takes about 680 bytes, all told, in
// memory that the garbage collector passes by, however many there are. Past
// [Options].MaxMemory, contents stay on disk only and are read back when somebody wants
// them; no session ends for want of memory. Go's heap may grow past what is alive in
// it, though little of this is ever garbage; see GOMEMLIMIT.
//
// # Disk
//
// The folder has segments of 64 MiB, a snapshot of the index, and a reserve for logouts
// when the disk is full. Segments that are mostly garbage are compacted in the
// background, so the log takes about twice what the sessions do. When the disk is full,
// or [Options].MaxDisk is reached, Create and in the end Save fail with
// [store.ErrFull], with nothing changed, and Remove goes on; when there is room again,
// so does everything else.
//
// While the disk fails, calls that write fail with [store.ErrUnavailable], or
// [store.ErrUnsure] where it is not known what became of it; what is not on disk yet is
// kept in memory and written again, elsewhere, when the disk works again.
//
// # Concurrency
//
// Sessions are spread over shards by a hash of their ID, each under a mutex of its own
// that is held for the length of one call (or of a small batch of a sweep, a snapshot),
// never while anybody waits or while the disk works. Calls that wait for the disk at
// the same time share one write, and one sync.
//
// Mutexes are taken in this order, the later ones briefly:
//
//	shard.mu → ends.mu → tombstones.mu, subjects.mu, removals.mu, the log's, the blocks'
//
// No call has two shards.
package logstore
