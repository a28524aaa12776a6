"""How hard a request tries, by what servers see of it: hedges, fallbacks, several credentials, and
what is sent again."""

import collections
import json
import os
import threading
import time
import unittest

from http2_server import END_STREAM, Http2Server, data, headers
from program import Case
from servers import Certificates, RawServer, answer, answer_json, scratch, silence


def first_then(first, *rest):
    """A route that answers the first request in one way and those after it in others, the last of
    which stays."""
    ways, lock = [first, *rest], threading.Lock()

    def route(connection, request):
        with lock:
            way = ways.pop(0) if len(ways) > 1 else ways[0]
        return way(connection, request) if callable(way) else way

    return route


def read_then_close(connection, _request):
    """What was asked for may have been done."""
    connection.close()


class Hedges(Case):
    def test_the_first_good_answer_wins_and_the_other_attempt_is_cancelled(self):
        with RawServer({"/x": first_then(silence, answer("second"))}) as server:

            def hung_up(_connection, _request):
                server.until(lambda: server.hung_up["/x"] == 1)
                return answer("hung up")

            server.routes["/hung-up"] = hung_up
            run = self.lua(
                """
                local api = orc.client { base_url = P.base, concurrency = 2,
                  hedge = { after = "150ms" } }
                local began = orc.now()
                local res = assert(api:fetch "/x")
                emit { res.body, res.hedged, res.attempts, orc.now() - began }
                -- Both slots are free again, while the program goes on.
                local both = orc.map({ 1, 2 }, function() return api:fetch "/hung-up" end)
                emit { both[1].body, both[2].body }
                """,
                f"base={server.base}",
            )
            *won, took = run.values[0]
            self.assertEqual(won, ["second", True, 1])
            self.assertTrue(0.15 <= took < 2, took)
            self.assertEqual(run.values[1], ["hung up", "hung up"])
            self.assertEqual(server.targets().count("/x"), 2)
            first, second = (r for r in server.requests if r.target == "/x")
            self.assertEqual(first.raw, second.raw)
            self.assertNotEqual(first.connection, second.connection)
            self.assertGreater(second.at, first.at)

    def test_over_http2_only_the_stream_is_given_up(self):
        streams = []

        def route(_connection, stream):
            streams.append(stream)
            if len(streams) == 1:
                return None
            return headers(stream) + data(stream, b"answer", END_STREAM)

        with scratch() as directory:
            certificates = Certificates(directory)
            certificates.sign("server", "localhost")
            with Http2Server(os.path.join(directory, "server"), route) as server:
                run = self.lua(
                    """
                    local api = orc.client { base_url = P.base, tls = { ca = P.ca },
                      hedge = { after = "100ms" } }
                    local res = assert(api:fetch "/x")
                    local after = assert(api:fetch "/y")
                    emit { res.body, res.hedged, res.version, after.body }
                    """,
                    f"base={server.base}",
                    f"ca={certificates.ca}",
                )
                self.assertEqual(run.value, ["answer", True, "2", "answer"])
                self.assertEqual((server.requests, server.opened), (3, 1))
                self.assertIn(1, server.resets)

    def test_one_that_waits_for_a_slot_is_never_sent(self):
        def slow(connection, _request):
            connection.wait(0.4)
            return answer("slow")

        with RawServer({"/x": slow}) as server:
            run = self.lua(
                """
                local api = orc.client { base_url = P.base, concurrency = 1,
                  hedge = { after = "50ms" } }
                emit { assert(api:fetch "/x").body, (assert(api:fetch "/x").hedged or false) }
                """,
                f"base={server.base}",
            )
            self.assertEqual(run.value, ["slow", False])
            self.assertEqual((len(server.requests), server.most_in_flight), (2, 1))

    def test_the_summary_counts_them_and_the_server_sees_no_more_than_the_budget(self):
        lock, seen = threading.Lock(), collections.Counter()

        def slow(connection, request):
            with lock:
                seen[request.target] += 1
                again = seen[request.target] > 1
            if not again:
                connection.wait(0.6)
            return answer_json("[1]")

        urls = ", ".join(f'"/x?{i}"' for i in range(40))
        with RawServer({"/x": slow}) as server:
            self.pipeline(
                "client = { base_url = P.base, concurrency = 100,"
                ' hedge = { after = "100ms", budget = 0.1 } },'
                f" source = {{ {urls} }}",
                f"base={server.base}",
                "--summary",
                "summary.json",
                "-q",
            )
            summary = json.loads(self.read("summary.json"))
            self.assertEqual(summary["hedges"], {"sent": 4, "won": 4})
            self.assertEqual((summary["requests"]["ok"], summary["attempts"]), (40, 44))
            self.assertEqual(len(server.requests), 44)
            self.assertEqual(sorted(seen.values()), [1] * 36 + [2] * 4)


class Fallbacks(Case):
    def test_answers_for_an_api_that_is_down(self):
        routes = {"/down": answer("oh", status="503 Down"), "/mirror": answer_json("[2]")}
        with RawServer(routes) as server:
            run = self.lua(
                """
                local calls = 0
                local api = orc.client { base_url = P.base, concurrency = 1,
                  retry = { attempts = 2, wait_initial = "10ms" },
                  fallback = function(err, request)
                    calls = calls + 1
                    if request == "/down" then return api_mirror(err) end
                    if request.url == "/gone" then return nil, "nobody knows" end
                  end }
                function api_mirror(err)
                  return api:fetch { url = "/mirror", headers = { ["X-Was"] = err.status } }
                end
                local res = assert(api:fetch "/down")
                emit { res.body, res.fallback, res.attempts }
                emit { tostring(select(2, api:fetch { url = "/gone" })) }
                emit { tostring(select(2, api:fetch { url = "/other" })), calls }
                """.replace("local calls", "api_mirror = false; local calls", 1),
                f"base={server.base}",
            )
            self.assertEqual(run.values[0], ["[2]", True, 1])
            self.assertEqual(
                run.values[1], [f"script: nobody knows (GET {server.base}/gone)"]
            )
            self.assertEqual(run.values[2], [f"http: status 404 (GET {server.base}/other)", 3])
            self.assertEqual(
                server.targets(), ["/down", "/down", "/mirror", "/gone", "/other"]
            )
            self.assertEqual(server.requests[2].headers["x-was"], "503")

    def test_give_a_pipeline_its_records(self):
        routes = {"/down": answer(status="500 No"), "/up": answer_json('[{"id":1}]')}
        with RawServer(routes) as server:
            run = self.pipeline(
                "client = { base_url = P.base, retry = false }, "
                'source = { "/down", "/up" }, ordered = true, '
                "request = function(item) return { url = item, fallback = function(err) "
                "return { json = { { id = err.status } } } end } end",
                f"base={server.base}",
                "--summary",
                "summary.json",
                "-q",
            )
            self.assertEqual(run.values, [{"id": 500}, {"id": 1}])
            summary = json.loads(self.read("summary.json"))
            self.assertEqual(
                [summary["requests"][name] for name in ("total", "ok", "failed", "fallback")],
                [2, 1, 1, 1],
            )
            self.assertEqual((summary["records"]["dead"], summary["errors"]), (0, {}))


class Limited:
    """An API that allows each key so many requests in a window."""

    def __init__(self, limit, window, told=True):
        self.limit, self.window = limit, window
        self.told = told  # what is left; else only to come again in an hour
        self.lock = threading.Lock()
        self.spent = collections.Counter()  # by key and window
        self.refused = 0

    def __call__(self, _connection, request):
        now = time.time()
        window = int(now / self.window)
        left_of_window = (window + 1) * self.window - now
        key = request.headers.get("x-key")
        with self.lock:
            self.spent[key, window] += 1
            left = self.limit - self.spent[key, window]
            self.refused += left < 0
        fields = {}
        if self.told:
            fields["RateLimit"] = f'"default";r={max(left, 0)};t={left_of_window:.3f}'
            fields["RateLimit-Policy"] = f'"default";q={self.limit};w={self.window}'
        if left < 0:
            fields["Retry_After"] = f"{left_of_window:.3f}" if self.told else 3600
            return answer(status="429 Too Many", **fields)
        return answer(key, **fields)


AUTH = """
local auth = {}
for i = 1, 3 do auth[i] = { type = "api_key", name = "X-Key", value = "try-key-" .. i } end
"""


class Credentials(Case):
    def test_share_the_work_within_what_each_is_allowed(self):
        api = Limited(limit=10, window=1)
        with RawServer({"/x": api}) as server:
            time.sleep(1 - time.time() % 1)  # a window is whole
            run = self.lua(
                AUTH
                + """
                local api = orc.client { base_url = P.base, auth = auth, concurrency = 4 }
                local items, began = {}, orc.now()
                for i = 1, 45 do items[i] = i end
                local used = { ["try-key-1"] = 0, ["try-key-2"] = 0, ["try-key-3"] = 0 }
                local _, errs = orc.map(items, function()
                  local res = assert(api:fetch "/x")
                  used[res.body] = used[res.body] + 1
                end)
                emit { used["try-key-1"], used["try-key-2"], used["try-key-3"], orc.now() - began,
                  next(errs, "n") == nil and 0 or errs.n }
                """,
                f"base={server.base}",
            )
            *used, took, _ = run.value
            self.assertEqual(sum(used), 45)
            self.assertTrue(all(n >= 10 for n in used), used)
            self.assertTrue(all(n <= 10 for n in api.spent.values()), api.spent)
            self.assertEqual(api.refused, 0)
            self.assertTrue(0.8 < took < 3, took)

    def test_one_that_is_used_up_gives_way_at_once(self):
        api = Limited(limit=2, window=1e9, told=False)
        with RawServer({"/x": api}) as server:
            run = self.lua(
                AUTH
                + """
                local api = orc.client { base_url = P.base, auth = auth, concurrency = 1 }
                local began = orc.now()
                for _ = 1, 6 do
                  emit { assert(api:fetch { url = "/x", method = "POST" }).attempts }
                end
                local _, err = api:fetch "/x"
                emit { err.kind, err.attempts, orc.now() - began }
                """,
                f"base={server.base}",
            )
            *attempts, (kind, tries, took) = run.values
            self.assertEqual(attempts, [[1]] * 6)
            self.assertEqual((kind, tries), ("rate_limited", 1))
            self.assertLess(took, 2)
            # Each was told so once, by the one request that was left.
            self.assertEqual(api.refused, 3)

    def test_one_that_is_refused_gives_way_and_is_named(self):
        def only(_connection, request):
            if request.headers["x-key"] == "try-key-2":
                return answer("yes")
            return answer(status="401 No")

        with RawServer({"/x": only}) as server:
            run = self.lua(
                AUTH
                + """
                local api = orc.client { base_url = P.base, auth = auth }
                for _ = 1, 4 do emit { assert(api:fetch "/x").body } end
                """,
                f"base={server.base}",
            )
            self.assertEqual(run.values, [["yes"]] * 4)
            keys = [request.headers["x-key"][-1] for request in server.requests]
            self.assertEqual("".join(keys), "123222")
            for number in (1, 3):
                self.assertEqual(run.err.count(f"credential {number} of 3 is refused (401)"), 1)
            self.assertNotIn("try-key", run.err)


class WhatIsSentAgain(Case):
    def test_a_post_only_with_an_idempotency_key(self):
        for failure in (read_then_close, answer(status="503 Busy")):
            with self.subTest(failure), RawServer() as server:
                for path in "/plain", "/keyed", "/told":
                    server.routes[path] = first_then(failure, answer("done"))
                run = self.lua(
                    """
                    local function post(path, headers, methods)
                      local res, err = orc.fetch { url = P.base .. path, method = "POST",
                        json = { path = path }, headers = headers,
                        retry = { wait_initial = "10ms", methods = methods } }
                      emit { res and res.body or err.kind, (res or err).attempts }
                    end
                    post "/plain"
                    post("/keyed", { ["Idempotency-Key"] = "one-of-a-kind" })
                    post("/told", nil, { "POST" })
                    """,
                    f"base={server.base}",
                )
                kind = "network" if callable(failure) else "http"
                self.assertEqual(run.values, [[kind, 1], ["done", 2], ["done", 2]])
                self.assertEqual(
                    server.targets(), ["/plain", "/keyed", "/keyed", "/told", "/told"]
                )
                _, first, second, *_ = server.requests
                self.assertEqual(first.raw, second.raw)
                self.assertEqual(first.headers["idempotency-key"], "one-of-a-kind")

    def test_nor_behind_our_back_on_a_connection_that_is_used_again(self):
        for method, seen in (("POST", 1), ("GET", 2)):
            with RawServer({"/ok": answer("ok")}) as server:
                server.routes["/x"] = first_then(read_then_close, answer("done"))
                self.lua(
                    """
                    assert(orc.fetch(P.base .. "/ok"))
                    emit(fetch { url = P.base .. "/x", method = P.method, retry = false })
                    """,
                    f"base={server.base}",
                    f"method={method}",
                )
                posts = [r for r in server.requests if r.target == "/x"]
                self.assertEqual(len(posts), seen)
                self.assertEqual(posts[0].connection, 1)

    def test_as_late_as_the_server_asks(self):
        with RawServer({"/x": first_then(
            answer(status="429 Wait", Retry_After="0.3"), answer("done")
        )}) as server:  # fmt: skip
            run = self.lua(
                """
                local res = orc.fetch { url = P.base .. "/x", retry = { wait_initial = "10ms",
                  on_retry = function(info) emit { info.attempt, info.wait, info.status } end } }
                emit(res.attempts)
                """,
                f"base={server.base}",
            )
            self.assertEqual(run.values, [[1, 0.3, 429], 2])
            first, second = server.requests
            self.assertTrue(0.29 <= second.at - first.at < 1.3)

    def test_no_later_than_the_deadline(self):
        with RawServer({"/x": answer(status="503 Busy")}) as server:
            run = self.lua(
                """
                local began = orc.now()
                local _, err = orc.fetch { url = P.base .. "/x", retry = { attempts = 99,
                  wait_initial = "50ms", factor = 1, jitter = false, deadline = "400ms" } }
                emit { err.attempts, orc.now() - began }
                """,
                f"base={server.base}",
            )
            attempts, took = run.value
            self.assertTrue(2 <= attempts <= 9, attempts)
            self.assertLess(took, 0.5 if attempts > 4 else 2)
            self.assertEqual(len(server.requests), attempts)

    def test_what_has_the_wrong_content_however_it_is_read(self):
        busy, done = answer("busy: later"), answer("done: 1\ndone: 2\n")
        routes = {path: first_then(busy, done) for path in ("/stream", "/save")}
        routes["/never"] = busy
        with RawServer(routes) as server:
            run = self.lua(
                """
                local function action(res)
                  if res:peek(4) == "busy" then return "retry" end
                end
                local api = orc.client { base_url = P.base, concurrency = 1,
                  response_action = action, retry = { attempts = 3, wait_initial = "10ms" } }
                local res = assert(api:fetch { url = "/stream", stream = true })
                local lines = {}
                for line in res:lines() do lines[#lines + 1] = line end
                emit { lines, res.attempts }
                res = assert(api:fetch { url = "/save", save = "saved.txt" })
                emit { res.size, res.attempts, res:peek(6) }
                local _, err = api:fetch { url = "/never", save = "never.txt" }
                emit { err.kind, err.attempts }
                """,
                f"base={server.base}",
            )
            self.assertEqual(
                run.values,
                [[["done: 1", "done: 2"], 2], [16, 2, "done: "], ["http", 3]],
            )
            self.assertEqual(self.files(), ["saved.txt"])
            self.assertEqual(self.read("saved.txt"), "done: 1\ndone: 2\n")


if __name__ == "__main__":
    unittest.main()
