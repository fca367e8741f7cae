-- Load: ARGV[1] is keep and the version that the caller has.
if not open() then
	return absent()
end
if restart() then
	write()
end
return record(string.sub(ARGV[1], 2))
