-- KEYS[1] is what is known of an application. ARGV[1] is '1' if the caller wants its
-- ends, ARGV[2] what it would do, and ARGV[3] how long ago somebody did that the last
-- time, at least, for the caller to do it now. The answer is whether it does, whether
-- anybody wants the ends, and the time.
local DAY = 86400 * 1000000
redis.call('HDEL', KEYS[1], '') -- deletes nothing, and lets it go on when the memory is full
if ARGV[1] == '1' then
	redis.call('HSET', KEYS[1], 'wanted', now + DAY)
end
local last, wanted = unpack(redis.call('HMGET', KEYS[1], ARGV[2], 'wanted'))
last = tonumber(last) or 0
local mine = 0
if now >= last + ARGV[3] or now < last then
	mine = 1
	redis.call('HSET', KEYS[1], ARGV[2], now)
end
redis.call('PEXPIRE', KEYS[1], 30 * 86400000)
return {mine, now < (tonumber(wanted) or 0) and 1 or 0, now}
