-- Lock: ARGV[1] is keep, how ('0' tries once, '1' would wait, '2' waits), the owner, its
-- lock timeout, a cookie, the inbox, and the version that the caller has.
local _, how, o, s, c, inbox, rest = struct.unpack('>c1c1c8I8I4c8', ARGV[1])
if not open() then
	return absent()
end
readLine()
local mine = since > 0 and owner == o
if since > 0 and not mine and (s == 0 or now - since < s) then
	if how == '2' then
		join(inbox, o)
	elseif how == '0' then
		quit(o)
	end
	return {LOCKED, cookie, owner, now - since}
end
if since == 0 and how ~= '0' and not mayTake(o) then
	if how == '2' then
		join(inbox, o)
	end
	return {TURN}
end
quit(o)
if not mine then
	cookie, owner, acquired = c, o, version
end
since, stale = now, s
restart(now + s)
write()
return record(string.sub(ARGV[1], rest))
