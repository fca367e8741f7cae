-- The ends of a session that nobody has acknowledged.

-- eachEnd calls f with the name, the content and the claim of each.
local function eachEnd(f)
	for _, name in ipairs(redis.call('HKEYS', key)) do
		if string.byte(name) == 101 then -- 'e'
			local e = redis.call('HGET', key, name)
			f(name, e, (struct.unpack('>I8', e)))
		end
	end
end

-- outlook is when the session is to be looked at next: when it expires, or 0; and when
-- it has an end that can be claimed, or 0.
local function outlook()
	local ready = 0
	eachEnd(function(_, _, claimed)
		claimed = math.max(claimed, now)
		if ready == 0 or claimed < ready then
			ready = claimed
		end
	end)
	return m and deadline or 0, ready
end
