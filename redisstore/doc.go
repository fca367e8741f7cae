// Package redisstore keeps sessions in Redis or Valkey: one server, one under Sentinel, or
// a cluster. It is a store for many processes, and none of them need know of the others.
//
//	client, err := valkey.NewClient(valkey.ClientOption{InitAddress: []string{"redis-1:6379"}})
//	…
//	s, err := redisstore.New(client, nil)
//	…
//	defer s.Close()
//	sessions := holdfast.New(s, nil)
//
// [Open] makes the client, too. It needs Redis 6.2 or later, no modules, no functions and
// no keyspace notifications. Its tests run on Redis 7.0.15: one server, three Sentinels
// with a master and a replica, and a cluster of three masters and three replicas. Valkey,
// which has the same commands, was not run.
//
// # What can be lost
//
// A reply from Redis says that one server has done what was asked. How much that is worth
// its operator decides:
//
//   - Replication is asynchronous. When a master fails, what it acknowledged within the
//     last moment may not have reached the replica that takes its place: a save is undone,
//     and a session that was signed out is there again. Promises 2, 3 and 5 of Holdfast are
//     only as strong as that. What stays true is that there are never two saves made on
//     one version: whoever saves on what was lost is refused.
//   - [Options].WaitReplicas narrows that: what a Save, Create or Remove has done is then
//     with so many replicas before it is acknowledged (WAIT). With one replica for each
//     master, and a master that stays down until the replica has taken over, nothing that
//     was acknowledged was lost in our tests (a master killed, and one stopped for longer
//     than the failover took; Sentinel and cluster). It is no consensus: with more replicas
//     than are waited for, one that lags may win. While no replica is there, nothing can be
//     saved. A read waits for none, so it may show a save that a failover then undoes, and
//     whose writer was told that it is unsure.
//   - A master that keeps nothing on disk and restarts before it was noticed is empty, and
//     makes its replicas so. With appendonly yes and appendfsync everysec, a crash loses up
//     to a second, with always nothing.
//   - With a maxmemory-policy other than noeviction, a server that is full throws sessions
//     away. That is Evicted, where the index still knows of the session. With noeviction a
//     full server refuses new sessions ([store.ErrFull]); those that are there can be
//     locked, saved and signed out.
//
// [New] looks at these settings, and says once, through [Options].Logger, what is wrong.
//
// # How it is kept
//
// A session is one hash: a header of 96 bytes, the content, and while there are any those
// who wait for its lock, its tombstone and its ends. Every operation is one script with
// that one key, on the clock of the server that has it, so it happens wholly or not at all
// and works on while the slot moves between nodes of a cluster. One round trip each;
// three for a Save that changes the subject, two for a Create with one. (Waiting for
// replicas, Create and Remove are one more.)
//
// The content travels if it has changed since this process had it; of a session of 4 KB
// that has not, some 300 bytes do, both ways together. A Load writes only when the deadline
// has to be moved, once in a 64th of the timeout (15 seconds at most), so reading costs
// replicas and the append-only file nothing. Sessions expire later by as much.
//
// Keys begin with [Options].Prefix. The index of an application is in 1,024 parts, each in
// the slot of the sessions that it is of. Nothing looks at keys of others.
//
// # Waiting for a lock
//
// Who waits stands in a line that is part of the session, in order of arrival whichever
// process they are of. Who gives the lock up tells the first, by a message to the one
// channel that his process listens on, once it has waited at all. (Plain channels: sharded
// ones belong to a slot, and each session that is waited for would need a subscription of
// its own.) A message that is lost costs a delay: who waits asks again after a quarter of
// a second, then at intervals that grow to four. A process that died in line holds those
// behind it up for half a second.
//
// # Ends
//
// One process of the farm at a time, whoever comes first when it is due, looks for what
// should have expired, every five seconds, and where ends are wanted every two. An end is
// part of the session's hash until it is acknowledged: it is delivered at least once, also
// if the process dies that ended the session, or that claimed the end. What a failover
// loses of an index is found by the session's key; what it loses of a session is lost.
//
// The sessions of a subject are a set in a slot of its own, so it changes apart from them:
// a session is put into it before it has the subject, and is looked at when the set is
// listed. What the set has too many of, lists and the sweep remove; what it lacks, after a
// failover, the sweep adds as it meets the session, at least once in its timeout.
//
// # Errors
//
// A call that was refused for the moment (a failover, a slot that moves, a server that
// loads its data), or whose reply was lost, is repeated with the same tokens until its
// deadline. Then it is [store.ErrUnavailable] if it was certainly not made, and else
// [store.ErrUnsure]. The client itself repeats nothing that writes, unless the server has
// sent it elsewhere.
//
// Permissions that a user of the server needs: the keys ~PREFIX:* and channels &PREFIX:*,
// and +eval +evalsha +hget +hmget +hset +hdel +hkeys +hlen +del +pexpire +pttl +time
// +publish +subscribe +unsubscribe +zadd +zscore +zcount +zrange +zrangebyscore +zrem
// +zremrangebyscore +zremrangebyrank +sadd +smembers +info +ping +hello +client, +cluster
// and +asking in a cluster, +wait for WaitReplicas, and +config|get to be told more at the
// beginning.
package redisstore
