-- What most Saves come to, of a session that is locked: nothing but its content and its
-- flags is another. See fastlock.lua.
do
	local m, w = unpack(redis.call('HMGET', KEYS[1], 'm', 'w'))
	if m and not w and #m >= 96 then
		local deadline, version, history, _, timeout, _, _, cookie, owner, since = struct.unpack('>I8c8c24c8I8c8I4I4c8I8', m)
		local _, _, _, hold, base, to, o, c, _, t, f = struct.unpack('>c1c1c1c1c8c8c8I4I4I8I4', ARGV[1])
		if since > 0 and hold ~= '1' and o == owner and c == cookie and c > 0 and
			version == base and to ~= base and t == timeout and string.sub(m, 97) == ARGV[2] and
			to ~= string.sub(history, 1, 8) and to ~= string.sub(history, 9, 16) and to ~= string.sub(history, 17) and
			now < deadline and now + timeout <= deadline then
			redis.call('HDEL', KEYS[1], 't') -- see write
			redis.call('HSET', KEYS[1], 'm', string.sub(m, 1, 8) .. to .. version .. string.sub(history, 1, 16) .. string.sub(m, 41, 64) ..
				struct.pack('>I4', f) .. string.sub(m, 69, 72) .. string.rep('\0', 16) .. string.sub(m, 89), 'b', ARGV[3])
			return {0, 0, ''}
		end
	end
end
