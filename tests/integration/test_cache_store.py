"""The database of cached responses: when it is shared, full, damaged, or its program killed."""

import contextlib
import ctypes
import hashlib
import os
import random
import sqlite3
import stat
import time
import unittest

from program import PRELUDE, SANITIZED, Case

ZSTD = ctypes.CDLL("libzstd.so.1")
ZSTD.ZSTD_decompress.restype = ctypes.c_size_t

# open() gives a store of its own on the same directory; wait(s) until all is written.
LIBRARY = (
    PRELUDE
    + """
local cache_store = require "orchestrator.cache_store"
local crypto = require "orchestrator.core.crypto"
local client, stores, warnings = orc.client {}, {}, {}
local sched, host = client.sched, client.host
local function open()
  local store, problem = cache_store.open { sched = sched, host = host, state_dir = "st",
    voice = { log = { warn = function(_, text) warnings[#warnings + 1] = text end } } }
  if not store then emit { problem = problem }; os.exit(0) end
  stores[#stores + 1] = store
  return store
end
local function key(name) return crypto.hex((crypto.hash("sha256", name))) end
local function entry(name, more)
  local e = { key = key(name), url = "http://a.test/" .. name, status = 200, vary = {}, size = 0,
    fields = { { "Cache-Control", "max-age=60" }, { "X-Name", name } },
    request_time = 1, response_time = 2 }
  for k, v in pairs(more or {}) do e[k] = v end
  return e
end
local function put(s, name, text, replaced)
  local e = entry(name)
  s:put(e, text, replaced or {})
  return e
end
local function bodies(s, name)
  local list = {}
  for i, e in ipairs(s:get(key(name))) do list[i] = s:body(e) or "gone" end
  return table.concat(list, ",")
end
local function has(s, name) return s:get(key(name))[1] ~= nil end
local function noise(size)
  local parts = {}
  for i = 1, math.ceil(size / 1024) do parts[i] = crypto.random(1024) end
  return table.concat(parts):sub(1, size)
end
local function finish(s)
  s:finish()
  s:close()
end
"""
)


def unpacked(data, size):
    """What a body was, by zstd itself; None when it cannot be."""
    if len(data) == size:
        return data
    room = ctypes.create_string_buffer(size + 1)
    if ZSTD.ZSTD_decompress(room, ctypes.c_size_t(size), data, ctypes.c_size_t(len(data))) != size:
        return None
    return room.raw[:size]


class StoreCase(Case):
    def run_with(self, source, *args, **options):
        return self.script(LIBRARY + source, *args, **options)

    @contextlib.contextmanager
    def database(self):
        with contextlib.closing(sqlite3.connect(self.path("st", "cache.db"))) as database:
            with database:
                yield database

    def count(self, what="entries"):
        with self.database() as database:
            return database.execute(f"SELECT count(*) FROM {what}").fetchone()[0]

    def assert_whole(self):
        """Every entry has its body, and every body is what it hashes to, and of an entry."""
        with self.database() as database:
            self.assertEqual(database.execute("PRAGMA integrity_check").fetchall(), [("ok",)])
            for body, size, data, digest in database.execute(
                "SELECT e.body, b.size, b.data, b.hash "
                "FROM entries e LEFT JOIN bodies b ON b.id = e.body"
            ):
                self.assertIsNotNone(data, f"body {body} is not there")
                text = unpacked(data, size)
                self.assertIsNotNone(text)
                self.assertEqual(hashlib.sha256(text).digest(), digest)
            orphans = "bodies WHERE id NOT IN (SELECT body FROM entries)"
        self.assertEqual(self.count(orphans), 0)


class Kept(StoreCase):
    def test_what_is_put_is_there_at_once_and_later(self):
        run = self.run_with(
            """
            local s = open()
            local large = noise(300000) .. ("x"):rep(300000)
            put(s, "a", "body")
            put(s, "empty", "")
            put(s, "large", large)
            local function all()
              local e = s:get(key "a")[1]
              return { bodies(s, "a"), bodies(s, "empty"), bodies(s, "large") == large,
                #s:get(key "none"), e.url, e.fields, e.key == key "a" }
            end
            emit(all()) -- waits
            s:soon()
            orc.sleep(0.15)
            emit(all()) -- perhaps is being written
            s:finish()
            emit(all())
            finish(s)
            s = open()
            emit(all())
            finish(s)
            """
        )
        for value in run.values:
            fields = [["Cache-Control", "max-age=60"], ["X-Name", "a"]]
            expected = ["body", "", True, 0, "http://a.test/a", fields, True]
            self.assertEqual(value, expected)
        self.assertEqual(len(run.values), 4)
        self.assert_whole()
        self.assertEqual(stat.S_IMODE(os.stat(self.path("st")).st_mode), 0o700)
        self.assertEqual(stat.S_IMODE(os.stat(self.path("st", "cache.db")).st_mode), 0o600)

    def test_files_are_private_while_they_are_used(self):
        run = self.run_with(
            """
            local s = open()
            put(s, "a", "body")
            s:finish()
            local list = io.popen "stat -c '%a %n' st/*"
            emit(list:read "*a")
            list:close()
            finish(s)
            """
        )
        self.assertEqual(run.value, "600 st/cache.db\n600 st/cache.db-shm\n600 st/cache.db-wal\n")

    def test_closing_writes_what_waits(self):
        self.run_with('local s = open(); put(s, "a", "body"); s:close()')
        self.run_with('local s = open(); put(s, "b", "body"); put(s, "b2", "body"); s:finish()')
        self.assertEqual(self.count(), 3)
        self.assertEqual(self.count("bodies"), 1)
        self.assert_whole()

    def test_changes(self):
        run = self.run_with(
            """
            local s = open()
            local function look() emit { bodies(s, "a"), bodies(s, "b"), bodies(s, "c") } end
            -- Each is looked at before and after it is written.
            local function step(fn)
              fn()
              look()
              s:finish()
              look()
            end
            step(function() put(s, "a", "1"); put(s, "a", "2"); put(s, "b", "1") end)
            step(function() s:remove(s:get(key "a")[2]) end)
            step(function() put(s, "a", "3", s:get(key "a")) end)
            step(function()
              local old = s:get(key "b")[1]
              s:update(old, entry("b", { status = 203 }))
              emit(s:get(key "b")[1].status)
            end)
            emit(s:get(key "b")[1].status)
            step(function() s:void "http://a.test/a"; put(s, "a", "4") end)
            step(function() local e = put(s, "c", "5"); s:update(e, entry("c")); s:remove(e) end)
            step(function() s:void "http://a.test/a"; s:void "http://a.test/b" end)
            finish(s)
            """
        )
        expected = []
        for state in (
            ["2,1", "1", ""],
            ["2", "1", ""],
            ["3", "1", ""],
            203,
            ["3", "1", ""],
            203,
            ["4", "1", ""],
            ["4", "1", ""],
            ["", "", ""],
        ):
            expected += [state] if state == 203 else [state, state]
        self.assertEqual(run.values, expected)
        self.assertEqual(self.count("bodies"), 0)
        self.assert_whole()

    def test_changes_of_what_is_being_written(self):
        run = self.run_with(
            """
            local s = open()
            local function flying()
              s:soon()
              while not s.flying do orc.sleep(0.001) end
            end
            local a, b = put(s, "a", "1"), put(s, "b", "2")
            put(s, "c", "3")
            s.batch.bytes = 1e9 -- so that it does not wait for more
            s:soon()
            emit(s.flying ~= nil)
            s:remove(a)
            s:update(b, entry("b", { status = 203 }))
            s:void "http://a.test/c"
            local function all()
              return { bodies(s, "a"), bodies(s, "b"), s:get(key "b")[1].status, bodies(s, "c") }
            end
            emit(all())
            s:finish()
            emit(all())
            finish(s)
            """
        )
        state = ["", "2", 203, ""]
        self.assertEqual(run.values, [True, state, state])
        self.assert_whole()

    def test_bodies_are_compressed_and_kept_once(self):
        self.run_with(
            """
            local s = open()
            for i = 1, 50 do put(s, "same" .. i, ("text "):rep(10000)) end
            for i = 1, 5 do s:remove(s:get(key("same" .. i))[1]) end
            put(s, "noise", noise(5000))
            finish(s)
            """
        )
        self.assertEqual(self.count(), 46)
        with self.database() as database:
            sql = "SELECT size, length(data) FROM bodies ORDER BY size"
            rows = database.execute(sql).fetchall()
        self.assertEqual(rows[0], (5000, 5000))
        self.assertEqual(rows[1][0], 50000)
        self.assertLess(rows[1][1], 200)
        self.assert_whole()

    def test_a_key_has_not_more_than_can_be_looked_at(self):
        run = self.run_with(
            """
            local s = open()
            for i = 1, 100 do put(s, "a", tostring(i)) end
            s:finish()
            emit(#s:get(key "a"))
            s:finish()
            emit((bodies(s, "a"):match "^[^,]*"))
            finish(s)
            """
        )
        self.assertEqual(run.values, [32, "100"])
        self.assertEqual(self.count(), 32)


class Shared(StoreCase):
    def test_programs_see_what_others_write(self):
        run = self.run_with(
            """
            local one, two = open(), open()
            local front = require("orchestrator.cache_front").new(two, 1e6)
            local function look() orc.sleep(0.11); emit { bodies(two, "a"), bodies(front, "a") } end
            look()
            local old = put(one, "a", "1")
            one:finish()
            look()
            put(one, "a", "2", { old })
            one:finish()
            look()
            one:void "http://a.test/a"
            one:finish()
            look()
            put(two, "a", "3")
            put(one, "a", "4")
            one:finish()
            two:finish()
            emit(#one:get(key "a"))
            one:close()
            two:close()
            """
        )
        self.assertEqual(run.values, [["", ""], ["1", "1"], ["2", "2"], ["", ""], 2])
        self.assert_whole()

    def test_what_another_has_replaced_is_not_changed_again(self):
        run = self.run_with(
            """
            local one, two = open(), open()
            put(one, "a", "1")
            one:finish()
            local seen = two:get(key "a")[1]
            one:remove(one:get(key "a")[1])
            one:finish()
            put(one, "a", "2")
            one:finish()
            two:update(seen, entry("a", { status = 203 }))
            two:finish()
            two:remove(seen)
            two:finish()
            emit { bodies(one, "a"), one:get(key "a")[1].status, two:body(seen) or false }
            one:close()
            two:close()
            """
        )
        self.assertEqual(run.value, ["2", 200, "1"])  # a short one was read with its entry


class Limited(StoreCase):
    def test_what_was_used_last_is_kept(self):
        run = self.run_with(
            """
            local s = open()
            local now, wall = host.wall(), host.wall
            s.host = setmetatable({ wall = function() return now end }, { __index = host })
            s:limit(500000)
            for i = 1, 100 do
              put(s, "n" .. i, noise(10000))
              now = now + 100
              if has(s, "n1") then assert(s:body(s:get(key "n1")[1])) end
              s:finish()
            end
            local kept = {}
            for i = 1, 100 do if has(s, "n" .. i) then kept[#kept + 1] = i end end
            emit(kept)
            put(s, "large", noise(500001))
            emit(has(s, "large"))
            s:limit(400000) -- does not take back what was granted
            put(s, "fits", noise(400000))
            s:finish()
            emit(has(s, "fits"))
            s:finish()
            emit(has(s, "fits"))
            finish(s)
            """
        )
        kept, large, *fits = run.values
        self.assertEqual(kept[0], 1)
        self.assertEqual(kept[1:], list(range(kept[1], 101)))
        self.assertGreater(len(kept), 30)
        self.assertFalse(large)
        self.assertEqual(fits, [True, True])
        self.assertLess(os.path.getsize(self.path("st", "cache.db")), 1_100_000)
        self.assert_whole()

    def test_a_file_that_is_too_large_gives_pages_back(self):
        source = """
            local s = open()
            s:limit(tonumber(P.limit))
            for i = 1, tonumber(P.count) do put(s, P.name .. i, noise(100000)) end
            s:finish()
            emit(has(s, P.name .. P.count))
            finish(s)
            """
        self.run_with(source, "limit=50000000", "count=400", "name=a")
        size = os.path.getsize(self.path("st", "cache.db"))
        self.assertGreater(size, 40_000_000)
        run = self.run_with(source, "limit=2000000", "count=1", "name=b")
        self.assertTrue(run.value)
        self.assertLess(os.path.getsize(self.path("st", "cache.db")), 26_000_000)
        self.assertLess(self.count(), 21)
        self.assert_whole()

    def test_nothing_fits(self):
        run = self.run_with(
            """
            local s = open()
            s:limit(10)
            put(s, "a", "12345678901")
            put(s, "b", "1")
            s:finish()
            emit { has(s, "a"), has(s, "b") }
            finish(s)
            """
        )
        self.assertEqual(run.value, [False, False])


class Damaged(StoreCase):
    def fill(self, long=100_000):
        self.run_with(
            """
            local s = open()
            for i = 1, 3 do put(s, "n" .. i, ("text %d "):format(i):rep(1000)) end
            put(s, "plain", noise(100))
            put(s, "plain2", noise(100))
            put(s, "long", noise(tonumber(P.long)))
            finish(s)
            """,
            f"long={long}",
        )

    READ = """
        local s = open()
        for i = 1, 2 do
          local seen = {}
          for _, name in ipairs { "n1", "n2", "n3", "plain", "plain2", "long" } do
            local e = s:get(key(name))[1]
            local text = e and s:body(e)
            seen[#seen + 1] = e == nil and "none" or text == nil and "gone" or #text
          end
          emit(seen)
          s:finish()
        end
        emit(table.concat(warnings, "\\n"))
        finish(s)
        """

    def test_a_body_that_is_not_what_it_was_is_a_miss(self):
        changes = (
            "data = CAST(substr(data, 1, 40) || x'ff' || substr(data, 42) AS BLOB)",
            "data = substr(data, 1, length(data) - 1)",
            "data = x''",
            "size = size + 1",
            "size = -1",
            "size = 1 << 60",
            "hash = CAST(substr(hash, 1, 8) || zeroblob(24) AS BLOB)",
        )
        for change in changes:
            with self.subTest(change):
                self.fill()
                with self.database() as database:
                    which = "id IN (SELECT body FROM entries WHERE url GLOB '*/n1' OR "
                    which += "url GLOB '*/plain' OR url GLOB '*/long')"
                    sql = f"UPDATE bodies SET {change} WHERE {which}"
                    self.assertEqual(database.execute(sql).rowcount, 3)
                first, second, warnings = self.run_with(self.READ).values
                self.assertEqual(first, ["gone", 7000, 7000, "gone", 100, "gone"])
                self.assertEqual(second, ["none", 7000, 7000, "none", 100, "none"])
                self.assertEqual(warnings, "")
                self.assert_whole()
                os.unlink(self.path("st", "cache.db"))

    def test_an_entry_that_cannot_be_read_is_a_miss(self):
        for document in ("x''", "x'00'", "CAST('{}' AS BLOB)", "substr(document, 1, 20)"):
            with self.subTest(document):
                self.fill()
                with self.database() as database:
                    sql = f"UPDATE entries SET document = {document} WHERE url GLOB '*n1'"
                    database.execute(sql)
                first, second, warnings = self.run_with(self.READ).values
                self.assertEqual(first, ["none", 7000, 7000, 100, 100, 100000])
                self.assertEqual(second, first)
                self.assertEqual(warnings, "")
                self.assertEqual(self.count(), 5)
                self.assert_whole()
                os.unlink(self.path("st", "cache.db"))

    def test_one_that_cannot_be_opened_says_what_to_do(self):
        self.fill()
        path = self.path("st", "cache.db")
        with open(path, "rb") as file:
            whole = file.read()

        def damaged(text):
            with open(path, "wb") as file:
                file.write(text)
            run = self.run_with("open()")
            with open(path, "rb") as file:
                self.assertEqual(file.read(), text)  # it is left as it is
            return run.value["problem"]

        clear = r"\): `orchestrator cache clear --state-dir st` removes it$"
        self.assertRegex(damaged(whole[:5000]), r"^st/cache\.db is damaged \(.*" + clear)
        cut_off = r"^st/cache\.db is damaged \(it was cut off: there are 0 bytes"
        self.assertRegex(damaged(b""), cut_off + clear)
        self.assertRegex(damaged(b"text " * 1000), r"^st/cache\.db: .*; move it away, or name")
        newer = bytearray(whole)
        newer[60:64] = (99).to_bytes(4, "big")
        self.assertRegex(
            damaged(newer), r"its version is 99, known are.*; use the version of orchestrator that"
        )
        foreign = bytearray(whole)
        foreign[68:72] = (5).to_bytes(4, "big")
        self.assertRegex(damaged(foreign), r"; it belongs to another program: name another dir")

    def test_damage_that_is_met_later_is_a_miss_and_a_warning(self):
        self.fill(5_000_000)  # too large to be looked through when it is opened
        path = self.path("st", "cache.db")
        size = os.path.getsize(path)
        with open(path, "r+b") as file:
            for page in range(3, size // 4096):
                file.seek(page * 4096)
                file.write(b"\xff" * 4096)
        run = self.run_with(
            """
            local s = open()
            local seen = {}
            for i = 1, 20 do seen[i] = has(s, "n" .. i) end
            emit(seen)
            for i = 1, 20 do put(s, "m" .. i, "text") end
            s:finish()
            put(s, "o", "text")
            s:finish()
            emit(table.concat(warnings, "\\n"))
            finish(s)
            """
        )
        seen, warnings = run.values
        self.assertEqual(seen, [False] * 20)
        self.assertEqual(warnings.count("\n"), 0)
        self.assertRegex(
            warnings, r"^st/cache\.db is damaged \(.*malformed.*\), nothing is read .* removes it$"
        )


class Failing(StoreCase):
    def test_a_full_disk_costs_a_warning(self):
        run = self.run_with(
            """
            local s = open()
            put(s, "old", "text")
            s:finish()
            host.store_run(s.id, { { "PRAGMA max_page_count = 30" } })
            put(s, "large", noise(300000), { s:get(key "old")[1] })
            put(s, "small", "text")
            emit { has(s, "large"), has(s, "old") }
            s:finish()
            emit { has(s, "large"), has(s, "small"), has(s, "old") } -- what is void stays void
            put(s, "later", "text")
            s:finish()
            emit { has(s, "later"), warnings }
            finish(s)
            """
        )
        warning = (
            "st/cache.db: database or disk is full; responses are not cached; make room on the disk"
        )
        self.assertEqual(run.values, [[True, False], [False, False, False], [False, [warning]]])
        self.assert_whole()

    def test_another_that_keeps_it_costs_a_warning(self):
        # Waiting for it takes 10 s: here it is said at once.
        run = self.run_with(
            """
            local s = open()
            put(s, "old", "text")
            s:finish()
            local kept = host.store_run
            s.host = setmetatable({ store_run = function(id)
              return kept(id, { { "SELECT * FROM none" } }) end }, { __index = host })
            put(s, "lost", "text", { s:get(key "old")[1] })
            local attach = sched.attach
            function sched:attach(id, listener)
              return attach(self, id, { told = function(_, result)
                s.host = host
                result.code = "busy"
                listener:told(result)
              end })
            end
            s.batch.bytes = 1e9
            s:soon()
            sched.attach = nil
            put(s, "next", "text")
            while s.flying do orc.sleep(0.001) end
            emit { has(s, "lost"), has(s, "old"), has(s, "next") }
            s:finish()
            emit { has(s, "lost"), has(s, "old"), has(s, "next"), #warnings }
            finish(s)
            """
        )
        state = [False, False, True]
        self.assertEqual(run.values, [state, state + [1]])
        self.assertEqual(self.count(), 1)

    def test_one_that_is_deleted_meanwhile_costs_a_warning(self):
        run = self.run_with(
            """
            local s = open()
            put(s, "a", "text")
            s:finish()
            emit(has(s, "a"))
            os.remove "st/cache.db"
            orc.sleep(0.01)
            emit(has(s, "a"))
            put(s, "b", "text")
            s:finish()
            emit { has(s, "b"), warnings }
            finish(s)
            """
        )
        warning = (
            "st/cache.db: it was deleted or replaced while it was in use; nothing is read from the "
            "cache; this program goes on without it, the next one makes a new one"
        )
        self.assertEqual(run.values, [True, False, [False, [warning]]])


class Killed(StoreCase):
    WRITER = """
        local s = open()
        s:limit(3e6)
        local host_random = host.random
        local function some(n) return math.floor(host_random() * n) + 1 end
        emit "go"
        io.stdout:flush()
        while true do
          local name = "n" .. some(200)
          local entries = s:get(key(name))
          for _, e in ipairs(entries) do s:body(e) end
          local dice = some(10)
          if dice <= 6 then
            local text = noise(some(some(50) == 1 and 200000 or 3000)):rep(2)
            put(s, name, text, some(2) == 1 and entries or {})
          elseif dice <= 7 and entries[1] then
            s:update(entries[1], entry(name, { status = 203 }))
          elseif dice <= 8 and entries[1] then
            s:remove(entries[1])
          elseif dice == 9 then
            s:void("http://a.test/n" .. some(200))
          else
            put(s, name, "the same")
          end
          if some(20) == 1 then orc.sleep(0.001) end
        end
        """

    def test_a_killed_program_leaves_a_whole_cache(self):
        self.write("writer.lua", LIBRARY + self.WRITER)
        dice = random.Random(5)
        entries = 0
        for _ in range(3 if SANITIZED else 5):
            processes = [self.start("writer.lua") for _ in range(3)]
            for process in processes:
                self.assertEqual(process.stdout.readline(), b'"go"\n')
            for process in processes:
                time.sleep(dice.uniform(0.05, 0.25))
                process.kill()
                process.communicate()
            self.assert_whole()
            entries = max(entries, self.count())
        self.assertGreater(entries, 50)
        run = self.run_with('local s = open(); put(s, "a", "text"); finish(s); emit "ok"')
        self.assertEqual(run.value, "ok")
        self.assert_whole()


if __name__ == "__main__":
    unittest.main()
