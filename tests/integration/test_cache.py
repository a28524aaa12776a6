"""The cache as a script has it: between runs, offline, together, in a pipeline. What RFC 9111 says
is tested in tests/spec and tests/conformance."""

import gzip
import json
import os
import shutil
import signal
import threading
import time

from program import PRELUDE, Case
from servers import PATIENCE, RawServer, answer, answer_json, silence

# A client with the cache that its parameters say, and what it gets for P.paths.
FETCH = """
local api = orc.client { base_url = P.base, retry = false,
  cache = { ttl = P.ttl, mode = P.mode, stale_if_error = P.stale_if_error } }
for path in P.paths:gmatch "%S+" do
  local res, err = api:fetch(path)
  emit(res and { res.from_cache or "network", res.body, res.attempts }
    or { err.kind, err.status or 0, err.fault })
end
"""


class CacheTest(Case):
    def setUp(self):
        super().setUp()
        self.server = self.enterContext(RawServer())
        self.base = "base=" + self.server.base

    def fetch(self, paths, *args, **params):
        params = [f"{name}={value}" for name, value in params.items()]
        return self.lua(FETCH, *args, self.base, "paths=" + paths, *params).values

    def test_what_one_run_fetched_answers_the_next(self):
        body = bytes(range(256)) * 400
        self.server.routes.update({
            "/a": answer_json('{"a":1}', cache_control="max-age=60"),
            "/gzip": answer(gzip.compress(body), content_encoding="gzip", etag='"g"',
                            cache_control="max-age=60"),
            "/gone": answer(status="404 Not Found", cache_control="max-age=60"),
        })  # fmt: skip
        source = """
        local api = orc.client { base_url = P.base, cache = true, accept = "any" }
        for _, path in ipairs { "/a", "/gzip", "/gone" } do
          local res = assert(api:fetch(path))
          emit { res.status, res.from_cache or "network", res.headers["content-type"] or "", #res.body,
            res:json() ~= nil }
          if path == "/gzip" then
            local file = io.open(P.out, "wb")
            file:write(res.body)
            file:close()
          end
        end
        """
        first = self.lua(source, self.base, "out=1").values
        self.assertEqual(
            first,
            [[200, "network", "application/json", 7, True], [200, "network", "", len(body), False],
             [404, "network", "", 0, False]],
        )  # fmt: skip
        second = self.lua(source, self.base, "out=2").values
        self.assertEqual(second, [[a, "fresh", *rest] for a, _, *rest in first])
        self.assertEqual(len(self.server.requests), 3)
        for name in "12":
            with open(self.path(name), "rb") as file:
                self.assertEqual(file.read(), body)
        state = os.stat(self.path(".orchestrator", "cache.db"))
        self.assertEqual(state.st_mode & 0o777, 0o600)

    def test_stale_ones_are_confirmed_on_the_wire(self):
        def tagged(_connection, request):
            if request.headers.get("if-none-match") == '"v1"':
                return answer(status="304 Not Modified", content_length=None, etag='"v1"')
            return answer(b"one", etag='"v1"', cache_control="no-cache")

        self.server.routes["/a"] = tagged
        self.assertEqual(
            self.fetch("/a /a"), [["network", "one", 1], ["revalidated", "one", 1]]
        )
        self.assertEqual(self.fetch("/a"), [["revalidated", "one", 1]])
        self.assertEqual(
            self.fetch("/a", "--cache", "reload"), [["network", "one", 1]]
        )
        self.assertEqual(self.server.last().headers["cache-control"], "no-cache")
        self.assertNotIn("if-none-match", self.server.last().headers)

    def test_offline(self):
        self.server.routes["/a"] = answer(b"one")
        self.assertEqual(self.fetch("/a"), [["network", "one", 1]])
        self.server.forget()
        offline = self.fetch("/a /b", "--cache", "only-if-cached", mode="reload")
        self.assertEqual(offline, [["stale", "one", 0], ["http", 504, "not_cached"]])
        run = self.lua("emit(fetch(P.base .. '/a').err.message)", self.base, "--cache",
                       "only-if-cached")  # fmt: skip
        self.assertIn("only that may answer", run.value)
        # Also where everybody has to log in first.
        run = self.lua(
            """
            local api = orc.client { base_url = P.base, cache = true, auth = { type = "oauth2",
              token_url = P.base .. "/token", client_id = "c", client_secret = "s" } }
            emit(select(2, api:fetch "/a").fault)
            """, self.base, "--cache", "only-if-cached",
        )  # fmt: skip
        self.assertEqual((run.value, self.server.requests), ("not_cached", []))

    def test_a_hundred_tasks_make_one_request(self):
        waiting = threading.Event()

        def slow(connection, _request):
            waiting.set()
            connection.wait(0.2)
            return answer(b"one", cache_control="max-age=60")

        self.server.routes["/a"] = slow
        run = self.lua(
            """
            local api = orc.client { base_url = P.base, cache = true, concurrency = 3,
              rate_limit = "1/1h" }
            local items, counts = {}, {}
            for i = 1, 100 do items[i] = i end
            orc.map(items, function()
              local from = assert(api:fetch "/a").from_cache or "network"
              counts[from] = (counts[from] or 0) + 1
            end, { concurrency = 100 })
            emit(counts)
            """,
            self.base,
        )
        self.assertEqual(run.value, {"network": 1, "fresh": 99})
        self.assertEqual(self.server.targets(), ["/a"])

    def test_a_pipeline_tells_of_it(self):
        self.server.routes.update({
            "/a": answer_json('[{"id":1},{"id":2}]', cache_control="max-age=60", age="7"),
            "/b": answer_json('[{"id":3},[4]]', cache_control="max-age=0"),
        })  # fmt: skip
        fields = (
            "name = 'p', source = { '/a', '/b' }, sink = 'out.jsonl', provenance = true,"
            " ordered = true, client = { base_url = P.base, cache = true, retry = false } "
        )
        run = self.pipeline(fields, self.base, "--summary", "s.json")
        self.assertIn("no object", run.err)
        records = self.records("out.jsonl")
        self.assertEqual(records.pop(), [4])
        times = [record["_meta"].pop("fetched_at") for record in records]
        for time_ in times:
            self.assertRegex(time_, r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
        network = {"source": "network", "attempts": 1}
        self.assertEqual(
            records,
            [{"id": 1, "_meta": {**network, "age": 7}}, {"id": 2, "_meta": {**network, "age": 7}},
             {"id": 3, "_meta": {**network, "age": 0}}],
        )  # fmt: skip
        self.assertNotIn("  cache", run.err)
        summary = json.loads(self.read("s.json"))
        self.assertEqual(summary["cache"], {
            "fresh": 0, "revalidated": 0, "stale": 0, "stale_if_error": 0,
        })  # fmt: skip

        run = self.pipeline(fields, self.base, "--summary", "s.json", "--cache", "force-cache")
        self.assertIn("cache     answered 2 of 2, 1 fresh, 1 stale\n", run.err)
        self.assertIn("requests  2, 0 B received\n", run.err)
        summary = json.loads(self.read("s.json"))
        self.assertEqual(summary["cache"], {
            "fresh": 1, "revalidated": 0, "stale": 1, "stale_if_error": 0,
        })  # fmt: skip
        self.assertEqual((summary["attempts"], summary["requests"]["from_cache"]), (0, 2))
        records = self.records("out.jsonl")[:3]
        self.assertEqual([r["_meta"]["source"] for r in records], ["fresh", "fresh", "stale"])
        self.assertEqual([r["_meta"]["fetched_at"] for r in records], times)
        self.assertEqual(len(self.server.requests), 2)

    def test_a_record_with_a_meta_of_its_own_fails(self):
        self.server.routes["/a"] = answer_json('{"_meta":1}')
        self.pipeline(
            "name = 'p', source = { '/a', '/b' }, sink = 'out.jsonl', provenance = true,"
            " client = { base_url = P.base }", self.base, code=1,
        )  # fmt: skip
        (name,) = [name for name in self.files() if name.endswith(".dead.jsonl")]
        (dead,) = [record for record in self.records(name) if record["item"] == "/a"]
        self.assertIn('"_meta" of its own', json.dumps(dead).replace("\\", ""))

    def test_the_run_waits_for_what_is_asked_for_in_the_background(self):
        answers = iter(["one", "two"])

        def next_one(connection, _request):
            body = next(answers)
            if body == "two":
                connection.wait(0.3)
            return answer_json(json.dumps(body), cache_control="max-age=0, stale-while-revalidate=60")

        self.server.routes["/a"] = next_one
        fields = (
            "name = 'p', source = { '/a' }, sink = 'out.jsonl',"
            " client = { base_url = P.base, cache = true, retry = false } "
        )
        self.pipeline(fields, self.base)
        run = self.pipeline(fields, self.base, "--summary", "s.json")
        self.assertIn("answered 1 of 1, 1 stale", run.err)
        summary = json.loads(self.read("s.json"))
        self.assertEqual((summary["attempts"], summary["requests"]["total"]), (1, 1))
        self.assertEqual(self.read("out.jsonl"), '"one"\n')
        self.assertEqual(self.fetch("/a", "--cache", "only-if-cached"), [["stale", '"two"', 0]])

    def test_an_interruption_ends_what_is_asked_for_in_the_background(self):
        self.server.routes["/a"] = answer(
            b"one", cache_control="max-age=0, stale-while-revalidate=60"
        )
        self.fetch("/a")
        self.server.routes["/a"] = silence
        self.server.forget()
        self.write("script.lua", """
            local orc = require "orchestrator"
            assert(orc.client({ cache = true }):fetch(orc.params.base .. "/a"))
            """)  # fmt: skip
        process = self.start("script.lua", self.base)
        self.server.until(lambda: self.server.requests)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        run = self.finish(process)
        self.assertEqual(run.code, 130, run.err)
        self.assertLess(time.monotonic() - began, 10)

    def test_no_secret_is_written_down(self):
        def route(_connection, request):
            return answer(request.target.encode()[:3], cache_control="max-age=60")

        for path in ("/one", "/two", "/three", "/four"):
            self.server.routes[path] = route
        run = self.lua(
            """
            local function ask(opts, path)
              opts.cache, opts.base_url = true, P.base
              for _ = 1, 2 do emit(assert(orc.client(opts):fetch(path)).from_cache or "network") end
            end
            ask({ auth = { type = "bearer", token = "s3cret-one" } }, "/one")
            ask({ auth = { type = "api_key", name = "k", value = "s3cret-two", place = "query" } },
              "/two")
            ask({ headers = { Cookie = "sid=s3cret-three" } }, "/three")
            ask({}, (P.base:gsub("//", "//user:s3cret-four@") .. "/four"))
            """,
            self.base,
        )
        self.assertEqual(run.values, ["network", "fresh"] * 4)
        self.assertIn("s3cret-two", self.server.requests[1].target)
        for name in os.listdir(self.path(".orchestrator")):
            with open(self.path(".orchestrator", name), "rb") as file:
                self.assertNotIn(b"s3cret", file.read(), name)

    def test_a_cache_that_cannot_be_opened(self):
        self.write("file", "x")
        for source in (
            "orc.client { cache = true }",
            "orc.fetch { url = P.base .. '/a', cache = true }",
        ):
            run = self.lua(source, "--state-dir", "file", self.base, code=2)
            self.assertRegex(run.err, r'script\.lua:1: (client|request): "cache": .*--state-dir')
        self.assertEqual(self.server.requests, [])

    def test_past_a_cache_that_cannot_be_opened(self):
        self.server.routes["/a"] = answer(b"one", cache_control="max-age=60")
        self.assertEqual(self.fetch("/a", "--cache", "no-store", mode="reload"),
                         [["network", "one", 1]])  # fmt: skip
        self.assertEqual(self.files(), [])
        self.write(".orchestrator/cache.db", "spoilt")
        self.assertEqual(self.fetch("/a", "--cache", "no-store"), [["network", "one", 1]])
        self.assertEqual(self.read(".orchestrator/cache.db"), "spoilt")

    def test_offline_when_nothing_was_ever_cached(self):
        run = self.lua(
            """
            for _, cache in ipairs { true, { memory = "1MB", max_size = "2MB" } } do
              local api = orc.client { base_url = P.base, cache = cache }
              emit(select(2, api:fetch "/a").fault)
            end
            """, self.base, "--cache", "only-if-cached", "--state-dir", "state",
        )  # fmt: skip
        self.assertEqual((run.values, self.files()), (["not_cached"] * 2, []))
        self.assertRegex(run.err, r"^\S+ warn nothing is cached in state\n$")
        self.assertFalse(os.path.exists(self.path("state")))

    def test_what_two_programs_store_at_once_is_kept_once(self):
        both = threading.Barrier(2, timeout=PATIENCE)

        def together(_connection, _request):
            both.wait()
            return answer(b"one", cache_control="max-age=60")

        self.server.routes["/a"] = together
        self.fetch("", "--cache", "default")  # makes it
        self.write("fetch.lua", PRELUDE + FETCH)
        processes = [self.start("fetch.lua", self.base, "paths=/a") for _ in range(2)]
        for process in processes:
            self.assertEqual(self.finish(process).value, ["network", "one", 1])

        def stored():
            return len(self.orchestrate("cache", "list", "--json").values)

        self.assertEqual(stored(), 2)
        self.assertEqual(self.fetch("/a"), [["fresh", "one", 0]])
        self.assertEqual(stored(), 1)

    def test_an_outage_is_told_of(self):
        self.server.routes["/a"] = answer_json('{"id":1}', cache_control="max-age=0")
        fields = """
        name = "p", client = { base_url = P.base, retry = false, cache = { stale_if_error = "1d" },
          concurrency = 1 }, source = { "/a", "/a" }, sink = "out.jsonl",
        thresholds = { stale_if_error = "count==0" }
        """
        self.pipeline(fields, self.base)
        self.server.routes["/a"] = answer(status="503 Service Unavailable")
        run = self.pipeline(fields, self.base, "--summary", "s.json", "--log-level", "debug", code=3)
        self.assertIn(f"\n  stale     2 instead of http 503 at {self.server.base}\n", run.err)
        self.assertIn("missed    threshold stale_if_error count==0: it is 2\n", run.err)
        line = r"debug answered from the cache instead of an error age=\d+ error=.*503.* url=http:"
        self.assertRegex(run.err, line)
        told = json.loads(self.read("s.json"))
        self.assertEqual(
            told["cache"], {"fresh": 0, "revalidated": 0, "stale": 2, "stale_if_error": 2}
        )

    def test_the_options_of_a_client_that_are_for_all(self):
        body = os.urandom(1_200_000)
        self.server.routes["/a"] = answer(body, cache_control="max-age=60")
        source = """
        local api = orc.client { base_url = P.base, cache = { max_size = P.max_size, memory = P.memory } }
        for _ = 1, 2 do emit(assert(api:fetch "/a").from_cache or "network") end
        """
        run = self.lua(source, self.base, "max_size=999kB", code=2)
        self.assertIn('"max_size" must be at least "1MB"', run.err)
        run = self.lua(source, self.base, "max_size=1MB")
        self.assertEqual(run.values, ["network", "network"])
        # Another client, or request, has what is usual.
        for other in ("orc.client { cache = true }", "orc.fetch { url = P.base, cache = true }"):
            shutil.rmtree(self.path(".orchestrator"))
            run = self.lua(other + source, self.base, "max_size=1MB")
            self.assertEqual(run.values, ["network", "fresh"], other)
        shutil.rmtree(self.path(".orchestrator"))
        run = self.lua(source, self.base, "memory=1MB")
        self.assertEqual(run.values, ["network", "fresh"])
