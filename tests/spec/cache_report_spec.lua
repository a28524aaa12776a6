local cache_case = require "cache_case"
local cache_report = require "orchestrator.cache_report"
local json = require "orchestrator.json"

local NOW = cache_case.NOW
local EVIL = "\27]0;owned\7\27[2J\226\128\174\155"

local function row(fields, more, of)
  local entry = cache_case.entry(fields, more)
  local made = { entry = entry, stored = 5, hash = ("ab"):rep(32), used = NOW }
  for name, value in pairs(of or {}) do made[name] = value end
  return made
end

-- What is written has nothing in it that a terminal obeys.
local function safe(text)
  for line in text:gmatch "[^\n]*" do assert.is_nil(line:find "[%z\1-\31\127\155]", line) end
  assert.is_nil(text:find("\226\128\174", 1, true))
  return text
end

local function lines_of(text)
  local lines = {}
  for line in safe(text):gmatch "([^\n]*)\n" do lines[#lines + 1] = line end
  return lines
end

describe("cache_report", function()
  describe("of all", function()
    local stats = {
      entries = 1204, bodies = 1100, decoded = 12100000, stored = 3400000, file = 4194304,
      fresh = 804, oldest = NOW - 3 * 86400, newest = NOW - 5, host_count = 12,
      hosts = { { origin = "https://a.test", entries = 1000, size = 10100000 },
        { origin = "https://u:passw0rd@b.test" .. EVIL, entries = 1, size = 7 } },
    }

    it("is a few lines for people", function()
      local lines = lines_of(cache_report.stats_text(stats, "d/cache.db", NOW))
      assert.same({
        "d/cache.db",
        "  entries   1,204, 804 fresh, 400 stale",
        "  bodies    1,100, 12.1 MB, stored in 3.4 MB (3.6 : 1)",
        "  on disk   4.2 MB",
        "  stored    the oldest 3.0 d ago, the newest 5 s ago",
        "  hosts         1,000 entries,  10.1 MB  https://a.test",
      }, { unpack(lines, 1, 6) })
      assert.matches("^ +1 entry, +7 B  https://%*%*%*@b.test\\x1b", lines[7])
      assert.equal("            and 10 other hosts", lines[8])
    end)

    it("is a table for machines", function()
      local told = cache_report.stats_table(stats)
      assert.same({ 1204, 804, 400, 1100, 12100000, 3400000, 3.559, 4194304, 12 }, {
        told.entries, told.fresh, told.stale, told.bodies, told.bytes, told.bytes_stored,
        told.ratio, told.bytes_on_disk, told.host_count })
      assert.same({ "2023-11-11T22:13:20Z", "2023-11-14T22:13:15Z" }, { told.oldest, told.newest })
      assert.same({ host = "https://a.test", entries = 1000, size = 10100000 }, told.hosts[1])
      local text = assert(json.encode(told))
      assert.is_nil(text:find("passw0rd", 1, true))
    end)

    it("may be nothing", function()
      local none = { entries = 0, bodies = 0, decoded = 0, stored = 0, file = 0, fresh = 0,
        hosts = {}, host_count = 0 }
      assert.matches("entries   0, 0 fresh, 0 stale\n", cache_report.stats_text(none, "x", NOW))
      assert.matches('"hosts":%[%]', (json.encode(cache_report.stats_table(none))))
    end)
  end)

  describe("of one", function()
    it("is a line, aligned with the header", function()
      local told = row({ ["Cache-Control"] = "max-age=3600", Age = "300" },
        { size = 12345 }, { used = NOW - 120 })
      local line = safe(cache_report.line(told, NOW))
      assert.equal("200     55 min         5.0 min   12.3 kB   2.0 min  https://a.test/x?y=1\n",
        line)
      assert.equal(cache_report.HEADER:find "URL", line:find "https")
    end)

    it("says when it has to be asked for", function()
      for control, word in pairs {
        ["max-age=1"] = "stale", ["max-age=99, no-cache"] = "is asked for",
        ["max-age=99"] = "1.6 min",
      } do
        local line = cache_report.line(row { ["Cache-Control"] = control, Age = "2" }, NOW)
        assert.matches("^200     " .. word .. " ", line)
      end
    end)

    it("masks credentials and escapes controls", function()
      local told = row({}, { url = "https://u:passw0rd@a.test/" .. EVIL })
      local line = safe(cache_report.line(told, NOW))
      assert.matches("https://%*%*%*@a.test/\\x1b", line)
      assert(json.encode(cache_report.row_table(told, NOW)))
    end)

    it("is a table for machines", function()
      local told = row({ ["Cache-Control"] = "max-age=60", Age = "10", Vary = "Accept-Language" },
        { request = cache_case.request { ["Accept-Language"] = "de" } })
      assert.same({
        url = "https://a.test/x?y=1", status = 200, stored_at = "2023-11-14T22:13:20Z",
        used_at = "2023-11-14T22:13:20Z", age_s = 10, fresh_for_s = 50, use = "fresh", size = 10,
        size_stored = 5, sha256 = ("ab"):rep(32), vary = { ["accept-language"] = "de" },
      }, cache_report.row_table(told, NOW))
      assert.equal(-40, cache_report.row_table(told, NOW + 90).fresh_for_s)
    end)
  end)

  describe("in full", function()
    local fields = {
      ["Cache-Control"] = "max-age=60", ETag = '"v1"', Vary = "Authorization, Accept-Language",
      ["Set-Cookie"] = "sid=s3cret", ["X-Evil"] = EVIL,
    }
    local request = { Authorization = "Bearer t0ken", ["Accept-Language"] = "de" }
    local told = row(fields, { request = cache_case.request(request), size = 20 },
      { used = NOW - 60 })
    local BODY = '{"a":1,\r\n\t"b":"\27[2J\155"}'

    it("says everything", function()
      local text = safe(cache_report.show_text(told, BODY, NOW + 30))
      for _, part in ipairs {
        "https://a.test/x?y=1\n  status   200\n  stored   2023-11-14 22:13:20 UTC, 30 s ago\n",
        "  used     1.5 min ago\n  age      30 s\n",
        "  use      fresh for 30 s: may be used without asking\n",
        "\n  because  max-age: fresh for 60 s\n",
        "           the server can confirm it by ETag\n",
        "  for      requests with accept-language: de\n",
        "  for      requests with authorization: ***\n",
        "  body     20 B, stored in 5 B, SHA-256 abab",
        "fields\n", '  ETag: "v1"\n', "  Set-Cookie: ***\n", "  X-Evil: \\x1b]0;owned\\x07",
        'body\n  {"a":1,\n    "b":"\\x1b[2J\\x9b"}\n',
      } do
        assert(text:find(part, 1, true), part .. "\nis not in\n" .. text)
      end
    end)

    it("says it to machines", function()
      local shown = cache_report.show_table(told, '{"a":1}', NOW + 90)
      assert.same({ "ask", -30, '{"a":1}', nil }, { shown.use, shown.fresh_for_s, shown.body,
        shown.truncated })
      assert.same({ ["accept-language"] = "de", authorization = "***" }, shown.vary)
      assert.matches("^max%-age", shown.because[1])
      assert.same({ "Cache-Control", "max-age=60" }, shown.fields[1])
      local text = assert(json.encode(shown))
      for _, secret in ipairs { "s3cret", "t0ken" } do assert.is_nil(text:find(secret, 1, true)) end
    end)

    it("keeps no hash of a credential in sight", function()
      local hash = told.entry.vary.authorization
      assert.matches("^sha256:", hash)
      assert.is_nil(cache_report.show_text(told, BODY, NOW):find(hash:sub(8, 20), 1, true))
    end)

    for use, case in pairs {
      ["stale since 10 s: the server is asked first"] = "max-age=60",
      ["stale since 10 s: may still be used, while the server is asked"] =
        "max-age=60, stale-while-revalidate=60",
      ["the server is asked first"] = "max-age=600, no-cache",
    } do
      it("says: " .. use, function()
        local text = cache_report.show_text(row { ["Cache-Control"] = case }, "", NOW + 70)
        assert(text:find("  use      " .. use .. "\n", 1, true), text)
      end)
    end

    it("shows the beginning of a long body, in whole characters", function()
      local long = ("ä"):rep(499) .. "x" .. ("ä"):rep(600)
      local text = safe(cache_report.show_text(told, long, NOW))
      assert(text:find("body\n  " .. ("ä"):rep(499) .. "x\n  … and 1,200 more bytes\n", 1, true))
      local shown = cache_report.show_table(told, long, NOW)
      assert.same({ ("ä"):rep(499) .. "x", true }, { shown.body, shown.truncated })
      text = cache_report.show_text(told, ("l\n"):rep(30), NOW)
      assert.matches("\nbody\n" .. ("  l\n"):rep(20) .. "  … and 20 more bytes\n$", text)
    end)

    it("shows no body that is no text", function()
      local text = safe(cache_report.show_text(told, "PNG\0\1\2", NOW))
      assert.matches("\nbody\n  %(no text%)\n$", text)
      assert.is_nil(cache_report.show_table(told, "PNG\0\1\2", NOW).body)
      assert.is_nil(cache_report.show_table(told, "a\255", NOW).body)
      assert.is_nil(cache_report.show_text(told, "", NOW):find "\nbody\n")
      assert.matches("\nthe body is gone\n$", cache_report.show_text(told, nil, NOW))
    end)

    it("names the part that it is", function()
      local part = row({ ["Content-Range"] = "bytes 0-9/100" }, { status = 206 })
      assert.matches("  part     bytes 0 to 9 of 100\n", cache_report.show_text(part, "0123456789",
        NOW))
      assert.same({ first = 0, last = 9, size = 100 }, cache_report.row_table(part, NOW).range)
    end)
  end)

  it("counts what was wrong", function()
    local found = { entries = 1, bodies = 2000, spoilt = 0, lost = 0, unreadable = 0, orphans = 0 }
    assert.equal("checked 1 entry and 2,000 bodies: nothing is wrong\n",
      cache_report.verified_text(found))
    found.spoilt, found.lost, found.unreadable, found.orphans = 1, 2, 1, 3
    assert.equal("checked 1 entry and 2,000 bodies\n"
      .. "  removed 1 body that does not match its hash\n"
      .. "  removed 2 entries without their bodies\n  removed 1 entry that cannot be read\n"
      .. "  removed 3 bodies without an entry\n", cache_report.verified_text(found))
  end)

  it("counts what was cleared", function()
    assert.equal("removed 1 entry, 1.0 kB\n",
      cache_report.cleared_text { entries = 1, stored = 1000 })
    assert.equal("removed 0 entries, 0 B\n", cache_report.cleared_text { entries = 0, stored = 0 })
  end)
end)
