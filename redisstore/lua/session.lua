-- What every script of a session begins with. KEYS[1] is the session, a hash:
--
--   m   header and subject, while the session lives
--   b   its content
--   w   who waits for its lock: since when it is the first one's turn, then for each
--       the inbox of its process and the owner that it locks as
--   t   the tombstone of the life before
--   e…  an end that nobody has acknowledged
--
-- Nothing here has another key: while a slot moves to another node of a cluster, a
-- script with several keys, some of which have moved, is refused until all have.
-- Times are microseconds; versions, owners and inboxes have 8 bytes.

local OK, NOT_FOUND, LOCKED, LOCK_LOST, CONFLICT, EXISTS, TURN, SUBJECT = 0, 1, 2, 3, 4, 5, 6, 7
local EXPIRED, DAMAGED, MOVED = 1, 5, 6
local NONE = '\0\0\0\0\0\0\0\0'
local SECOND = 1000000
local HEADER, HEADER_SIZE = '>I8c8c24c8I8c8I4I4c8I8I8', 96
local TOMBSTONE = '>I8I8I1I2'

local key = KEYS[1]
local keep = string.byte(ARGV[1]) == 49 -- '1': ends are remembered
local deadline, version, history, acquired, timeout, created, flags
local cookie, owner, since, stale -- the lock is free while since is 0
local subject
local m = redis.call('HGET', key, 'm')

local function expire(time)
	redis.call('PEXPIRE', key, math.ceil(time / 1000))
end

-- write stores the header. The field that it deletes first is none: a script that has
-- begun to write may go on when the memory is full.
local function write()
	redis.call('HDEL', key, 't')
	m = struct.pack(HEADER, deadline, version, history, acquired, timeout, created, flags, cookie, owner, since, stale) .. subject
	redis.call('HSET', key, 'm', m)
end

-- tell wakes who waits: it asks for the lock then. If that is refused, to a user without
-- rights to channels, what was done is done all the same; who waits asks now and then.
local function tell(waiter)
	redis.pcall('PUBLISH', INBOXES .. string.sub(waiter, 1, 8), string.sub(waiter, 9) .. key)
end

-- finish ends the session and reports whether its end is remembered.
local function finish(kind, to, at)
	local body, waiting = unpack(redis.call('HMGET', key, 'b', 'w'))
	redis.call('HDEL', key, 'm', 'b', 'w')
	local remembered = keep and kind ~= MOVED and flags % 2 == 0
	if remembered then
		redis.call('HSET', key, 'e' .. version .. struct.pack('>I8', now),
			struct.pack('>I8I8I1I2', 0, at, kind, #to) .. to .. struct.pack('>I2', #m) .. m .. (body or ''))
	end
	local till = now + math.max(timeout, 2 * stale, 60 * SECOND)
	redis.call('HSET', key, 't', struct.pack(TOMBSTONE, at, till, kind, #to) .. to .. subject)
	if redis.call('HLEN', key) > 1 then
		till = math.max(till, now + RETENTION)
	end
	expire(till - now)
	m = false
	if waiting then
		for i = 9, #waiting, 16 do
			tell(string.sub(waiting, i, i + 15))
		end
	end
	return remembered
end

-- open reads the header, and reports whether the session is there.
local function open()
	if not m then
		return false
	end
	if #m < HEADER_SIZE then
		version, timeout, flags, stale, subject = NONE, 1200 * SECOND, 1, 0, ''
		finish(DAMAGED, '', now)
		return false
	end
	deadline, version, history, acquired, timeout, created, flags, cookie, owner, since, stale = struct.unpack(HEADER, m)
	subject = string.sub(m, HEADER_SIZE + 1)
	if now < deadline then
		return true
	end
	finish(EXPIRED, '', deadline)
	return false
end

-- absent is the answer about a session that is not there.
local function absent()
	local t = redis.call('HGET', key, 't')
	if t then
		local at, till, kind, length = struct.unpack(TOMBSTONE, t)
		if now < till then
			return {NOT_FOUND, kind, now - at, string.sub(t, 20, 19 + length)}
		end
	end
	return {NOT_FOUND, 0, 0, ''}
end

-- restart restarts the timeout, and reports whether the header is to be written for
-- it. The deadline is a little later than it need be, so that this is seldom so.
local function restart(least)
	least = math.max(now + timeout, least or 0)
	if deadline >= least then
		return false
	end
	deadline = least + math.min(math.floor(timeout / 64), 15 * SECOND) + STALENESS
	expire(deadline - now + (keep and RETENTION or math.max(timeout, 2 * stale, 3600 * SECOND)))
	return true
end

local function age()
	return since > 0 and now - since or -1
end

-- record is the answer about a session that is there, without the content if the
-- caller has it. Its version tells that only where no flags but Uninitialized are set:
-- see store.Moving.
local function record(known)
	if known == version and flags < 2 then
		return {OK, age(), m}
	end
	return {OK, age(), m, redis.call('HGET', key, 'b')}
end

local function seen(v)
	return v == version or v == string.sub(history, 1, 8) or v == string.sub(history, 9, 16) or v == string.sub(history, 17)
end

-- names reports whether the lock that is held is the one that a caller means.
local function names(o, c)
	return since > 0 and (o ~= NONE or c ~= 0) and (o == NONE or o == owner) and (c == 0 or c == cookie)
end
