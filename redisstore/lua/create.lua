-- Create: ARGV[1] is keep, whether replicas are waited for, the version, the history,
-- the timeout, when it was created, the flags, a cookie, and the owner of the lock that
-- it is created with; ARGV[2] the subject, ARGV[3] the content.
local _, replicate, v, h, t, at, f, c, o = struct.unpack('>c1c1c8c24I8c8I4I4c8', ARGV[1])
if open() then
	if not seen(v) then
		return {EXISTS}
	end
	if replicate == '1' then
		write()
	end
	return {OK, owner == o and cookie or 0, created}
end
if at == NONE then
	at = struct.pack('>I8', now * 1000)
end
deadline, version, history, acquired, timeout, created, flags = 0, v, h, NONE, t, at, f
cookie, owner, since, stale, subject = 0, NONE, 0, 0, ARGV[2]
if o ~= NONE then
	cookie, owner, since, acquired = c, o, now, v
end
-- First the content, which takes the room: it is what a full memory refuses.
redis.call('HSET', key, 'b', ARGV[3])
restart()
write()
return {OK, cookie, created}
