-- Save: ARGV[1] is keep, whether replicas are waited for, whether the subject is
-- registered, hold, the version that was read, the next one, the lock's owner and
-- cookie, a cookie to take it again with, the timeout and the flags; ARGV[2] the
-- subject, ARGV[3] the content. A refusal ends with whether the version that was read is
-- known still: if it is, no earlier try of the same Save was made.
local _, replicate, registered, hold, base, to, o, c, fresh, t, f = struct.unpack('>c1c1c1c1c8c8c8I4I4I8I4', ARGV[1])
local had = o ~= NONE or c ~= 0
if not open() then
	return absent()
end
if seen(to) then
	if replicate == '1' then
		write()
	end
	return {OK, 0, ''}
end
if since > 0 and not names(o, c) then
	if had then
		return {LOCK_LOST, seen(base) and 1 or 0}
	end
	return {LOCKED, cookie, owner, now - since, seen(base) and 1 or 0}
end
if version ~= base then
	return {had and LOCK_LOST or CONFLICT, seen(base) and 1 or 0}
end
if subject ~= ARGV[2] and ARGV[2] ~= '' and registered ~= '1' then
	return {SUBJECT}
end
local before = subject
history, version = version .. string.sub(history, 1, 16), to
flags, subject = f, ARGV[2]
local sooner = t < timeout
if sooner then
	deadline = 0
end
timeout = t
local free = hold ~= '1' or not had
if free then
	since, owner = 0, NONE
else
	if since == 0 then
		owner = o
		cookie = c ~= 0 and c or fresh
	end
	since, acquired = now, to
end
restart(free and 0 or now + stale)
write()
redis.call('HSET', key, 'b', ARGV[3])
if free then
	callNext()
end
return {OK, sooner and 1 or 0, before ~= subject and before or ''}
