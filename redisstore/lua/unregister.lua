-- KEYS[1] are the sessions of a subject; the others are taken out of them that were put
-- there longer ago than ARGV[1], which gives one that is about to begin the time to.
for i = 2, #ARGV do
	local at = redis.call('ZSCORE', KEYS[1], ARGV[i])
	if at and at + ARGV[1] < now then
		redis.call('ZREM', KEYS[1], ARGV[i])
	end
end
return 0
