-- What the host's stores are to Lua: the tests of test_lua_store.c, each a function that is called
-- with a host and an empty directory.

local host, dir, path, results

local PLAIN = {
  application_id = 5,
  migrations = { "CREATE TABLE t(k INTEGER PRIMARY KEY, v)" },
}

local function eq(a, b)
  if a ~= b then error(tostring(a) .. " is not " .. tostring(b), 2) end
end

local function raises(...)
  local ok, message = pcall(...)
  eq(ok, false)
  return message
end

local function open()
  return assert(host.store_open(path, PLAIN))
end

local function wait(job)
  while not results[job] do
    host.poll(10, function(id, result) results[id] = result end)
  end
  return results[job]
end

local function done(id, statements)
  return wait(host.store_run(id, statements))
end

local tests = {}

function tests.values_go_there_and_back()
  local id = open()
  local values = { 1, -2 ^ 53, 2 ^ 53, 0.5, 1e300, 1 / 0, "", "a\0ä", "\255\0", true, false }
  local types = { "integer", "integer", "integer", "real", "real", "real", "text", "text", "blob",
    "integer", "integer" }
  for i, v in ipairs(values) do
    local result = done(id, { { "INSERT INTO t(v) VALUES(?1)", v },
      { "SELECT v, typeof(v) FROM t WHERE k = ?1", i } })
    eq(result.changes, 1)
    if type(v) == "boolean" then v = v and 1 or 0 end
    eq(result.rows[1][1], v)
    eq(result.rows[1][2], types[i])
  end
  local rows = assert(host.store_read(id, "SELECT ?1, typeof(?2), ?3, typeof(?4)", nil,
    { blob = "x" }, "last"))
  eq(#rows, 1)
  eq(rows[1][1], nil)
  eq(rows[1][2], "blob")
  eq(rows[1][3], "last")
  eq(rows[1][4], "null")
  eq(host.store_read(id, "SELECT 9007199254740993")[1][1], "9007199254740993")
  eq(host.store_read(id, "SELECT -9223372036854775807 - 1")[1][1], "-9223372036854775808")
  eq(#host.store_read(id, "SELECT 1 WHERE 0"), 0)
  host.store_close(id)
end

-- As PRAGMA incremental_vacuum gives them, one for each page.
function tests.rows_without_columns_are_none()
  local id = assert(host.store_open(path, {
    application_id = 5, migrations = PLAIN.migrations, shrinks = true }))
  done(id, { { "INSERT INTO t(v) VALUES(zeroblob(100000))" } })
  done(id, { { "DELETE FROM t" } })
  local function free() return host.store_read(id, "PRAGMA freelist_count")[1][1] end
  eq(free() > 20, true)
  local result = done(id, { { "SELECT 7" }, { "PRAGMA incremental_vacuum" } })
  eq(#result.rows, 1)
  eq(result.rows[1][1], 7)
  eq(free(), 0)
  host.store_close(id)
end

function tests.a_statement_has_many_rows()
  local id = open()
  local rows = {}
  for i = 1, 500 do rows[i] = { i, i % 2 == 0 and "even" or nil } end
  local result = done(id, { { "INSERT INTO t(k, v) VALUES(?1, ?2)", rows = rows, width = 2 },
    { "SELECT count(*), count(v) FROM t" } })
  eq(result.changes, 500)
  eq(result.rows[1][1], 500)
  eq(result.rows[1][2], 250)
  eq(done(id, { { "DELETE FROM t WHERE k = ?1", rows = {}, width = 1 } }).changes, 0)
  eq(done(id, {}).changes, 0)
end

function tests.rows_may_be_one_list()
  local id = open()
  local result = done(id, {
    { "INSERT INTO t(v, k) VALUES(?1, ?2)", rows = { "a", 1, "b", 2, 5, 3 }, width = 2,
      blobs = "b-" },
    { "INSERT INTO t(v) VALUES(?1)", rows = {}, width = 1, blobs = "b" },
    { "SELECT group_concat(typeof(v) || ' ' || v) FROM t" },
  })
  eq(result.rows[1][1], "blob a,blob b,integer 5")
  eq(result.changes, 3)
  local message = raises(host.store_run, id,
    { { "INSERT INTO t(v) VALUES(?1)", rows = { 1, 2, 3 }, width = 2, blobs = "--" } })
  eq(message, "store_run: statement 1 has not the values of whole rows")
  raises(host.store_run, id, { { "SELECT ?1", rows = { 1 }, width = 1, blobs = "--" } })
  message = raises(host.store_run, id,
    { { "SELECT ?1", rows = { print }, width = 1, blobs = "-" } })
  eq(message, "store_run: value 1 of statement 1 must be nil, a boolean, a number, a text or "
    .. "{blob = text}")
end

function tests.a_row_may_go_to_two_statements()
  local id = open()
  local result = done(id, {
    { "INSERT INTO t(v) VALUES(?1)", also = "INSERT INTO t(v) VALUES(changes() * 10 + ?2)",
      rows = { { 1, 2 }, { 3, 4 } }, width = 2 },
    { "SELECT sum(v), count(*) FROM t" },
  })
  eq(result.rows[1][1], 1 + 12 + 3 + 14)
  eq(result.rows[1][2], 4)
  eq(result.changes, 4)
  local message = raises(host.store_run, id, { { "SELECT 1", also = 5 } })
  eq(message, "store_run: what statement 1 also runs is no SQL")
end

function tests.a_cache_has_options_of_its_own()
  local other = path .. ".cache"
  local function ask(options, sql)
    options.application_id, options.migrations = PLAIN.application_id, PLAIN.migrations
    local id = assert(host.store_open(other, options))
    local rows, _, message = host.store_read(id, sql)
    local result = done(id, { { sql } })
    host.store_close(id)
    os.remove(other)
    eq(rows and rows[1][1], result.rows and result.rows[1][1])
    return rows and rows[1][1] or message
  end
  local hash = "SELECT length(sha256(zstd('abc')))"
  eq(ask({ functions = true }, hash), 32)
  eq(ask({ snapshots = true, shrinks = true }, hash), "no such function: zstd")
  eq(ask({ shrinks = true }, "PRAGMA auto_vacuum"), 2)
  eq(ask({ functions = true, snapshots = true }, "PRAGMA auto_vacuum"), 0)
end

-- With snapshots reads see what was there when the loop waited the last time.
function tests.a_poll_ends_a_snapshot()
  local id, other = assert(host.store_open(path, { snapshots = true,
    application_id = PLAIN.application_id, migrations = PLAIN.migrations })), open()
  local function count() return assert(host.store_read(id, "SELECT count(*) FROM t"))[1][1] end
  eq(count(), 0)
  host.store_run(other, { { "INSERT INTO t(v) VALUES(1)" } })
  host.store_close(other) -- which waits for it
  eq(count(), 0)
  host.poll(0, function() end)
  eq(count(), 1)
end

function tests.jobs_have_numbers_below_zero()
  local id, other = open(), open()
  local jobs, seen = {}, {}
  for i = 1, 20 do
    jobs[i] = host.store_run(i % 2 == 0 and id or other, { { "SELECT ?1", i } })
    assert(jobs[i] < 0 and not seen[jobs[i]])
    seen[jobs[i]] = true
    host.cancel(jobs[i]) -- which does nothing
  end
  for i = 1, 20 do eq(wait(jobs[i]).rows[1][1], i) end
end

function tests.what_fails_is_told()
  local id = open()
  local result = done(id, { { "INSERT INTO t(k) VALUES(1)" }, { "INSERT INTO t(k) VALUES(1)" } })
  eq(result.fault, "state")
  eq(result.code, "constraint")
  eq(result.message, "UNIQUE constraint failed: t.k")
  eq(result.rows, nil)
  eq(host.store_read(id, "SELECT count(*) FROM t")[1][1], 0)
  local rows, code, message = host.store_read(id, "SELECT * FROM nowhere")
  eq(rows, nil)
  eq(code, "error")
  eq(message, "no such table: nowhere")
end

function tests.misuse_raises()
  local id = open()
  for text, statements in pairs {
    ["statement 1 is no table"] = { "SELECT 1" },
    ["statement 2 does not begin with SQL"] = { { "SELECT 1" }, {} },
    ["value 2 of statement 1 must be nil"] = { { "SELECT ?1, ?2", 1, print } },
    ["value 1 of statement 1 must be nil"] = { { "SELECT ?1", {} } },
    ["value 1 of statement 1 is not a number"] = { { "SELECT ?1", 0 / 0 } },
    ["statement 1 has rows, and no proper width"] = { { "SELECT ?1", rows = { { 1 } } } },
    ["row 2 of statement 1 is no table"] = { { "SELECT ?1", rows = { { 1 }, 2 }, width = 1 } },
    ["statement 1 has more than 999 values"] = { { "SELECT ?1", [1e9] = 1 } },
  } do
    local message = raises(host.store_run, id, statements)
    if not message:find(text, 1, true) then error(message) end
  end
  raises(host.store_run, id + 1, {})
  raises(host.store_run, id, 5)
  raises(host.store_read, id)
  raises(host.store_open, path)
  raises(host.store_open, path, { migrations = { {} } })
  host.store_close(id)
  raises(host.store_run, id, {})
  raises(host.store_read, id, "SELECT 1")
  raises(host.store_close, id)
end

function tests.refusals_have_names()
  local function refused(name, expected)
    local id, reason, message = host.store_open(dir .. "/" .. name, PLAIN)
    eq(id, nil)
    eq(reason, expected)
    assert(#message > 0)
  end
  local file = assert(io.open(path, "w"))
  file:write(("x"):rep(5000))
  file:close()
  refused("state.db", "not_a_database")
  refused("none/state.db", "failed")
  os.remove(path)
  local id = open()
  done(id, { { "PRAGMA user_version = 9" } })
  refused("state.db", "newer")
  done(id, { { "PRAGMA application_id = 9" } })
  refused("state.db", "foreign")
end

function tests.directories_are_made()
  eq(host.store_directory(dir .. "/a/b//"), true)
  eq(host.store_directory(dir .. "/a/b"), true)
  local function mode(name)
    local pipe = io.popen("stat -c %a " .. dir .. "/" .. name)
    local text = pipe:read "*l"
    pipe:close()
    return text
  end
  eq(mode "a", "777")
  eq(mode "a/b", "700")
  assert(io.open(dir .. "/file", "w")):close()
  local ok, message = host.store_directory(dir .. "/file")
  eq(ok, nil)
  eq(message, "Not a directory")
  eq(host.store_directory(dir .. "/file/below"), nil)
  eq(host.store_directory "", nil)
  eq(host.store_directory "/", true)
end

function tests.closing_does_what_was_submitted()
  local id = open()
  for i = 1, 100 do host.store_run(id, { { "INSERT INTO t(k) VALUES(?1)", i } }) end
  host.store_close(id)
  host.poll(0, function() error "a result of a closed store" end)
  id = open()
  eq(host.store_read(id, "SELECT count(*) FROM t")[1][1], 100)
end

function tests.an_error_in_deliver_is_raised_by_poll()
  local id = open()
  host.store_run(id, { { "SELECT 1" } })
  local second = host.store_run(id, { { "SELECT 2" } })
  local message = raises(function()
    while true do host.poll(10, function() error "mine" end) end
  end)
  assert(message:find "mine")
  eq(wait(second).rows[1][1], 2)
end

return function(name, ...)
  host, dir = ...
  path, results = dir .. "/state.db", {}
  tests[name]()
end
