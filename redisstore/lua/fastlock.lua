-- What most Locks come to, before anything else is defined: the session is there, its
-- lock is free and nobody waits, and its timeout need not be restarted. The header is as
-- session.lua has it, the arguments are as lock.lua has them.
do
	local m, w = unpack(redis.call('HMGET', KEYS[1], 'm', 'w'))
	if m and not w and #m >= 96 then
		local deadline, _, timeout, _, flags, _, since = struct.unpack('>I8c40I8c8I4c12I8', m)
		local _, _, o, s, c, _, rest = struct.unpack('>c1c1c8I8I4c8', ARGV[1])
		if since == 0 and now < deadline and now + math.max(timeout, s) <= deadline then
			local version = string.sub(m, 9, 16)
			m = string.sub(m, 1, 40) .. version .. string.sub(m, 49, 68) .. struct.pack('>I4c8I8I8', c, o, now, s) .. string.sub(m, 97)
			redis.call('HDEL', KEYS[1], 't') -- see write
			redis.call('HSET', KEYS[1], 'm', m)
			if string.sub(ARGV[1], rest) == version and flags < 2 then -- see record
				return {0, 0, m}
			end
			return {0, 0, m, redis.call('HGET', KEYS[1], 'b')}
		end
	end
end
