-- The line at a session's lock. It is in order of arrival, across processes. When the
-- lock is given up, the first in line is told, and for a moment nobody else who would
-- wait too gets it; who tries only once does.

local TURN_LASTS = SECOND / 2
local MOST_WAITING = 512

local turn, waiting -- waiting is nil until the line was read

local function readLine()
	local w = redis.call('HGET', key, 'w')
	if w then
		turn, waiting = struct.unpack('>I8', w), string.sub(w, 9)
	else
		turn, waiting = 0, ''
	end
end

local function writeLine()
	redis.call('HDEL', key, 't') -- see write
	if waiting == '' then
		redis.call('HDEL', key, 'w')
	else
		redis.call('HSET', key, 'w', struct.pack('>I8', turn) .. waiting)
	end
end

-- place is where o stands in the line, from 1, or nil.
local function place(o)
	for i = 1, #waiting, 16 do
		if string.sub(waiting, i + 8, i + 15) == o then
			return i
		end
	end
end

-- join puts who waits at the end of the line, unless it stands there.
local function join(inbox, o)
	if place(o) or #waiting >= 16 * MOST_WAITING then
		return
	end
	waiting = waiting .. inbox .. o
	writeLine()
end

-- quit takes who waits, or would, out of the line.
local function quit(o)
	local i = place(o)
	if i then
		waiting = string.sub(waiting, 1, i - 1) .. string.sub(waiting, i + 16)
		writeLine()
	end
end

-- mayTake reports whether o may have a lock that is free. A first in line that did not
-- come for it is dropped.
local function mayTake(o)
	if waiting == '' or string.sub(waiting, 9, 16) == o then
		return true
	end
	if turn > 0 and now >= turn and now < turn + TURN_LASTS then
		return false
	end
	waiting = string.sub(waiting, 17)
	writeLine()
	return true
end

-- callNext tells the first in line, if there is one, that the lock is free.
local function callNext()
	if not waiting then
		readLine()
	end
	if waiting ~= '' then
		turn = now
		writeLine()
		tell(string.sub(waiting, 1, 16))
	end
end
