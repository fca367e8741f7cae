-- KEYS[1] is the index of a bucket: its sessions, by when the sweep is to look at them.
-- Those that have ends to be claimed come first, with scores below zero (ENDS and when).
-- ARGV[1] is a session, ARGV[2] its timeout: the sweep looks no later. The answer is
-- whether the session was there.
local at, was = now + ARGV[2], redis.call('ZSCORE', KEYS[1], ARGV[1])
was = was and tonumber(was)
if was and was <= at then
	-- The score is another one all the same: who has just seen that the session of before
	-- is gone would else take this one out, see rescore.
	if was >= 0 and was <= now then
		at = now + 1
	else
		at = was - 1
	end
end
redis.call('ZADD', KEYS[1], at, ARGV[1])
return was and 1 or 0
