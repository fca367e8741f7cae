package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/cockroachdb/pebble/v2"
	"github.com/valkey-io/valkey-go"
	"go.etcd.io/bbolt"

	"github.com/holdfast-session/holdfast/logstore"
	"github.com/holdfast-session/holdfast/store"
)

var diskRow = row{
	name:  "disk",
	title: "Log store: sessions written to disk, in process",
	note: "Goroutines save sessions of 500 bytes, each its own, as fast as they are let. Synced: a save returns when the session is on the disk. " +
		"Written behind: it returns before, and a power cut costs what was not synced (the log store, SQLite and Redis lose nothing when the process is killed; pebble and bbolt have it in their memory or in the system's). " +
		"SQLite has a write-ahead log and a prepared statement; Redis is asked by valkey-go, which pipelines, and is a process of its own.",
	metrics: []metric{metricRate, metricP50, metricP99, metricOwnCPU, metricCPU},
	cells:   diskCells,
}

// A saver saves sessions: as goroutine i does it.
type saver func(i int) func(context.Context) error

// A disk is a way to keep sessions in a folder.
type disk struct {
	name string
	open func(s *suite, writers int) (saver, *server, error)
}

const diskCell = "synced, 64 writers"

func diskCells(s *suite) ([]cell, error) {
	if !s.onDisk() {
		return nil, nil
	}
	synced := []disk{
		{"holdfast logstore, Always", openLog(logstore.Always)}, {"pebble, Sync", openPebble(pebble.Sync)}, {"bbolt", openBolt(false)},
		{"SQLite, synchronous=FULL", openLite("FULL")}, {"Redis, AOF always", openAOF("always")},
	}
	behind := []disk{
		{"holdfast logstore, Interval", openLog(logstore.Interval)}, {"holdfast logstore, Never", openLog(logstore.Never)},
		{"pebble, NoSync", openPebble(pebble.NoSync)}, {"bbolt, NoSync", openBolt(true)},
		{"SQLite, synchronous=NORMAL", openLite("NORMAL")}, {"Redis, AOF everysec", openAOF("everysec")},
	}
	cells := []struct {
		name    string
		writers int
		disks   []disk
	}{{diskCell, 64, synced}, {"written behind, 64 writers", 64, behind}, {"synced, 1 writer", 1, synced}, {"written behind, 1 writer", 1, behind}}
	if s.quick {
		cells = cells[:2]
	}
	var all []cell
	for _, c := range cells {
		one := cell{name: c.name}
		for _, d := range c.disks {
			save, v, err := d.open(s, c.writers)
			if errors.Is(err, errAbsent) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", d.name, err)
			}
			one.sides = append(one.sides, call{d.name, v, func(i int) func(context.Context) (int, error) {
				do := save(i)
				return func(ctx context.Context) (int, error) { return smallSession, do(ctx) }
			}}.side(c.writers))
		}
		all = append(all, one)
	}
	return all, nil
}

func openLog(mode logstore.Sync) func(*suite, int) (saver, *server, error) {
	return func(s *suite, _ int) (saver, *server, error) {
		dir, err := s.temp("log-")
		if err != nil {
			return nil, nil, err
		}
		st, err := logstore.Open(dir, &logstore.Options{Sync: mode})
		if err != nil {
			return nil, nil, err
		}
		s.later(func() { st.Close() })
		for i := range maxCallers {
			rec := store.Record{Version: store.Version(i + 1), Timeout: idleTimeout, Body: make([]byte, smallSession)}
			if err := st.Create(context.Background(), callerID(i), &rec, false); err != nil {
				return nil, nil, err
			}
		}
		return func(i int) func(context.Context) error {
			id := callerID(i)
			var rec store.Record
			return func(ctx context.Context) error {
				if rec.Version == 0 {
					if err := st.Load(ctx, id, &rec); err != nil {
						return err
					}
				}
				next := store.NewVersion()
				binary.LittleEndian.PutUint64(rec.Body, uint64(next))
				err := st.Save(ctx, id, &rec, next, false)
				rec.Version = next
				return err
			}
		}, nil, nil
	}
}

func openPebble(o *pebble.WriteOptions) func(*suite, int) (saver, *server, error) {
	return func(s *suite, _ int) (saver, *server, error) {
		dir, err := s.temp("pebble-")
		if err != nil {
			return nil, nil, err
		}
		db, err := pebble.Open(dir, &pebble.Options{Logger: noLog{}})
		if err != nil {
			return nil, nil, err
		}
		s.later(func() { db.Close() })
		return saves(func(_ context.Context, key string, body []byte) error { return db.Set([]byte(key), body, o) }), nil, nil
	}
}

// noLog is a logger of pebble that says nothing.
type noLog struct{}

func (noLog) Infof(string, ...any)              {}
func (noLog) Errorf(string, ...any)             {}
func (noLog) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

// openBolt opens bbolt, which writes those who come together in one transaction; it is
// told how many there are, so that it need not wait for more.
func openBolt(noSync bool) func(*suite, int) (saver, *server, error) {
	return func(s *suite, writers int) (saver, *server, error) {
		dir, err := s.temp("bbolt-")
		if err != nil {
			return nil, nil, err
		}
		db, err := bbolt.Open(filepath.Join(dir, "db"), 0o600, &bbolt.Options{NoSync: noSync, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType})
		if err != nil {
			return nil, nil, err
		}
		s.later(func() { db.Close() })
		db.MaxBatchSize = writers
		bucket := []byte("sessions")
		if err := db.Update(func(tx *bbolt.Tx) error { _, err := tx.CreateBucket(bucket); return err }); err != nil {
			return nil, nil, err
		}
		return saves(func(_ context.Context, key string, body []byte) error {
			return db.Batch(func(tx *bbolt.Tx) error { return tx.Bucket(bucket).Put([]byte(key), body) })
		}), nil, nil
	}
}

func openLite(synchronous string) func(*suite, int) (saver, *server, error) {
	return func(s *suite, _ int) (saver, *server, error) {
		dir, err := s.temp("sqlite-")
		if err != nil {
			return nil, nil, err
		}
		db, err := openSQLite(dir, synchronous, "CREATE TABLE sessions (id TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID")
		if err != nil {
			return nil, nil, err
		}
		s.later(func() { db.Close() })
		db.SetMaxOpenConns(1) // it has one writer
		upsert, err := db.Prepare("INSERT INTO sessions VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET body = excluded.body")
		return saves(func(ctx context.Context, key string, body []byte) error {
			_, err := upsert.ExecContext(ctx, key, body)
			return err
		}), nil, err
	}
}

func openAOF(durable string) func(*suite, int) (saver, *server, error) {
	return func(s *suite, _ int) (saver, *server, error) {
		v, err := s.redis("tcp", durable)
		if err != nil {
			return nil, nil, err
		}
		c, err := valkey.NewClient(valkey.ClientOption{InitAddress: []string{v.address}})
		if err != nil {
			return nil, nil, err
		}
		s.later(c.Close)
		return saves(func(ctx context.Context, key string, body []byte) error {
			return c.Do(ctx, c.B().Set().Key(key).Value(valkey.BinaryString(body)).Build()).Error()
		}), v, nil
	}
}

// saves has each goroutine save a session of its own, with new content each time.
func saves(put func(ctx context.Context, key string, body []byte) error) saver {
	return func(i int) func(context.Context) error {
		key, body, n := sessionKey(0, i), make([]byte, smallSession), uint64(0)
		return func(ctx context.Context) error {
			n++
			binary.LittleEndian.PutUint64(body, n)
			return put(ctx, key, body)
		}
	}
}
