-- Remove: ARGV[1] is keep, whether replicas are waited for, the lock's owner and cookie
-- and the kind of the reason; ARGV[2] where the session went.
local _, replicate, o, c, kind = struct.unpack('>c1c1c8I4I1', ARGV[1])
if not open() then
	if replicate == '1' then -- it is perhaps a repeat, of which no replica knows yet
		redis.call('HDEL', key, 'm')
		local t = redis.call('HGET', key, 't')
		if t then
			redis.call('HSET', key, 't', t)
		end
	end
	return absent()
end
if (o ~= NONE or c ~= 0) and not names(o, c) then
	return {LOCK_LOST}
end
finish(kind, ARGV[2], now)
return {OK}
