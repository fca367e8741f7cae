-- The session ARGV[1] of the index KEYS[1] has an end that can be claimed. The answer is
-- whose are too many, if there are more than ARGV[2].
redis.call('ZREMRANGEBYRANK', KEYS[1], 1, 0) -- removes nothing, and lets it go on when the memory is full
redis.call('ZADD', KEYS[1], 'XX', ENDS + now, ARGV[1])
local over = redis.call('ZCOUNT', KEYS[1], '-inf', '(0') - ARGV[2]
if over <= 0 then
	return {}
end
return redis.call('ZRANGE', KEYS[1], 0, math.min(over, 100) - 1)
