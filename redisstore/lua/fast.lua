-- What most Loads come to, before anything else is defined: the session is there, and its
-- timeout need not be restarted. The header is as session.lua has it.
do
	local m, known = redis.call('HGET', KEYS[1], 'm'), string.sub(ARGV[1], 2)
	if m and #m >= 96 then
		local deadline, _, timeout, _, flags, _, since = struct.unpack('>I8c40I8c8I4c12I8', m)
		if now < deadline and now + timeout <= deadline then
			local age = since > 0 and now - since or -1
			if known == string.sub(m, 9, 16) and flags < 2 then -- see record
				return {0, age, m}
			end
			return {0, age, m, redis.call('HGET', KEYS[1], 'b')}
		end
	end
end
