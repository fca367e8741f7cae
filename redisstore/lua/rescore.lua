-- ARGV has sessions of the index KEYS[1], the score that each had when it was looked at,
-- and the next one, empty for none. One that another has given a score since keeps it.
redis.call('ZREMRANGEBYRANK', KEYS[1], 1, 0) -- removes nothing, and lets it go on when the memory is full
for i = 1, #ARGV, 3 do
	local score = redis.call('ZSCORE', KEYS[1], ARGV[i])
	if score and tonumber(score) == tonumber(ARGV[i + 1]) then
		if ARGV[i + 2] == '' then
			redis.call('ZREM', KEYS[1], ARGV[i])
		else
			redis.call('ZADD', KEYS[1], ARGV[i + 2], ARGV[i])
		end
	end
end
return 0
