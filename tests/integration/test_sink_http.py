"""The sink http(s)://…, end to end: what a server gets, also when it fails or the run is killed."""

import collections
import json
import threading
import time
import unittest

from program import PRELUDE, Case
from servers import RawServer, answer, answer_json

ITEMS = 120


class Receiver:
    """A route that takes records as a server does that heeds Idempotency-Key: by its key a request
    counts once. `refuse(n)` may give an answer to the n-th request instead."""

    def __init__(self, refuse=lambda n: None):
        self.refuse = refuse
        self.taken = {}  # key → body
        self.differing = []  # keys that came with another body
        self.requests = 0
        self.lock = threading.Lock()

    def __call__(self, connection, request):
        with self.lock:
            self.requests += 1
            key = request.headers["idempotency-key"]
            refusal = self.refuse(self.requests)
            if callable(refusal):
                self._take(key, request.body)
                return refusal(connection)
            if refusal:
                return refusal
            self._take(key, request.body)
            return answer(status="204 No Content", content_length=None)

    def _take(self, key, body):
        if self.taken.setdefault(key, body) != body:
            self.differing.append(key)

    def ids(self):
        return sorted(
            json.loads(line)["id"] for body in self.taken.values() for line in body.splitlines()
        )


class SinkHttp(Case):
    def setUp(self):
        super().setUp()
        self.server = self.enterContext(RawServer())
        self.receiver = self.receive("/sink", Receiver())
        for i in range(1, ITEMS + 1):
            self.server.routes[f"/{i}"] = answer_json(json.dumps([{"id": i}, {"id": -i}]))

    def receive(self, path, receiver):
        self.server.routes[path] = receiver
        return receiver

    def source(self, n=ITEMS):
        return "source = { " + ", ".join(f"'/{i}'" for i in range(1, n + 1)) + " }, "

    def job(self, fields, *args, **options):
        return self.pipeline(
            "client = { base_url = P.base }, " + fields, f"base={self.server.base}", *args,
            name="job.lua", **options,
        )  # fmt: skip

    @staticmethod
    def all_ids(n=ITEMS):
        return sorted(sign * i for i in range(1, n + 1) for sign in (1, -1))

    def test_every_record_arrives_once(self):
        run = self.job(
            self.source() + "sink = { 'out.jsonl', { P.base .. '/sink', batch = 30 } }"
        )
        self.assertEqual(self.receiver.ids(), self.all_ids())
        self.assertEqual(
            self.receiver.ids(), sorted(one["id"] for one in self.records("out.jsonl"))
        )
        self.assertRegex(run.err, rf"240 records sent to {self.server.base}/sink")
        for request in self.server.requests:
            if request.path == "/sink":
                self.assertEqual(request.method, "POST")
                self.assertEqual(request.headers["content-type"], "application/x-ndjson")
                self.assertLessEqual(len(request.body.splitlines()), 30)

    def test_as_an_array_with_headers_and_a_client_of_its_own(self):
        self.job(
            self.source(2) + "sink = { { P.base .. '/sink', format = 'json',"
            " headers = { ['X-Table'] = 't' },"
            " client = { auth = { type = 'bearer', token = 'abcd' } } } }"
        )
        ids = [one["id"] for body in self.receiver.taken.values() for one in json.loads(body)]
        self.assertEqual(sorted(ids), [-2, -1, 1, 2])
        sent = [request for request in self.server.requests if request.path == "/sink"]
        self.assertEqual(sent[0].headers["authorization"], "Bearer abcd")
        self.assertEqual(sent[0].headers["x-table"], "t")
        self.assertEqual(sent[0].headers["content-type"], "application/json")
        self.assertNotIn("authorization", self.server.requests[0].headers)

    def test_a_server_that_fails_for_a_while(self):
        def reset(connection):
            connection.reset()

        answers = {1: answer(status="503 No", retry_after="0"), 2: reset, 4: reset}
        self.receiver = self.receive("/sink", Receiver(answers.get))
        self.job(
            self.source() + "sink = { { P.base .. '/sink', batch = 50,"
            " client = { retry = { wait_initial = 0 } } } }"
        )
        self.assertEqual(self.receiver.ids(), self.all_ids())
        self.assertEqual(self.receiver.differing, [])
        self.assertEqual(self.receiver.requests, len(self.receiver.taken) + 3)

    def test_a_server_that_refuses_ends_the_run_which_can_be_gone_on_with(self):
        refused = answer_json('{"error":"no such column"}', status="400 Bad Request")
        self.receiver = self.receive(
            "/sink", Receiver(lambda n: refused if n > 1 and refused else None)
        )
        fields = self.source() + "sink = { { P.base .. '/sink', batch = 40 } }"
        run = self.job(fields, code=1)
        self.assertIn(f"{self.server.base}/sink did not take 40 records of window ", run.err)
        self.assertIn('status 400 ({"error":"no such column"}); see to that, then go on', run.err)
        self.assertEqual(len(self.receiver.taken), 1)
        self.receiver.refuse = lambda n: None
        self.job(fields, "--resume")
        self.assertEqual(self.receiver.ids(), self.all_ids())
        self.assertEqual(self.receiver.differing, [])
        counts = collections.Counter(request.path for request in self.server.requests)
        refetched = sum(counts[f"/{i}"] - 1 for i in range(1, ITEMS + 1))
        self.assertLess(refetched, ITEMS)

    def test_a_kill_between_the_server_and_the_journal(self):
        # The server has taken what it never answered: it has to get the same again.
        taken = threading.Event()

        def hang(connection):
            taken.set()
            connection.wait_closed()

        for kill_at in (1, 2, 3):
            with self.subTest(kill_at):
                taken.clear()
                self.receiver = self.receive(
                    "/sink", Receiver(lambda n, at=kill_at: hang if n == at else None)
                )
                sink = "sink = { { P.base .. '/sink', batch = 30 } }, "
                fields = "name = 'job" + str(kill_at) + "', client = { base_url = P.base }"
                self.write(
                    "job.lua", PRELUDE + f"return orc.pipeline {{ {self.source()} {sink} {fields} }}"
                )
                arguments = ("job.lua", f"base={self.server.base}", "--resume")
                process = self.start(*arguments)
                self.assertTrue(taken.wait(30))
                process.kill()
                process.wait()
                # What is changed meanwhile changes nothing of what was noted down.
                sink = "sink = { { P.base .. '/sink', batch = 7 } }, "
                self.write(
                    "job.lua", PRELUDE + f"return orc.pipeline {{ {self.source()} {sink} {fields} }}"
                )
                self.assertEqual(self.orchestrate(*arguments).code, 0)
                self.assertEqual(self.receiver.ids(), self.all_ids())
                self.assertEqual(self.receiver.differing, [])

    def test_a_slow_receiver_slows_fetching(self):
        held = threading.Event()

        def slow(connection):
            held.wait(30)
            connection.send(answer(status="204 No Content", content_length=None))

        self.receiver = self.receive("/sink", Receiver(lambda n: slow if n == 1 else None))
        many = 400
        for i in range(1, many + 1):
            self.server.routes[f"/{i}"] = answer_json(json.dumps([{"id": i}, {"id": -i}]))
        source = "source = (function() local n = 0 return function() n = n + 1 "
        source += f"if n <= {many} then return '/' .. n end end end)(), "
        self.write(
            "job.lua",
            PRELUDE + "return orc.pipeline { " + source + " sink = P.base .. '/sink',"
            " client = { base_url = P.base, concurrency = 10 } }",
        )
        process = self.start("job.lua", f"base={self.server.base}")
        self.server.until(lambda: self.receiver.requests > 0)
        seen, still = -1, 0
        while still < 10:  # until it fetches no more
            time.sleep(0.02)
            still = still + 1 if len(self.server.requests) == seen else 0
            seen = len(self.server.requests)
        self.assertLess(seen, 130)  # a window, what is in flight, and the POST
        held.set()
        self.assertEqual(self.finish(process).code, 0)
        self.assertEqual(self.receiver.ids(), self.all_ids(many))

    def test_misuse_is_told_before_anything_runs(self):
        for sink, message in (
            ("{ { P.base .. '/sink', fromat = 'json' } }", 'did you mean "format"'),
            ("{ { P.base .. '/sink', client = { timout = 1 } } }", 'did you mean "timeout"'),
            ("{ P.base .. '/sink', P.base .. '/sink' }", "twice"),
            ("'http://'", "must be a URL such as"),
        ):
            run = self.job(self.source(1) + "sink = " + sink, code=2)
            self.assertIn(message, run.err)
        self.assertEqual(self.server.requests, [])


if __name__ == "__main__":
    unittest.main()
