"""Limits, ours and the servers' own, against the ledgers of raw servers."""

import collections
import contextlib
import datetime
import math
import time
import unittest

from program import Case
from servers import RawServer, answer


def http_date(seconds):
    moment = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return moment.strftime("%a, %d %b %Y %H:%M:%S GMT")


LIMIT = 5

# What a server says that lets so many through until the wall clock's next second.
FAMILIES = {
    "draft": lambda left, reset: {
        "RateLimit_Policy": f'"default";q={LIMIT};w=1',
        "RateLimit": f'"default";r={left};t={math.ceil(reset - time.time())}',
    },
    "draft 7": lambda left, reset: {
        "RateLimit_Policy": f"{LIMIT};w=1",
        "RateLimit": f"limit={LIMIT}, remaining={left}, reset=1",
    },
    "draft 6": lambda left, reset: {
        "RateLimit_Limit": LIMIT,
        "RateLimit_Remaining": left,
        "RateLimit_Reset": 1,
    },
    "seconds": lambda left, reset: {
        "X_RateLimit_Limit": LIMIT,
        "X_RateLimit_Remaining": left,
        "X_RateLimit_Reset": f"{reset - time.time():.3f}",
    },
    "unix time": lambda left, reset: {
        "x_ratelimit_limit": LIMIT,
        "x_ratelimit_remaining": left,
        "x_ratelimit_reset": int(reset),
    },
    "milliseconds": lambda left, reset: {
        "X_Rate_Limit_Limit": LIMIT,
        "X_Rate_Limit_Remaining": left,
        "X_Rate_Limit_Reset": int(reset * 1000),
    },
    "date": lambda left, reset: {
        "X_RATELIMIT_REMAINING": left,
        "X_RATELIMIT_RESET": http_date(reset),
    },
    "unit": lambda left, reset: {
        "acme_ratelimit_requests_limit": LIMIT,
        "acme_ratelimit_requests_remaining": left,
        "acme_ratelimit_requests_reset": f"{max(1, int(1000 * (reset - time.time())))}ms",
    },
}


class Limited:
    """A route that lets LIMIT requests through in each second of the wall clock."""

    def __init__(self, family):
        self.family = family
        self.used = collections.Counter()
        self.rejected = 0

    def __call__(self, _connection, _request):
        now = time.time()
        second = int(now)
        self.used[second] += 1
        left = LIMIT - self.used[second]
        fields = FAMILIES[self.family](max(0, left), second + 1)
        if left < 0:
            self.rejected += 1
            return answer("no", status="429 Too Many Requests", **fields)
        return answer("{}", **fields)


class ServerLimits(Case):
    def test_every_family_slows_us_down_before_a_429(self):
        with contextlib.ExitStack() as stack:
            routes = [Limited(family) for family in FAMILIES]
            servers = [stack.enter_context(RawServer({"/": route})) for route in routes]
            run = self.lua(
                """
                local api, bases = orc.client { concurrency = { total = 50, per_host = 2 } }, {}
                for base in P.bases:gmatch "%S+" do bases[#bases + 1] = base end
                local errs = select(2, orc.map(bases, function(base)
                  local _, failed = orc.map({ 1, 2, 3, 4, 5, 6, 7 }, function()
                    return api:fetch { url = base .. "/", retry = false }
                  end)
                  for i = 1, failed.n do
                    if failed[i] then return nil, failed[i] end
                  end
                end))
                for i = 1, #bases do emit(errs[i] and tostring(errs[i]) or "ok") end
                """,
                "bases=" + " ".join(server.base for server in servers),
            )
        for family, route, outcome in zip(FAMILIES, routes, run.values):
            with self.subTest(family):
                self.assertEqual((outcome, route.rejected), ("ok", 0))
                self.assertEqual(sum(route.used.values()), 7)
                self.assertLessEqual(max(route.used.values()), LIMIT)
        # Once for each host, though many waited.
        self.assertEqual(run.err.count("own limit"), len(FAMILIES))
        self.assertRegex(run.err, r"127\.0\.0\.1:\d+'s own limit \(5 per 1 s\) governs now\n")

    def test_they_can_be_ignored(self):
        route = Limited("draft")
        with RawServer({"/": route}) as server:
            run = self.lua(
                """
                local api = orc.client { server_limits = false, retry = false, concurrency = 2 }
                local refused = 0
                for i = 1, 20 do
                  if not api:fetch(P.base .. "/") then refused = refused + 1 end
                end
                emit(refused)
                """,
                f"base={server.base}",
            )
        self.assertGreater(run.value, 0)
        self.assertEqual(run.value, route.rejected)
        self.assertNotIn("own limit", run.err)

    def test_an_open_stream_holds_nobody_up(self):
        # One is left, and the one in flight was counted: the next may go while it is being read.
        fields = {"X_RateLimit_Remaining": 1, "X_RateLimit_Reset": 60}

        def stream(connection, request):
            connection.send(answer("x" * 100, **fields)[:-50])
            connection.server.until(lambda: "/next" in connection.server.targets())
            return b"x" * 50

        with RawServer({"/stream": stream, "/next": answer("{}", **fields)}) as server:
            run = self.lua(
                """
                local res = assert(orc.fetch { url = P.base .. "/stream", stream = true })
                emit(assert(orc.fetch(P.base .. "/next")).status)
                local size = 0
                for text in res:chunks() do size = size + #text end
                emit(size)
                """,
                f"base={server.base}",
            )
        self.assertEqual(run.values, [200, 100])


def refuse_the_first(connection, request):
    with connection.server.changed:
        first = connection.server.requests[0] is request
    if first:
        return answer("", status="429 Too Many Requests", retry_after="1")
    return answer("{}")


class RetryAfter(Case):
    def test_it_pauses_all_who_share_the_rate_limit_or_else_the_host(self):
        routes = {path: refuse_the_first for path in ("/1", "/2", "/3")}
        with RawServer(routes) as limited, RawServer(routes) as unlimited:
            run = self.lua(
                """
                local function fetch_all(base, options)
                  local one, two = orc.client(options), orc.client(options)
                  local _, errs = orc.gather {
                    function() return one:fetch(base .. "/1") end,
                    function() orc.sleep "200ms" return one:fetch(base .. "/2") end,
                    function() orc.sleep "200ms" return two:fetch(base .. "/3") end,
                  }
                  return tostring(errs[1] or errs[2] or errs[3])
                end
                local limit = { limit = 100, per = "1s", name = "shared" }
                local outcomes = orc.gather {
                  function() return fetch_all(P.limited, { rate_limit = limit }) end,
                  function() return fetch_all(P.unlimited, {}) end,
                }
                emit(outcomes[1])
                emit(outcomes[2])
                """,
                f"limited={limited.base}",
                f"unlimited={unlimited.base}",
            )
            self.assertEqual(run.values, ["nil", "nil"])
            for server in (limited, unlimited):
                self.assertEqual(server.targets()[0], "/1")
                self.assertCountEqual(server.targets()[1:], ["/1", "/2", "/3"])
                starts = [request.at - server.requests[0].at for request in server.requests]
                self.assertGreaterEqual(min(starts[1:]), 0.999)
                self.assertLess(max(starts), 5)
        self.assertEqual(run.err.count("own limit (it asks to wait 1 s) governs now"), 2)


class Shared(Case):
    def test_clients_share_a_pool_and_a_rate_limit(self):
        def route(connection, request):
            connection.wait(0.02)
            return answer("{}")

        with RawServer({"/": route}) as server:
            run = self.lua(
                """
                local limit = { limit = 20, per = "500ms", window = "sliding", name = "both" }
                local given = {
                  concurrency = { total = 3, pool = "x" }, rate_limit = { limit, "100/s" },
                }
                local clients = { orc.client(given), orc.client(given) }
                local k = 0
                local _, errs = orc.map(function()
                  k = k + 1
                  if k <= 30 then return k end
                end, function(i) return clients[i % 2 + 1]:fetch(P.base .. "/") end,
                  { concurrency = 30 })
                emit(next(errs) == "n" and "ok" or tostring(errs[next(errs)]))
                """,
                f"base={server.base}",
            )
            starts = sorted(request.at for request in server.requests)
        self.assertEqual(run.value, "ok")
        self.assertEqual(len(starts), 30)
        self.assertLessEqual(server.most_in_flight, 3)
        for first, late in zip(starts, starts[20:]):
            self.assertGreater(late - first, 0.48)

    def test_priority_and_weight_decide_who_goes_and_when(self):
        with RawServer({f"/{i}": answer("{}") for i in range(5)}) as server:
            self.lua(
                """
                local api = orc.client { concurrency = 1, rate_limit = "10/s" }
                orc.map({ 0, 1, 2, 3, 4 }, function(i)
                  local weight = i == 4 and 3 or 1
                  return api:fetch { url = P.base .. "/" .. i, priority = i, weight = weight }
                end)
                """,
                f"base={server.base}",
            )
            starts = {request.path: request.at for request in server.requests}
        self.assertEqual(list(starts), ["/0", "/4", "/3", "/2", "/1"])
        self.assertGreater(starts["/3"] - starts["/4"], 0.28)


class Told(Case):
    def test_the_summary_says_what_was_waited_for(self):
        with RawServer({"/": answer("{}")}) as server:
            run = self.pipeline(
                """
                client = { rate_limit = "20/s", concurrency = 1 },
                source = (function()
                  local urls = {}
                  for i = 1, 25 do urls[i] = P.base .. "/" end
                  return urls
                end)(),
                sink = "out.jsonl",
                """,
                f"base={server.base}",
                "--summary",
                "summary.json",
            )
            (summary,) = self.records("summary.json")
        waited = summary["limits"]["20/1s"]
        self.assertGreater(waited["waited_s"], 1)
        self.assertGreater(waited["waits"], 20)
        self.assertAlmostEqual(
            summary["hosts"][server.base]["waited_s"],
            sum(limit["waited_s"] for limit in summary["limits"].values()),
            delta=0.01,
        )
        self.assertRegex(run.err, r"\n  waited    1\.\d\d s in all for 20/1s \(2\d times\)\n")


if __name__ == "__main__":
    unittest.main()
