-- Touch: ARGV[1] is keep.
if not open() then
	return absent()
end
if restart() then
	write()
end
return {OK}
