"""What runs out, and connections that end at the wrong moment: descriptors, patience, a connection
closed just as it is used again, bytes nobody may send."""

import contextlib
import gzip
import os
import resource
import unittest

from faults_server import BODY, FAULTS, PRELUDE, bomb, coded, fields, produces, sized
from program import ROOT, Case
from servers import RawServer, answer, silence, then_close

RESOLVER = os.environ.get("SLOW_RESOLVER", os.path.join(ROOT, "build", "tests", "slow_resolver.so"))

HEAD = b"HTTP/1.1 200 OK\r\n"


class Limits(Case):
    def setUp(self):
        super().setUp()
        self.server = self.enterContext(RawServer())

    def run_script(self, source, *args, **options):
        return self.lua(PRELUDE + source, f"base={self.server.base}", *args, **options)

    def assert_fault(self, outcome, fault, attempts=1):
        kind, _ = FAULTS[fault]
        self.assertEqual(
            [outcome.get(key) for key in ("kind", "fault", "attempts")],
            [kind, fault, attempts],
            outcome,
        )


class Descriptors(Limits):
    def test_who_gets_no_descriptor_waits_and_nothing_is_lost(self):
        with contextlib.ExitStack() as held:
            servers = [
                held.enter_context(RawServer({"/": lambda c, _: c.wait(0.02) and sized(BODY)}))
                for _ in range(4)
            ]
            self.pipeline(
                """
                source = coroutine.wrap(function()
                  for i = 1, 50 do
                    for base in P.bases:gmatch "%S+" do coroutine.yield(base .. "/?" .. i) end
                  end
                end),
                client = { retry = false, concurrency = 100 },
                map = function(record, res) return { url = res.url, id = record.id } end,
                sink = "out.jsonl",
                """,
                "bases=" + " ".join(server.base for server in servers),
                "--summary",
                "summary.json",
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40)),
            )
            sent = [len(server.requests) for server in servers]
        urls = {f"{server.base}/?{i}" for server in servers for i in range(1, 51)}
        self.assertEqual({record["url"] for record in self.records("out.jsonl")}, urls)
        self.assertEqual(len(self.records("out.jsonl")), 200)
        self.assertEqual(sent, [50] * 4)
        self.assertEqual(self.files(), ["out.jsonl", "summary.json"])

    @produces("no_descriptors")
    def test_without_any_descriptor_it_is_an_error(self):
        self.server.routes["/"] = sized(BODY)
        run = self.run_script(
            """
            local files = {}
            repeat
              local file = io.open "/dev/null"
              files[#files + 1] = file
            until not file
            local value = told(orc.fetch { url = P.base .. "/", timeout = 5,
              retry = { attempts = 2, wait_initial = 0 } })
            for _, file in ipairs(files) do file:close() end
            emit(value)
            emit(told(orc.fetch(P.base .. "/")))
            """,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40)),
        )
        starved, then = run.values
        self.assert_fault(starved, "no_descriptors", 2)
        self.assertEqual(then["status"], 200)


    def test_a_connection_that_died_leaves_no_descriptor_for_another(self):
        """What may have reached the server is sent again only where that does no harm, and the
        accounts of who waits for a connection stay right."""

        def dies(connection, _):
            return connection.close() if connection.number == 1 else sized(BODY)

        def evil(connection, _):
            connection.send(fields("Content-Length: 32", close=False) + b"HTTP/1.1 200 OK\r\n\r\n")
            connection.close()

        sanitizer = os.environ.get("ASAN_OPTIONS", "")
        for method, expected in (("GET", 2), ("POST", 1)):
            with self.subTest(method):
                self.server.forget()
                self.server.routes.update(
                    {"/": fields("Content-Length: 32", close=False), "/dies": dies, "/evil": evil}
                )
                run = self.run_script(
                    """
                    local api = orc.client { base_url = P.base, retry = false }
                    assert(api:fetch "/")
                    emit(told(api:fetch { url = "/dies", method = P.method }))
                    for _ = 1, 5 do emit(told(api:fetch "/evil")) end
                    """,
                    f"method={method}",
                    env={
                        "LD_PRELOAD": RESOLVER,
                        "SOCKET_FAILS": "2",
                        "ASAN_OPTIONS": f"{sanitizer}:verify_asan_link_order=0",
                    },
                )
                died, *others = run.values
                if method == "GET":
                    self.assertEqual(died["status"], 200, died)
                else:
                    self.assert_fault(died, "closed_early")
                self.assertEqual(self.server.targets().count("/dies"), expected)
                for outcome in others:
                    self.assert_fault(outcome, "extra_bytes")


class Reuse(Limits):
    """A connection is there, and is not when it is used again."""

    def test_a_connection_that_ends_as_it_is_used_again_is_no_failure(self):
        for name, end in (("closed", "close"), ("reset", "reset")):
            with self.subTest(name):
                used = set()

                def once(connection, _, end=end, used=used):
                    if connection.number in used:
                        return getattr(connection, end)()
                    used.add(connection.number)
                    return fields("Content-Length: 32", close=False)

                self.server.forget()
                self.server.routes["/"] = once
                self.pipeline(
                    "source = coroutine.wrap(function()"
                    " for i = 1, 60 do coroutine.yield(P.base .. '/?' .. i) end end),"
                    " client = { retry = false, concurrency = 3 }, sink = 'out.jsonl',"
                    " map = function(record, res)"
                    " return { attempts = res.attempts, id = record.id } end",
                    f"base={self.server.base}",
                    "--summary",
                    "summary.json",
                )
                self.assertEqual(self.records("out.jsonl"), [{"attempts": 1, "id": 1}] * 60)
                self.assertIn('"retried":0', self.read("summary.json"))
                self.assertEqual(len(used), 60)

    def test_a_new_connection_that_ends_is_a_failure(self):
        self.server.routes.update({"/": sized(BODY), "/ends": then_close(b"")})
        run = self.run_script(
            """
            for _ = 1, 3 do
              assert(orc.fetch(P.base .. "/"))
              emit(told(orc.fetch { url = P.base .. "/ends", retry = false }))
            end
            """
        )
        for outcome in run.values:
            self.assert_fault(outcome, "closed_early")

    def test_a_reset_between_two_requests(self):
        def then_gone(connection, _):
            connection.send(fields("Content-Length: 32", close=False))
            connection.reset()

        self.server.routes["/"] = then_gone
        run = self.run_script(
            """
            local before = descriptors()
            for i = 1, 20 do
              local res = assert(orc.fetch { url = P.base .. "/", retry = false, })
              assert(res:json().id == 1)
              if i % 2 == 0 then orc.sleep "5ms" end
            end
            emit(descriptors() - before)
            """
        )
        self.assertLessEqual(run.value, 1)
        self.assertEqual(len(self.server.requests), 20)

    def test_bytes_after_answers_without_a_body_never_become_an_answer(self):
        evil = answer('{"id":"evil"}')
        begun, late = [], []

        def in_two_parts(head):
            def route(connection, _):
                begun.append(head)
                connection.send(head)
                sent = connection.wait(0.03) and connection.send(evil)
                with self.server.changed:
                    late.append(sent)
                    self.server.changed.notify_all()

            return route

        def all_sent(_connection, _request):
            self.server.until(lambda: len(late) == len(begun))
            return answer("")

        heads = {
            "head": ("HEAD", HEAD + b"Content-Length: 13\r\n\r\n"),
            "204": ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
            "204-length": ("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 13\r\n\r\n"),
            "304": ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 13\r\n\r\n"),
            "304-chunked": ("GET", b"HTTP/1.1 304 Not\r\nTransfer-Encoding: chunked\r\n\r\n"),
            "zero": ("GET", HEAD + b"Content-Length: 0\r\n\r\n"),
        }
        for name, (_, head) in heads.items():
            self.server.routes[f"/{name}/1"] = lambda c, _, head=head: c.send(head + evil) and None
            self.server.routes[f"/{name}/2"] = in_two_parts(head)
        self.server.routes["/good"] = fields("Content-Length: 32", close=False)
        self.server.routes["/sent"] = all_sent
        run = self.run_script(
            """
            local api = orc.client { base_url = P.base, retry = false,
              accept = { 200, 204, 304 } }
            local other = orc.client { base_url = P.base, cookies = true } -- shares no connection
            for request in P.requests:gmatch "%S+" do
              local method, path = request:match "(%u+)(.*)"
              local res, err = api:fetch { url = path, method = method }
              if res then emit { res.body, res.framing } else emit { err.fault } end
              for _ = 1, 2 do
                assert(other:fetch "/sent")
                local good, why = api:fetch { url = "/good" }
                emit { good and good:json().id or why.fault }
              end
            end
            """,
            "requests="
            + " ".join(f"{method}/{name}/{n}" for name, (method, _) in heads.items() for n in (1, 2)),
        )
        first, others = run.values[::3], run.values[1::3] + run.values[2::3]
        self.assertEqual(others, [[1]] * len(others))
        for outcome in first:
            self.assertIn(outcome, (["", "none"], ["", "length"], ["extra_bytes"]))
        self.assertEqual(len(late), 6)

    def test_two_interim_answers_and_more_belong_to_their_request(self):
        hints = b"HTTP/1.1 103 Early Hints\r\nLink: </%d>\r\nContent-Length: 9\r\n\r\n"
        self.server.routes["/"] = lambda _, request: (
            b"HTTP/1.1 100 Continue\r\n\r\n" + b"".join(hints % i for i in range(20))
            + fields("X-Real: yes\nContent-Length: 32", close=False)
        )  # fmt: skip
        run = self.run_script(
            """
            for i, method in ipairs { "GET", "POST", "PUT", "GET" } do
              local res = assert(orc.fetch { url = P.base .. "/?" .. i, method = method,
                body = method ~= "GET" and ("x"):rep(2000000) or nil })
              emit { res:json().id, res.headers["x-real"], res.headers.link or orc.null }
            end
            """
        )
        self.assertEqual(run.values, [[1, "yes", None]] * 4)
        self.assertEqual({request.connection for request in self.server.requests}, {1})
        self.assertEqual(len(self.server.requests[1].body), 2_000_000)


class Patience(Limits):
    @produces("cancelled")
    def test_a_cancelled_task_leaves_nothing_behind(self):
        self.server.routes["/"] = silence
        run = self.run_script(
            """
            local before = descriptors()
            local _, err = orc.group(function(g)
              local task = g:spawn(orc.fetch, P.base .. "/")
              orc.sleep "30ms"
              task:cancel()
              emit(told(task:await()))
            end)
            emit(descriptors_after(before) - before)
            """
        )
        outcome, left = run.values
        self.assertEqual((outcome["kind"], outcome["fault"]), ("cancelled", "cancelled"))
        self.assertEqual(left, 0)

    @produces("expands_too_fast")
    def test_a_bomb_in_a_stream(self):
        self.server.routes["/"] = coded("gzip, gzip", gzip.compress(bomb(100)))
        run = self.run_script(
            """
            emit(told(orc.fetch { url = P.base .. "/", stream = true, retry = false }))
            """
        )
        self.assert_fault(run.value, "expands_too_fast")

    @produces("bad_record", "record_too_long")
    def test_records_of_a_stream(self):
        self.server.routes.update(
            {
                "/bad": sized(b'{"id":1}\n{"id":\n{"id":3}\n'),
                "/long": sized(b'{"id":1}\n' + b"[" + b" " * 2000 + b"]\n"),
            }
        )
        run = self.run_script(
            """
            for _, path in ipairs { "/bad", "/long" } do
              local res = assert(orc.fetch { url = P.base .. path, stream = true, retry = false })
              local ids = {}
              local ok, err = pcall(function()
                for value in res:jsonl { max_line = "1kB" } do ids[#ids + 1] = value.id end
              end)
              emit { ids, ok, err.kind, err.fault }
            end
            """
        )
        self.assertEqual(
            run.values,
            [[[1], False, "decode", "bad_record"],
             [[1], False, "too_large", "record_too_long"]],
        )  # fmt: skip

    @produces("body_not_repeatable")
    def test_a_body_that_cannot_be_had_again(self):
        self.server.routes["/"] = answer(
            status="307 Elsewhere", location="/again", connection="close"
        )
        run = self.run_script(
            """
            local left = { "some", "thing" }
            emit(told(orc.fetch { url = P.base .. "/", method = "POST",
              body = function() return table.remove(left, 1) end }))
            """
        )
        self.assert_fault(run.value, "body_not_repeatable")
        self.assertEqual(self.server.targets(), ["/"])

    @produces("bad_request")
    def test_a_very_long_url(self):
        self.server.routes["/"] = sized(BODY)
        run = self.run_script(
            """
            for _, size in ipairs { 100e3, 1e6, 9e6 } do
              local res, err = orc.fetch { url = P.base .. "/?" .. ("x"):rep(size), retry = false }
              emit(told(res, err))
              if err then emit(#tostring(err)) end
            end
            """
        )
        first, second, third, size = run.values
        self.assertEqual((first["status"], second["status"]), (200, 200))
        self.assert_fault(third, "bad_request")
        self.assertLess(size, 3000)


if __name__ == "__main__":
    unittest.main()
