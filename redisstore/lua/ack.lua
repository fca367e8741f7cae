-- Ack: ARGV[1] is keep, ARGV[2] which end; none stands for the oldest.
local there = open()
local id = ARGV[2]
if id == '' then
	local oldest
	eachEnd(function(name, e)
		local _, at = struct.unpack('>I8I8', e)
		if not oldest or at < oldest then
			id, oldest = string.sub(name, 2), at
		end
	end)
end
redis.call('HDEL', key, 'e' .. id)
local deadline, ready = outlook()
if not there and ready == 0 then
	local t = redis.call('HGET', key, 't')
	redis.call('DEL', key)
	if t then -- alone, it takes least
		local _, till = struct.unpack(TOMBSTONE, t)
		redis.call('HSET', key, 't', t)
		expire(math.max(till - now, 1))
	end
end
return {deadline, ready}
