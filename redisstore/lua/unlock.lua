-- Unlock, and the end of a wait: ARGV[1] is keep, whether only the place in the line is
-- given up, the owner and the cookie.
local _, leave, o, c = struct.unpack('>c1c1c8I4', ARGV[1])
if not open() then
	return absent()
end
readLine()
quit(o)
if since > 0 and leave ~= '1' then
	if not names(o, c) then
		return {LOCK_LOST}
	end
	since, owner = 0, NONE
	restart()
	write()
end
if since == 0 then
	callNext()
end
return {OK}
