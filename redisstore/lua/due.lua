-- KEYS[1] is the index of a bucket: its sessions, by when the sweep is to look at them.
-- Those that have ends to be claimed come first, with scores below zero (ENDS and when).
-- ARGV[1] is a session, ARGV[2] its timeout: the sweep looks no later.
redis.call('ZADD', KEYS[1], 'LT', now + ARGV[2], ARGV[1])
return 0
