package redisstore

import (
	"strconv"
	"strings"
)

// maxBuckets is how many parts the sessions of an application are in. The keys of one
// bucket share a hash tag, so they are in one slot of a cluster.
const maxBuckets = 1024

// A keyspace names keys:
//
//	prefix:{bucket}:app:s:session   a session
//	prefix:{bucket}:app:i           the index of a bucket: sessions by when to look at them
//	prefix:app:app                  what is known of an application
//	prefix:apps                     the applications
//	prefix:subject:app:subject      the sessions of a subject
//
// and the channels prefix:inbox:process. An application's name is escaped, so that
// nothing in it ends it.
type keyspace struct {
	prefix  string
	buckets int // maxBuckets, but in tests
}

// appKeys names the keys of one application.
type appKeys struct {
	keyspace
	app string // escaped
}

func (k keyspace) of(app string) appKeys { return appKeys{k, escape.Replace(app)} }

var escape = strings.NewReplacer("%", "%25", ":", "%3A", "{", "%7B", "}", "%7D")

func (k keyspace) apps() string    { return k.prefix + ":apps" }
func (k keyspace) inboxes() string { return k.prefix + ":inbox:" }

func (k appKeys) about() string { return k.prefix + ":app:" + k.app }

func (k appKeys) subject(subject string) string {
	return k.prefix + ":subject:" + k.app + ":" + subject
}

func (k appKeys) index(bucket int) string { return string(k.bucket(nil, bucket, "i")) }

func (k appKeys) session(session string) string {
	return string(append(k.bucket(make([]byte, 0, 128), k.bucketOf(session), "s:"), session...))
}

func (k appKeys) bucket(b []byte, bucket int, what string) []byte {
	b = append(append(b, k.prefix...), ":{"...)
	b = strconv.AppendInt(b, int64(bucket), 10)
	b = append(append(b, "}:"...), k.app...)
	return append(append(b, ':'), what...)
}

// bucketOf is the same in every process and version: sessions stay where they are.
func (k keyspace) bucketOf(session string) int {
	const offset, prime = 2166136261, 16777619 // FNV-1a
	h := uint32(offset)
	for i := range len(session) {
		h = (h ^ uint32(session[i])) * prime
	}
	return int(h^h>>16) % k.buckets
}
