package main

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/holdfast-session/holdfast/stateserver"
	"github.com/holdfast-session/holdfast/store"
)

// A locker is one session that many want at once.
type locker interface {
	// reset makes it a new session with a content.
	reset(ctx context.Context, body []byte) error
	// acquire waits for the session and reads it; save writes it and gives it up.
	acquire(ctx context.Context) (body []byte, save func(context.Context, []byte) error, err error)
	// load reads it without waiting.
	load(ctx context.Context) ([]byte, error)
}

// An oursLocker waits at the state server.
type oursLocker struct {
	c  *stateserver.Client
	id store.ID
}

func (k *oursLocker) reset(ctx context.Context, body []byte) error {
	err := k.c.Remove(ctx, k.id, store.Lock{}, store.Reason{Kind: store.Abandoned})
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	rec := store.Record{Version: store.NewVersion(), Timeout: 20 * time.Minute, Body: body}
	return k.c.Create(ctx, k.id, &rec, false)
}

func (k *oursLocker) acquire(ctx context.Context) ([]byte, func(context.Context, []byte) error, error) {
	var rec store.Record
	if err := k.c.Lock(ctx, k.id, store.LockOptions{Owner: store.NewOwner(), Wait: time.Minute, Stale: time.Minute}, &rec); err != nil {
		return nil, nil, err
	}
	return rec.Body, func(ctx context.Context, body []byte) error {
		rec.Body = body
		return k.c.Save(ctx, k.id, &rec, store.NewVersion(), false)
	}, nil
}

func (k *oursLocker) load(ctx context.Context) ([]byte, error) {
	var rec store.Record
	err := k.c.Load(ctx, k.id, &rec)
	return rec.Body, err
}

// A redisLocker takes the lock by a script, and while another has it asks again
// after a pause. Without a pause it takes no lock at all.
type redisLocker struct {
	c           *redis.Client
	acquireName string // its name at Redis
	storeName   string
	key         string
	pause       time.Duration
}

func newRedisLocker(ctx context.Context, c *redis.Client, key string, pause time.Duration) (*redisLocker, error) {
	k := &redisLocker{c: c, key: key, pause: pause}
	var err, err2 error
	k.acquireName, err = c.ScriptLoad(ctx, acquireScript).Result()
	k.storeName, err2 = c.ScriptLoad(ctx, storeScript).Result()
	return k, errors.Join(err, err2)
}

func (k *redisLocker) reset(ctx context.Context, body []byte) error {
	return errors.Join(k.c.Del(ctx, k.key+":lock").Err(), k.c.Set(ctx, k.key, body, 20*time.Minute).Err())
}

func (k *redisLocker) acquire(ctx context.Context) ([]byte, func(context.Context, []byte) error, error) {
	if k.pause == 0 {
		body, err := k.load(ctx)
		return body, func(ctx context.Context, body []byte) error {
			return k.c.Set(ctx, k.key, body, 20*time.Minute).Err()
		}, err
	}
	token := strconv.FormatUint(store.NewOwner(), 16)
	keys := []string{k.key, k.key + ":lock"}
	for {
		body, err := k.c.EvalSha(ctx, k.acquireName, keys, token, lockMillis, timeoutMillis).Text()
		if err != nil && strings.Contains(err.Error(), "LOCKED") {
			time.Sleep(k.pause)
			continue
		}
		return []byte(body), func(ctx context.Context, body []byte) error {
			return k.c.EvalSha(ctx, k.storeName, keys, token, body, timeoutMillis).Err()
		}, err
	}
}

func (k *redisLocker) load(ctx context.Context) ([]byte, error) { return k.c.Get(ctx, k.key).Bytes() }
