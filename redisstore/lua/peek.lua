-- What List asks: ARGV[1] is keep. It changes nothing.
if not m or #m < HEADER_SIZE then
	return {NOT_FOUND}
end
deadline, version, history, acquired, timeout, created, flags, cookie, owner, since, stale = struct.unpack(HEADER, m)
if now >= deadline then
	return {NOT_FOUND}
end
return {OK, age(), m}
