-- `orchestrator cache`: what is cached, shown, checked and cleared. The answer goes to stdout, what
-- is wrong to stderr.

local cache_catalogue = require "orchestrator.cache_catalogue"
local cache_report = require "orchestrator.cache_report"
local cache_store = require "orchestrator.cache_store"
local cache_trouble = require "orchestrator.cache_trouble"
local errors = require "orchestrator.errors"
local stdout = require "orchestrator.stdout"
local url = require "orchestrator.url"

local write, write_json = stdout.write, stdout.write_json

local cache_command = {}

local FAILED, COULD_NOT_START = 1, 2

local GLOB = "Of which URLs: * stands for any text, ? for any character, [a-z] for one of these."

local HINT = ": it takes the whole URL, or * for any text, as in 'https://api.example.com/*'"

local EXIT_CODES = [[
exit status:
  0    done
  1    show: it is not cached; verify: something was wrong; or it failed
  2    could not start: usage, or the cache cannot be opened]]

--- Adds commands and options to the verb's parser.
function cache_command.define(p, common)
  p:usage [=[
Usage: orchestrator cache stats [options]
       orchestrator cache list [GLOB] [options]
       orchestrator cache show URL [options]
       orchestrator cache clear [GLOB] [options]
       orchestrator cache verify [options]]=]
  p:epilog(EXIT_CODES):command_target "action"
  local function command(name, summary)
    local c = p:command(name, summary)
    common(c)
    return c
  end
  command("stats", "How much there is, how much of it is fresh, and of which hosts.")
  command("list", "What there is, the last used first.")
    :argument("glob", GLOB):args("?"):argname "GLOB"
  command("show", "All about one URL: its fields, its age, whether it may be used and why.")
    :argument("url", "The whole URL, as list shows it, or a pattern."):argname "URL"
  command("clear", "Removes all, or what is of these URLs.")
    :argument("glob", GLOB):args("?"):argname "GLOB"
  command("verify", "Checks every body against its hash, and removes what is wrong.")
end

-- Commands --------------------------------------------------------------------------------------
-- Each is given what it works on: {env, opts, catalogue, now}. Without a catalogue nothing was ever
-- cached.

local commands = {}

-- Says that there is nothing of a URL or pattern, and why that may be.
local function say_nothing(work, asked)
  work.env.say("nothing is cached of " .. asked .. (asked:find "[*?%[]" and "" or HINT))
end

-- What the files of a database take.
local function bytes_on_disk(path)
  local sum = 0
  for _, ending in ipairs { "", "-wal" } do
    local file = io.open(path .. ending, "rb")
    if file then
      sum = sum + (file:seek "end" or 0)
      file:close()
    end
  end
  return sum
end

function commands.stats(work)
  local stats = work.catalogue and work.catalogue:stats(work.now)
    or { entries = 0, fresh = 0, bodies = 0, decoded = 0, stored = 0, hosts = {}, host_count = 0 }
  stats.file = bytes_on_disk(work.path)
  if work.opts.json then
    write_json(cache_report.stats_table(stats))
  else
    write(cache_report.stats_text(stats, work.path, work.now))
  end
  return 0
end

function commands.list(work)
  local found = false
  for row in work.catalogue and work.catalogue:rows(work.opts.glob) or function() end do
    if work.opts.json then
      write_json(cache_report.row_table(row, work.now))
    else
      if not found then write(cache_report.HEADER) end
      write(cache_report.line(row, work.now))
    end
    found = true
  end
  if not found then
    if work.opts.glob then
      say_nothing(work, work.opts.glob)
    else
      work.env.say("nothing is cached in " .. work.opts.state_dir)
    end
  end
  return 0
end

function commands.show(work)
  -- As it is stored: without fragment and credentials. A pattern may be no URL.
  local u = url.parse(work.opts.url, work.env.host.idn)
  local rows, more = {}, false
  if work.catalogue then rows, more = work.catalogue:find(u and u.text or work.opts.url) end
  for i, row in ipairs(rows) do
    local body = work.catalogue:body(row)
    if work.opts.json then
      write_json(cache_report.show_table(row, body, work.now))
    else
      write((i > 1 and "\n" or "") .. cache_report.show_text(row, body, work.now))
    end
  end
  if not rows[1] then
    say_nothing(work, work.opts.url)
    return FAILED
  end
  if more then
    work.env.say(string.format("there is more than these %d: orchestrator cache list names all",
      #rows))
  end
  return 0
end

local function report_cleared(work, removed)
  if work.opts.glob and removed.entries == 0 then say_nothing(work, work.opts.glob) end
  if work.opts.json then
    write_json { entries = removed.entries, bytes_stored = removed.stored }
  else
    write(cache_report.cleared_text(removed))
  end
  return 0
end

-- A cache can be done without, so one that is of no use any more may be removed as a file. The log
-- goes first: it must not be taken for that of the next one.
local function remove_files(work)
  local bytes = bytes_on_disk(work.path)
  for _, ending in ipairs { "-wal", "-shm", "" } do
    local ok, problem, code = os.remove(work.path .. ending)
    if not ok and code ~= 2 then -- ENOENT
      work.env.say(problem)
      return FAILED
    end
  end
  if work.opts.json then
    write_json { file = work.path, bytes_on_disk = bytes }
  else
    write(cache_report.removed_text(work.path, bytes))
  end
  return 0
end

function commands.clear(work)
  if not work.catalogue then return report_cleared(work, { entries = 0, stored = 0 }) end
  local ok, removed = pcall(work.catalogue.clear, work.catalogue, work.opts.glob)
  if ok then
    if work.opts.glob or not work.catalogue:damage() then return report_cleared(work, removed) end
  elseif work.opts.glob or not (errors.is(removed) and removed.code == "corrupt") then
    error(removed, 0)
  end
  work.store:close()
  work.store = nil
  return remove_files(work)
end

function commands.verify(work)
  local found = { entries = 0, bodies = 0, spoilt = 0, lost = 0, unreadable = 0, orphans = 0 }
  local damage
  if work.catalogue then
    local ok, result = pcall(function()
      damage = work.catalogue:damage()
      if not damage then found = work.catalogue:verify() end
    end)
    if not ok then
      if not (errors.is(result) and result.code == "corrupt") then error(result, 0) end
      damage = result.reason
    end
  end
  if work.opts.json then
    found.damage = damage
    write_json(found)
  elseif not damage then
    write(cache_report.verified_text(found))
  end
  if damage then
    work.env.say(cache_trouble.damaged(work.path, damage))
    return FAILED
  end
  return found.spoilt + found.lost + found.unreadable + found.orphans > 0 and FAILED or 0
end

-- The program -----------------------------------------------------------------------------------

-- Whether what cannot be opened is ours and of no use, so that `clear` may remove it.
local function is_removable(work)
  local id, reason = work.env.host.store_open(work.path,
    { application_id = cache_store.APPLICATION_ID, migrations = cache_store.MIGRATIONS })
  if id then work.env.host.store_close(id) end
  return reason == "corrupt" or reason == "newer"
end

local function work_of(env, opts)
  return { env = env, opts = opts, path = opts.state_dir .. "/cache.db", now = env.host.wall() }
end

--- Does it; a task.
---@param env table of the program
---@param opts table see `define`
---@return integer exit status
function cache_command.run(env, opts)
  local work = work_of(env, opts)
  if cache_store.is_there(env) then
    local store, problem = cache_store.open(env, true)
    if not store and opts.action == "clear" and not opts.glob and is_removable(work) then
      return remove_files(work)
    elseif not store then
      env.say(problem)
      return COULD_NOT_START
    end
    work.store, work.catalogue = store, cache_catalogue.new(store)
  end
  local ok, code = pcall(stdout.guarded, commands[opts.action], work)
  if work.store then work.store:close() end
  if ok then return code or FAILED end
  if not (errors.is(code) and code.kind == "invalid") then error(code, 0) end
  env.say(code.message)
  return FAILED
end

return cache_command
