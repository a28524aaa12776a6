"""Adaptive concurrency and circuit breakers, against servers of unknown capacity and health."""

import socket
import threading
import time
import unittest

from program import Case
from servers import RawServer, answer, answer_json


class Workers:
    """A route that works on so many requests at once, and refuses the others."""

    def __init__(self, count, seconds):
        self.count, self.seconds = count, seconds
        self.busy = self.most = self.done = self.refused = 0
        self.lock = threading.Lock()

    def __call__(self, connection, _request):
        with self.lock:
            if self.busy >= self.count:
                self.refused += 1
                return answer(status="503 Service Unavailable")
            self.busy += 1
            self.most = max(self.most, self.busy)
        connection.wait(self.seconds)
        with self.lock:
            self.busy -= 1
            self.done += 1
        return answer("ok")


class Patient:
    """A route that fails so often, and then is well."""

    def __init__(self, failures):
        self.failures = failures
        self.times = []

    def __call__(self, _connection, _request):
        self.times.append(time.monotonic())
        if len(self.times) <= self.failures:
            return answer(status="500 Internal Server Error")
        return answer_json('{"ok": true}')


class Adaptive(Case):
    def test_it_finds_the_capacity_of_each_host(self):
        small, large = Workers(3, 0.02), Workers(12, 0.02)
        with RawServer({"/": small}) as one, RawServer({"/": large}) as two:
            self.lua(
                """
                local api = orc.client { concurrency = "auto", retry = false }
                local function fetch(url, times)
                  local n = 0
                  local function urls()
                    n = n + 1
                    return n <= times and url or nil
                  end
                  return function()
                    orc.map(urls, function(one) return api:fetch(one) end, { concurrency = 50 })
                  end
                end
                orc.gather { fetch(P.one, 150), fetch(P.two, 500) }
                """,
                f"one={one.base}/",
                f"two={two.base}/",
            )
        for workers, times in ((small, 150), (large, 500)):
            self.assertEqual(times, workers.done + workers.refused)
            self.assertEqual(workers.count, workers.most)
            self.assertLess(workers.refused, 0.15 * times)  # of 50 at once most would be

    def test_it_goes_no_higher_than_told(self):
        workers = Workers(100, 0.01)
        with RawServer({"/": workers}) as server:
            for concurrency, options, most in (
                ('{ total = "auto", per_host = 7 }', (), 7),
                ('"auto"', ("-j", "5"), 5),
            ):
                workers.most = 0
                self.lua(
                    f"""
                    local api = orc.client {{ concurrency = {concurrency} }}
                    local urls = {{}}
                    for i = 1, 80 do urls[i] = P.url end
                    orc.map(urls, function(one) return api:fetch(one) end, {{ concurrency = 80 }})
                    """,
                    f"url={server.base}/",
                    *options,
                )
                self.assertEqual(most, workers.most)


class Breaker(Case):
    def test_requests_fail_until_the_host_is_back(self):
        route = Patient(4)
        with RawServer({"/": route}) as server, RawServer({"/": answer("ok")}) as other:
            run = self.lua(
                """
                local api = orc.client {
                  concurrency = 1, retry = { wait_initial = "1ms" },
                  circuit_breaker = {
                    min_requests = 4, cooldown = "300ms", probes = 2, on_open = "fail",
                  },
                }
                for _ = 1, 3 do emit(outcome(api:fetch(P.url))) end
                emit(outcome(api:fetch(P.other)))
                orc.sleep "350ms"
                for _ = 1, 3 do emit(outcome(api:fetch(P.url))) end
                """,
                f"url={server.base}/",
                f"other={other.base}/",
            )
        errors = [value["err"] for value in run.values[:3]]
        self.assertEqual(["circuit_open"] * 3, [error["kind"] for error in errors])
        self.assertRegex(
            errors[1]["message"],
            r"^the circuit is open: 4 of 4 attempts failed within 30 s; none starts for 0\.\d+ s$",
        )
        self.assertEqual([5, 1, 1], [error["attempts"] for error in errors])
        self.assertEqual([200] * 4, [value["status"] for value in run.values[3:]])
        self.assertEqual(4 + 3, len(route.times))
        self.assertGreaterEqual(route.times[4] - route.times[3], 0.3)
        opened, closed = run.err.splitlines()
        self.assertRegex(opened, rf"warn circuit open: {server.base}: .* none starts for 0\.3 s$")
        self.assertRegex(closed, rf"warn circuit closed: {server.base} answers again$")

    def test_items_wait_until_the_host_is_back(self):
        route = Patient(6)
        with RawServer({"/": route}) as server:
            run = self.pipeline(
                """
                client = {
                  concurrency = 2, retry = { attempts = 9, wait_initial = "1ms" },
                  circuit_breaker = { min_requests = 4, cooldown = "200ms", probes = 1 },
                },
                source = { P.url, P.url, P.url, P.url, P.url, P.url, P.url, P.url },
                sink = "out.jsonl",
                """,
                f"url={server.base}/",
                "--summary",
                "summary.json",
            )
            (summary,) = self.records("summary.json")
        self.assertEqual(8, len(self.records("out.jsonl")))
        gaps = [after - before for before, after in zip(route.times, route.times[1:])]
        self.assertEqual([], [gap for gap in gaps[:3] if gap > 0.15])
        self.assertGreaterEqual(max(gaps[3:6]), 0.2)
        self.assertEqual(1, run.err.count("circuit open:"), run.err)
        self.assertEqual(1, run.err.count("circuit closed:"), run.err)
        self.assertGreaterEqual(summary["limits"]["circuit breaker"]["waited_s"], 0.2)

    def test_items_become_dead_letters_if_they_are_not_to_wait(self):
        route = Patient(1000)
        with RawServer({"/": route}) as bad, RawServer({"/": answer_json('{"ok": true}')}) as good:
            run = self.pipeline(
                """
                client = {
                  retry = false, concurrency = 4,
                  circuit_breaker = { min_requests = 5, on_open = "fail" },
                },
                source = (function()
                  local urls = {}
                  for i = 1, 1000 do urls[i] = i % 2 == 0 and P.good or P.bad end
                  return urls
                end)(),
                sink = "out.jsonl",
                """,
                f"good={good.base}/",
                f"bad={bad.base}/",
            )
        self.assertEqual(500, len(self.records("out.jsonl")))
        kinds = [letter["error"]["kind"] for letter in self.records("script.dead.jsonl")]
        self.assertEqual(500, len(kinds))
        self.assertEqual(len(route.times), kinds.count("http"))
        self.assertEqual(500 - len(route.times), kinds.count("circuit_open"))
        self.assertLess(len(route.times), 10)
        self.assertEqual(1, run.err.count("circuit open:"), run.err)

    def test_what_does_not_even_connect_counts(self):
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            run = self.lua(
                """
                local api = orc.client {
                  retry = false, circuit_breaker = { min_requests = 3, on_open = "fail" },
                }
                for _ = 1, 5 do emit(outcome(api:fetch(P.url)).err.kind) end
                """,
                f"url=http://127.0.0.1:{nobody.getsockname()[1]}/",
            )
        self.assertEqual(["connect"] * 3 + ["circuit_open"] * 2, run.values)


if __name__ == "__main__":
    unittest.main()
