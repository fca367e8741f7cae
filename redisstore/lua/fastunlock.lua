-- What most Unlocks come to: see fastlock.lua.
do
	local m, w = unpack(redis.call('HMGET', KEYS[1], 'm', 'w'))
	if m and not w and #m >= 96 then
		local deadline, _, timeout, _, cookie, owner, since = struct.unpack('>I8c40I8c12I4c8I8', m)
		local _, leave, o, c = struct.unpack('>c1c1c8I4', ARGV[1])
		if since > 0 and leave ~= '1' and o == owner and c == cookie and c > 0 and now < deadline and now + timeout <= deadline then
			redis.call('HDEL', KEYS[1], 't') -- see write
			redis.call('HSET', KEYS[1], 'm', string.sub(m, 1, 72) .. string.rep('\0', 16) .. string.sub(m, 89))
			return {0}
		end
	end
end
