-- What the sweep asks: ARGV[1] is keep, whether an end is claimed, and for how long.
-- The answer has whose the session was that is there no more, or is, and the end that
-- was claimed.
local _, claim, lease = struct.unpack('>c1c1I8', ARGV[1])
local there = open()
local taken, content = '', ''
if claim == '1' then
	eachEnd(function(name, e, claimed)
		if taken == '' and claimed <= now then
			taken, content = string.sub(name, 2), e
			redis.call('HDEL', key, name) -- also where the memory is full
			redis.call('HSET', key, name, struct.pack('>I8', now + lease) .. string.sub(e, 9))
		end
	end)
end
if not there then
	local t = redis.call('HGET', key, 't')
	subject = t and string.sub(t, 20 + struct.unpack('>I2', t, 18)) or ''
end
local deadline, ready = outlook()
return {deadline, ready, subject, taken, content, now}
