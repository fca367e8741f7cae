-- KEYS[1] are the sessions of a subject, by when they were put there. ARGV[1] is one,
-- ARGV[2] how long the set is kept at least, ARGV[3] '1' if it is to be as if put now.
redis.call('ZREMRANGEBYRANK', KEYS[1], 1, 0) -- removes nothing, and lets it go on when the memory is full
redis.call('ZADD', KEYS[1], ARGV[3] == '1' and 'GT' or 'NX', now, ARGV[1])
if redis.call('PTTL', KEYS[1]) < ARGV[2] / 1000 then
	redis.call('PEXPIRE', KEYS[1], math.ceil(ARGV[2] / 1000))
end
return 0
