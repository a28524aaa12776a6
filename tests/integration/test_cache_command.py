"""`orchestrator cache`: what it says of a cache, and what it removes."""

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import struct
import time
import unittest

from program import Case
from servers import RawServer, answer_json

# Puts into the cache what is in a file, an entry a line; then puts one more when it is told to, if
# it is to wait.
FILL = r"""
local orc = require "orchestrator"
local json = orc.json
local api = orc.client {}
local cache_entry = require "orchestrator.cache_entry"
local headers = require "orchestrator.headers"
local store = assert(require("orchestrator.cache_store").open {
  sched = api.sched, host = api.host, state_dir = orc.params.state_dir or ".orchestrator",
})
local hash = require("orchestrator.core.crypto").hash
local count = 0
for line in io.lines(orc.params.file or "entries.jsonl") do
  local given = json.decode(line)
  local at = api.host.wall() - (given.ago or 0)
  local entry = cache_entry.new({
    request = { url = given.url, method = "GET", fields = headers.merge(given.sent or {}) },
    status = given.status or 200, fields = given.fields or {}, size = #given.body,
    request_time = at, response_time = at,
  })
  entry.key = assert(hash("sha256", given.key or given.url))
  store:put(entry, given.body, {})
  count = count + 1
  if count % 200 == 0 then store:finish() end
end
store:finish()
if orc.params.wait then
  io.stdout:write "ready\n"
  io.stdout:flush()
  assert(io.open("go")):read "*l"
  local key = assert(hash("sha256", "again"))
  local fields = { { "Cache-Control", "max-age=60" } }
  local entry = cache_entry.new { request = { url = "http://again.test/", method = "GET",
    fields = headers.merge {} }, status = 200, fields = fields, size = 5,
    request_time = api.host.wall(), response_time = api.host.wall() }
  entry.key = key
  store:put(entry, "again", {})
  store:finish()
  io.stdout:write(tostring(store:body(store:get(key)[1])), "\n")
end
store:close()
"""

FRESH = [["Cache-Control", "max-age=3600"], ["ETag", '"v1"']]
STALE = [["Cache-Control", "max-age=10"]]


def entry(url, body="body", **more):
    return {"url": url, "body": body, "fields": FRESH, **more}


class Cached(Case):
    def fill(self, *entries, state_dir=None):
        lines = [json.dumps(one) + "\n" for one in entries]
        self.write("entries.jsonl", "".join(lines))
        args = [f"state_dir={state_dir}"] if state_dir else []
        self.script(FILL, *args, name="fill.lua")

    def cache(self, *args, code=0, **options):
        run = self.orchestrate("cache", *args, **options)
        self.assertEqual(run.code, code, run.out + run.err)
        return run

    @contextlib.contextmanager
    def database(self, name=".orchestrator/cache.db"):
        database = sqlite3.connect(self.path(name))
        try:
            with database:
                yield database
        finally:
            database.close()

    def urls(self, *args):
        return [value["url"] for value in self.cache("list", "--json", *args).values]


class Shown(Cached):
    HINT = ": it takes the whole URL, or * for any text, as in 'https://api.example.com/*'"

    def test_nothing(self):
        nothing = {
            "stats": (0, "entries   0, 0 fresh, 0 stale", ""),
            "list": (0, "", "nothing is cached in .orchestrator"),
            "show http://a.test/": (1, "", "nothing is cached of http://a.test/" + self.HINT),
            "show http://a.test/*": (1, "", "nothing is cached of http://a.test/*"),
            "list a": (0, "", "nothing is cached of a" + self.HINT),
            "clear": (0, "removed 0 entries, 0 B", ""),
            "clear a": (0, "removed 0 entries, 0 B", "nothing is cached of a" + self.HINT),
            "verify": (0, "checked 0 entries and 0 bodies: nothing is wrong", ""),
        }
        for state in ("none", "empty"):
            for command, (code, out, err) in nothing.items():
                with self.subTest(command, state=state):
                    run = self.cache(*command.split(), code=code)
                    self.assertIn(out, run.out)
                    self.assertEqual(run.out == "", out == "")
                    self.assertEqual(run.err, err and f"orchestrator: {err}\n")
                    run = self.cache(*command.split(), "--json", code=code)
                    self.assertEqual(len(run.values), 1 if out else 0)
            if state == "none":
                self.assertEqual(self.files(), [])
                self.assertFalse(os.path.exists(self.path(".orchestrator")))
                self.fill()

    def test_stats(self):
        self.fill(
            entry("https://a.test/1", "x" * 10_000),
            entry("https://a.test/2", "x" * 10_000, fields=STALE, ago=86400 * 3),
            entry("https://a.test:8443/", "y"),
            entry("https://b.test/", "z", fields=STALE, ago=5),
        )
        run = self.cache("stats")
        self.assertRegex(
            run.out,
            r"^\.orchestrator/cache\.db\n"
            r"  entries   4, 3 fresh, 1 stale\n"
            r"  bodies    3, 10\.0 kB, stored in \d+ B \(\d+\.\d : 1\)\n"
            r"  on disk   \d+\.\d kB\n"
            r"  stored    the oldest 3\.0 d ago, the newest \d s ago\n"
            r"  hosts             2 entries,  20\.0 kB  https://a\.test\n"
            r"                    1 entry,        1 B  https://a\.test:8443\n"
            r"                    1 entry,        1 B  https://b\.test\n$",
        )
        told = self.cache("stats", "--json").value
        hosts = told.pop("hosts")
        self.assertEqual(hosts[0], {"host": "https://a.test", "entries": 2, "size": 20_000})
        self.assertEqual(
            {name: told[name] for name in ("entries", "fresh", "stale", "bodies", "bytes")},
            {"entries": 4, "fresh": 3, "stale": 1, "bodies": 3, "bytes": 10_002},
        )
        self.assertLess(told["bytes_stored"], 200)

    def test_list(self):
        self.fill(
            entry("https://a.test/1?x=1", "x" * 12345),
            entry("https://a.test/2", fields=STALE, ago=60),
            entry("https://b.test/3", fields=[["Cache-Control", "max-age=99, no-cache"]]),
        )
        with self.database() as database:
            for at, path in ((3, "1?x=1"), (1, "2"), (2, "3")):
                database.execute("UPDATE entries SET used = ? WHERE url GLOB ?", (at, "*/" + path))
        lines = self.cache("list").out.splitlines()
        self.assertRegex(lines[0], r"^STATUS  FRESH FOR +AGE +SIZE +USED  URL$")
        self.assertRegex(lines[1], r"^200 +(60|1\.0) (min|h) +\d s +12\.3 kB +\d+ d  https://a\.te")
        self.assertRegex(lines[2], r"^200 +is asked for +\d s +4 B +\d+ d  https://b\.test/3$")
        self.assertRegex(lines[3], r"^200 +stale +1\.\d min +4 B +\d+ d  https://a\.test/2$")
        self.assertEqual(len(lines), 4)
        self.assertEqual(len({line.index("http") for line in lines[1:]}), 1)
        self.assertEqual(self.urls("*.test/[13]*"), ["https://a.test/1?x=1", "https://b.test/3"])
        self.assertEqual(self.urls("https://a.test/2"), ["https://a.test/2"])
        run = self.cache("list", "a.test")
        self.assertRegex(run.err, r"nothing is cached of a\.test: it takes the whole URL")
        self.assertEqual(run.out, "")

    def test_a_long_list_is_whole(self):
        self.fill(*(entry(f"http://h{i % 7}.test/{i}", str(i)) for i in range(1203)))
        urls = self.urls()
        self.assertEqual(len(urls), 1203)
        self.assertEqual(len(set(urls)), 1203)
        self.assertEqual(len(self.urls("*h3.test*")), 172)
        run = self.cache("show", "--json", "*")
        self.assertEqual([value["url"] for value in run.values], urls[:20])
        self.assertIn("there is more than these 20", run.err)
        self.assertEqual(self.cache("show", "*/120[012]").err, "")
        told = self.cache("stats", "--json").value
        self.assertEqual((told["entries"], told["host_count"]), (1203, 7))
        self.assertEqual(sum(host["entries"] for host in told["hosts"]), 1203)
        run = self.cache("clear", "*h3.test*")
        self.assertRegex(run.out, "^removed 172 entries, ")
        self.assertEqual(len(self.urls()), 1203 - 172)

    def test_show(self):
        self.fill(
            entry("https://a.test/1", '{"a": 1}\n', ago=60),
            entry("https://a.test/2", b"\0\1".decode(), fields=[["Vary", "Accept-Language"]],
                  sent={"Accept-Language": "de"}),
            entry("https://a.test/2", "en", fields=[["Vary", "Accept-Language"]],
                  sent={"Accept-Language": "en"}),
        )  # fmt: skip
        for url in ("https://a.test/1", "https://me:pass@a.test:443/./1#top", "https://a.test/1*"):
            run = self.cache("show", url)
            self.assertRegex(
                run.out,
                r"^https://a\.test/1\n  status   200\n  stored   \d+-\d+-\d+ \d+:\d+:\d+ UTC, "
                r"1\.\d min ago\n  used     \d s ago\n  age      1\.\d min\n"
                r"  use      fresh for (59|58) min: may be used without asking\n"
                r"  because  max-age: fresh for 3600 s\n"
                r"           the server can confirm it by ETag\n"
                r"  body     9 B, stored in 9 B, SHA-256 [0-9a-f]{64}\n"
                r'fields\n  Cache-Control: max-age=3600\n  ETag: "v1"\n  Date: .*\n'
                r'body\n  {"a": 1}\n$',
            )
        told = self.cache("show", "--json", "https://a.test/1").value
        self.assertEqual(
            (told["use"], told["body"], told["size"], told["fields"][1]),
            ("fresh", '{"a": 1}\n', 9, ["ETag", '"v1"']),
        )
        texts = self.cache("show", "https://a.test/2").out.split("\n\n")
        self.assertEqual(len(texts), 2)
        self.assertIn("  for      requests with accept-language: en\n", texts[0])
        self.assertIn("body\n  en", texts[0])
        self.assertIn("  for      requests with accept-language: de\n", texts[1])
        self.assertIn("body\n  (no text)", texts[1])
        self.assertIn("nothing is cached", self.cache("show", "https://a.test/", code=1).err)

    def test_what_comes_from_the_network_cannot_speak_to_the_terminal(self):
        evil = "\x1b]0;owned\x07\x1b[2J\u202e\x9b31m\x7f"
        self.fill(
            entry(
                f"http://me:passw0rd@a.test/{evil}", f"1\n{evil}\n",
                fields=[["X-Evil", evil], ["Set-Cookie", "sid=s3cret"], ["Vary", "Cookie"]],
                sent={"Cookie": "sid=s3cret"},
            )
        )  # fmt: skip
        for command in ("stats", "list", "list *", "show *", "verify", "clear *a.test*"):
            for more in ((), ("--json",)):
                run = self.cache(*command.split(), *more)
                for text in (run.out, run.err):
                    for line in text.splitlines():
                        if not more:
                            self.assertTrue(line.isprintable(), line)
                        self.assertNotRegex(line, "[\0-\x1f\x7f-\x9f]")
                    self.assertNotRegex(text, "passw0rd|s3cret")

    def test_another_directory(self):
        self.fill(entry("http://a.test/"), state_dir="else/where")
        self.assertEqual(self.urls(), [])
        for args in (("--state-dir", "else/where", "list"), ("list", "--state-dir=else/where")):
            self.assertIn("http://a.test/", self.cache(*args).out)
        run = self.orchestrate("--state-dir", "else/where", "cache", "list")
        self.assertIn("http://a.test/", run.out)

    def test_a_full_disk(self):
        self.fill(*(entry(f"http://a.test/{i}", str(i)) for i in range(200)))
        for args in ("cache stats", "cache list", "cache show *", "cache verify", "cache list --json",
                     "cache -h", "cache list -h", "-h", "--version"):  # fmt: skip
            with open("/dev/full", "wb") as full:
                run = self.orchestrate(*args.split(), stdout=full)
            self.assertEqual(
                (run.code, run.err), (1, "orchestrator: stdout: No space left on device\n"), args
            )

    def test_nobody_reads_the_list_to_its_end(self):
        self.fill(*(entry(f"http://a.test/{i}/{'x' * 100}", str(i)) for i in range(1500)))
        process = self.start("cache", "list")
        self.assertIn(b"STATUS", process.stdout.readline())
        process.stdout.close()
        process.stdout = None
        run = self.finish(process)
        self.assertEqual((run.code, run.err), (1, ""))
        # The pipe is full, so it is in the midst of it.
        process = self.start("cache", "list")
        self.assertIn(b"STATUS", process.stdout.readline())
        process.send_signal(signal.SIGINT)
        run = self.finish(process)
        self.assertEqual((run.code, run.err), (130, ""))
        self.assertLess(len(run.out.splitlines()), 1500)


class Run(Cached):
    def test_the_key_of_a_script(self):
        source = """
        orc.secret.value "k3y-s3cret"
        local api = orc.client { base_url = P.base, cache = { key = function(request)
          return request.url:match "^[^?]+" .. " of k3y-s3cret\\n\\27[2J" .. ("x"):rep(300)
        end } }
        for _, path in ipairs { "/1?t=1", "/1?t=2" } do emit(assert(api:fetch(path)).body) end
        """
        with RawServer({"/1?t=1": answer_json("1", cache_control="max-age=60")}) as server:
            self.assertEqual(self.lua(source, f"base={server.base}").values, ["1", "1"])
        key = rf"{server.base}/1 of \*\*\* \\x1b\[2Jx+…"
        run = self.cache("show", server.base + "/1?t=1")
        self.assertRegex(run.out, rf"^{server.base}/1\?t=1\n  key      {key}\n  status   200\n")
        self.assertIn(" of *** ", self.cache("list", "--json").value["key"])
        with open(self.path(".orchestrator/cache.db"), "rb") as file:
            self.assertNotIn(b"k3y-s3cret", file.read())

    def test_what_a_run_has_cached(self):
        source = (
            "local api = orc.client { base_url = P.base, retry = false, cache = true }"
            " local res, err = api:fetch(P.path)"
            " emit(res and { body = res.body, from = res.from_cache } or { err = err.kind })"
        )
        with RawServer({"/1": answer_json('{"a":1}', cache_control="max-age=60")}) as server:
            base = f"base={server.base}"
            self.assertEqual(self.lua(source, base, "path=/1").value, {"body": '{"a":1}'})
        url = server.base + "/1"
        self.assertEqual(self.urls(), [url])
        self.assertIn('body\n  {"a":1}\n', self.cache("show", url).out)
        self.assertIn("nothing is wrong", self.cache("verify").out)
        offline = (base, "path=/1", "--cache", "only-if-cached")
        found = {"body": '{"a":1}', "from": "fresh"}
        self.assertEqual(self.lua(source, *offline).value, found)
        self.assertEqual(
            self.lua(source, base, "path=/1", "--cache=no-cache").value["err"], "connect"
        )
        self.cache("clear", url)
        self.assertEqual(self.lua(source, *offline).value, {"err": "http"})


class Locked(Cached):
    def test_reading_waits_for_nobody(self):
        self.fill(entry("http://a.test/"))
        with self.database() as database:
            database.execute("BEGIN IMMEDIATE")
            began = time.monotonic()
            for command in ("stats", "list", "show http://a.test/"):
                self.assertIn("a.test", self.cache(*command.split()).out)
            self.assertLess(time.monotonic() - began, 9)  # nobody waits for 10 s


class Removed(Cached):
    def test_clear(self):
        self.fill(*(entry(f"http://{host}.test/{i}", str(i) * 100) for host in "ab" for i in "123"))
        self.assertEqual(self.cache("clear", "http://a.test/2").out, "removed 1 entry, 0 B\n")
        self.assertRegex(self.cache("clear", "*/1").out, r"^removed 2 entries, \d+ B\n$")
        self.assertEqual(self.urls("*[13]"), ["http://b.test/3", "http://a.test/3"])
        told = self.cache("clear", "--json", "*b.test*").value
        self.assertEqual((told["entries"], told["bytes_stored"] > 0), (2, True))
        self.assertEqual(self.urls(), ["http://a.test/3"])
        self.assertRegex(self.cache("clear").out, r"^removed 1 entry, \d+ B\n$")
        told = self.cache("stats", "--json").value
        self.assertEqual((told["entries"], told["bodies"], told["bytes_stored"]), (0, 0, 0))
        self.fill(entry("http://a.test/2"))  # and it is as good as new
        self.assertEqual(self.urls(), ["http://a.test/2"])
        self.cache("clear", "*")
        self.assertEqual(self.cache("stats", "--json").value["bodies"], 0)

    def test_the_room_is_given_back(self):
        self.fill(entry("http://a.test/", os.urandom(500_000).hex()))
        before = os.path.getsize(self.path(".orchestrator/cache.db"))
        self.cache("clear")
        self.assertLess(os.path.getsize(self.path(".orchestrator/cache.db")), before / 4)

    def test_a_run_goes_on(self):
        self.write("entries.jsonl", json.dumps(entry("http://a.test/")) + "\n")
        self.write("fill.lua", FILL)
        os.mkfifo(self.path("go"))
        for args in ([], ["*"]):
            process = self.start("fill.lua", "wait=1")
            self.assertEqual(process.stdout.readline(), b"ready\n")
            self.cache("clear", *args)
            self.write("go", "\n")
            run = self.finish(process)
            self.assertEqual((run.code, run.out, run.err), (0, "again\n", ""))
            self.assertEqual(self.urls(), ["http://again.test/"])

    def test_verify(self):
        for what, statements, found, left in (
            (
                "removed 1 body that does not match its hash\n"
                "  removed 2 entries without their bodies",
                ["UPDATE bodies SET data = CAST(data || x'00' AS BLOB) WHERE id = 1"],
                {"spoilt": 1, "lost": 2, "unreadable": 0, "orphans": 0},
                119,
            ),
            (
                "removed 2 bodies that do not match their hashes\n"
                "  removed 2 entries without their bodies",
                ["UPDATE bodies SET data = x'41' WHERE id = 100",
                 "UPDATE bodies SET data = zeroblob(size) WHERE id = 101"],
                {"spoilt": 2, "lost": 2, "unreadable": 0, "orphans": 0},
                119,
            ),
            (
                "removed 1 entry without its body",
                ["DELETE FROM bodies WHERE id = 5"],
                {"spoilt": 0, "lost": 1, "unreadable": 0, "orphans": 0},
                120,
            ),
            (
                "removed 1 entry that cannot be read",
                ["UPDATE entries SET document = x'ff00' WHERE url = 'http://a.test/7'"],
                {"spoilt": 0, "lost": 0, "unreadable": 1, "orphans": 0},
                120,
            ),
            (
                "removed 1 body without an entry",
                ["INSERT INTO bodies(hash, size, data) SELECT unhexed, 0, x'' FROM"
                 " (SELECT x'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'"
                 " AS unhexed)"],
                {"spoilt": 0, "lost": 0, "unreadable": 0, "orphans": 1},
                121,
            ),
        ):  # fmt: skip
            with self.subTest(what):
                self.cache("clear")
                self.fill(
                    *(entry(f"http://a.test/{i}", f"body {i} " * 100) for i in range(120)),
                    entry("http://b.test/0", "body 0 " * 100),
                )
                run = self.cache("verify")
                self.assertEqual(run.out, "checked 121 entries and 120 bodies: nothing is wrong\n")
                with self.database() as database:
                    for statement in statements:
                        database.execute(statement)
                shutil.copy(self.path(".orchestrator/cache.db"), self.path("copy"))
                run = self.cache("verify", code=1)
                self.assertIn("\n  " + what + "\n", run.out)
                self.assertEqual(run.out.count("\n"), 2 + what.count("\n"))
                self.assertIn("nothing is wrong", self.cache("verify").out)
                self.assertEqual(len(self.urls()), left)
                shutil.copy(self.path("copy"), self.path(".orchestrator/cache.db"))
                told = self.cache("verify", "--json", code=1).value
                self.assertEqual({name: told[name] for name in found}, found)

    def test_show_tells_of_a_spoilt_body(self):
        self.fill(entry("http://a.test/", "body " * 100))
        with self.database() as database:
            database.execute("UPDATE bodies SET data = x'41'")
        self.assertIn("\nthe body is gone\n", self.cache("show", "http://a.test/").out)
        self.assertNotIn("body", self.cache("show", "--json", "http://a.test/").value)


class Damaged(Cached):
    PATH = ".orchestrator/cache.db"
    DAMAGED = (
        r"^orchestrator: \.orchestrator/cache\.db is damaged \(.+\): "
        r"`orchestrator cache clear` removes it\n$"
    )

    def setUp(self):
        super().setUp()
        self.fill(*(entry(f"http://a.test/{i}", f"body {i} " * 200) for i in range(500)))

    def change(self, at, data):
        with open(self.path(self.PATH), "r+b") as file:
            file.seek(at)
            file.write(data)

    def clears(self):
        """A cache that is of no use is removed, and begins anew."""
        run = self.cache("clear")
        self.assertRegex(run.out, r"^removed \.orchestrator/cache\.db, [\d.]+ [kM]B\n$")
        self.assertEqual([name for name in self.files() if "cache" in name], [])
        self.fill(entry("http://a.test/"))
        self.assertEqual(self.urls(), ["http://a.test/"])

    def verified(self):
        run = self.cache("verify", code=1)
        self.assertRegex(run.err, self.DAMAGED)
        self.assertEqual((run.out, run.err.count("\n")), ("", 1))
        self.assertIn("damage", self.cache("verify", "--json", code=1).value)

    def page_of(self, name):
        with self.database() as database:
            (page,) = database.execute(
                "SELECT rootpage FROM sqlite_schema WHERE name = ?", (name,)
            ).fetchone()
        return (page - 1) * 4096

    def test_a_page_of_a_small_one(self):  # is seen as it is opened
        self.change(self.page_of("entries"), b"\xff" * 4096)
        for command in ("stats", "list", "show http://a.test/1", "clear *", "verify"):
            run = self.cache(*command.split(), code=2)
            self.assertRegex(run.err, self.DAMAGED)
            self.assertEqual(run.out, "")
        self.clears()

    def test_a_page_of_a_large_one(self):
        self.fill(*(entry(f"http://b.test/{i}", os.urandom(500_000).hex()) for i in range(9)))
        self.change(self.page_of("entries"), b"\xff" * 4096)
        self.verified()
        for command in ("stats", "list", "show http://a.test/1", "clear *"):
            run = self.cache(*command.split(), code=1)
            self.assertRegex(run.err, self.DAMAGED)
        self.clears()

    def test_an_index(self):
        with self.database() as database:
            database.executescript(
                "PRAGMA writable_schema = ON; UPDATE sqlite_schema"
                " SET sql = 'CREATE INDEX entries_url ON entries(stamp)' WHERE name = 'entries_url'"
            )
        self.verified()
        self.cache("clear")
        self.assertIn("nothing is wrong", self.cache("verify").out)

    def test_cut_off(self):
        os.truncate(self.path(self.PATH), 0)
        for command in ("stats", "list", "show http://a.test/1", "clear *", "verify"):
            run = self.cache(*command.split(), code=2)
            self.assertRegex(run.err, self.DAMAGED)
            self.assertEqual(run.out, "")
        self.assertRegex(self.cache("clear", "--json").value["file"], r"cache\.db$")
        self.assertEqual(self.urls(), [])
        self.fill(entry("http://a.test/"))
        self.assertEqual(self.urls(), ["http://a.test/"])

    def test_newer(self):
        self.change(60, struct.pack(">I", 999))  # PRAGMA user_version
        self.assertRegex(self.cache("stats", code=2).err, "its version is 999")
        self.cache("clear")
        self.assertEqual([name for name in self.files() if "cache" in name], [])

    def test_what_is_not_ours_stays(self):
        self.change(68, struct.pack(">I", 1))  # PRAGMA application_id
        self.cache("clear", code=2)
        self.change(0, b"something else")
        self.cache("clear", code=2)
        with open(self.path(self.PATH), "rb") as file:
            self.assertEqual(file.read(14), b"something else")


if __name__ == "__main__":
    unittest.main()
