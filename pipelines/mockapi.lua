-- Starts mockapi, the practice server built beside this program, and says where it listens.
-- It ends with the run: `pipe` stays open as long as this module is loaded.
local program = arg[-1]:match("^(.*)/") .. "/mockapi"
local pipe = assert(io.popen("exec '" .. program:gsub("'", "'\\''") .. "'"))
local base = assert(pipe:read("*l"), "mockapi did not start: " .. program)

return { base = base, pipe = pipe }
