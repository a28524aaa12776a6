"""What servers do wrong on the wire, and what must come of it (malformed framing, resets, silence),
and how connections are used."""

import resource
import unittest

from program import Case

from servers import (
    RawServer, answer, closed_port, drip, silence, then_close, then_reset,
)  # fmt: skip

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
FETCH_ALL = """
local api = orc.client { base_url = P.base, timeout = 10, %s }
for path in P.paths:gmatch "%%S+" do
  local result = outcome(api:fetch(path))
  result.path = path
  emit(result)
end
"""


class Transport(Case):
    def setUp(self):
        super().setUp()
        self.server = self.enterContext(RawServer())

    def fetch_all(self, routes, client="retry = false"):
        """Fetches every route, one after another; path → outcome."""
        self.server.routes.update(routes)
        run = self.lua(FETCH_ALL % client, f"base={self.server.base}", f"paths={' '.join(routes)}")
        return {value["path"]: value for value in run.values}

    def assert_kinds(self, outcomes, **kinds):
        """kind=paths, where a path that went well has the kind "ok"."""
        expected = {path: kind for kind, paths in kinds.items() for path in paths.split()}
        actual = {
            path: value.get("err", {"kind": "ok"})["kind"] for path, value in outcomes.items()
        }
        self.assertEqual(actual, expected)


class Framing(Transport):
    def test_what_two_parsers_may_read_in_two_ways_is_refused(self):
        outcomes = self.fetch_all(
            {
                "/two-lengths": answer("hello!", content_length="5\r\nContent-Length: 6"),
                "/list-of-lengths": answer("hello", content_length="5, 6"),
                "/negative": answer("hello", content_length="-5"),
                "/signed": answer("hello", content_length="+5"),
                "/hexadecimal": answer("hello", content_length="0x5"),
                "/no-number": answer("hello", content_length=""),
                "/huge": answer("hello", content_length="99999999999999999999"),
                "/length-and-chunked": answer(
                    "5\r\nhello\r\n0\r\n\r\n", content_length="5\r\nTransfer-Encoding: chunked"
                ),
                "/chunked-and-length": answer(
                    "5\r\nhello\r\n0\r\n\r\n",
                    content_length=None, transfer_encoding="chunked\r\nContent-Length: 5",
                ),
                "/chunked-twice": answer(
                    "5\r\nhello\r\n0\r\n\r\n",
                    content_length=None, transfer_encoding="chunked, chunked",
                ),
                "/coded-transfer": answer("x", content_length=None, transfer_encoding="gzip"),
                "/beyond": answer("hello, world", content_length="5"),
                "/same-length-twice": answer("hello", content_length="5\r\nContent-Length: 5"),
                "/list-of-the-same": answer("hello", content_length="5, 5"),
            }
        )  # fmt: skip
        self.assert_kinds(
            outcomes,
            protocol="/two-lengths /list-of-lengths /negative /signed /hexadecimal /no-number /huge"
            " /length-and-chunked /chunked-and-length /chunked-twice /coded-transfer /beyond",
            ok="/same-length-twice /list-of-the-same",
        )
        self.assertIn("Content-Length", outcomes["/two-lengths"]["err"]["message"])
        self.assertEqual(outcomes["/list-of-the-same"]["body"], "hello")

    def test_what_ends_too_early_is_an_error_and_no_body(self):
        outcomes = self.fetch_all(
            {
                "/short": then_close(answer("hello", content_length=10)),
                "/nothing-of-it": then_close(answer("", content_length=10)),
                "/in-the-chunk-size": then_close(CHUNKED + b"5"),
                "/in-the-chunk": then_close(CHUNKED + b"5\r\nhel"),
                "/after-the-chunk": then_close(CHUNKED + b"5\r\nhello\r\n"),
                "/before-the-last-line": then_close(CHUNKED + b"5\r\nhello\r\n0\r\n"),
                "/in-the-head": then_close(b"HTTP/1.1 200 OK\r\nContent-Le"),
                "/in-the-status": then_close(b"HTTP/1."),
                "/nothing": then_close(b""),
            }
        )
        for path, outcome in outcomes.items():
            with self.subTest(path=path):
                self.assertIn(outcome["err"]["kind"], ("network", "protocol"))
                self.assertNotIn("body", outcome["err"])

    def test_what_is_no_http(self):
        outcomes = self.fetch_all(
            {
                "/http09": then_close(b"<html>hello</html>"),
                "/binary": then_close(bytes(range(256))),
                "/other-protocol": then_close(b"SSH-2.0-OpenSSH_9.2\r\n"),
                "/chunk-size": then_close(CHUNKED + b"zz\r\nhello\r\n0\r\n\r\n"),
                "/huge-chunk": then_close(CHUNKED + b"fffffffffffffffff1\r\nhello\r\n0\r\n\r\n"),
                "/nul": then_close(b"HTTP/1.1 200 OK\r\nA: b\0c\r\nContent-Length: 0\r\n\r\n"),
                "/no-status": then_close(b"HTTP/1.1 OK\r\nContent-Length: 0\r\n\r\n"),
            }
        )
        for path, outcome in outcomes.items():
            with self.subTest(path=path):
                self.assertIn(outcome["err"]["kind"], ("network", "protocol"))

    def test_how_a_body_ended_is_told(self):
        outcomes = self.fetch_all(
            {
                "/length": answer("hello"),
                "/chunked": CHUNKED + b"2;a=b\r\nhe\r\n3\r\nllo\r\n0\r\nTrailer: x\r\n\r\n",
                "/close": then_close(b"HTTP/1.1 200 OK\r\n\r\nhello"),
                "/old": then_close(b"HTTP/1.0 200 OK\r\n\r\nhello"),
                "/empty": answer(""),
                "/no-reason": b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello",
                "/none": answer(status="204 No Content", content_length=None),
            }
        )
        self.assertEqual(
            {path: (outcome["framing"], outcome["body"]) for path, outcome in outcomes.items()},
            {
                "/length": ("length", "hello"),
                "/chunked": ("chunked", "hello"),
                "/close": ("close", "hello"),
                "/old": ("close", "hello"),
                "/empty": ("length", ""),
                "/no-reason": ("length", "hello"),
                "/none": ("none", ""),
            },
        )

    def test_a_body_in_pieces_is_put_together(self):
        body = CHUNKED + b"5\r\nhello\r\n7\r\n, world\r\n0\r\n\r\n"
        outcome = self.fetch_all({"/": drip(body, 0.001)})["/"]
        self.assertEqual(outcome["body"], "hello, world")

    def test_a_bad_answer_never_spoils_the_next(self):
        hidden = answer("evil")
        outcomes = self.fetch_all(
            {
                "/a": answer("hello" + hidden.decode(), content_length="5"),
                "/b": answer("mine"),
                "/c": answer("5\r\nhello\r\n0\r\n\r\n" + hidden.decode(), content_length=None,
                             transfer_encoding="chunked"),
                "/d": answer("mine"),
                "/e": answer("x" + hidden.decode(), status="204 No Content"),
                "/f": answer("mine"),
            }
        )  # fmt: skip
        for path in ("/b", "/d", "/f"):
            self.assertEqual(outcomes[path]["body"], "mine")

    def test_interim_responses_are_passed_over(self):
        self.server.routes["/"] = (
            b"HTTP/1.1 100 Continue\r\n\r\n"
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Length: 100\r\n"
            b"Content-Encoding: gzip\r\n\r\n" + answer("hello", x_real="yes")
        )
        run = self.lua(
            "local res = assert(orc.fetch(P.url))"
            "emit { res.status, res.body, res.headers['x-real'], res.headers.link or orc.null }",
            f"url={self.server.base}/",
        )
        self.assertEqual(run.value, [200, "hello", "yes", None])

    def test_responses_without_a_body(self):
        self.server.routes.update(
            {
                "/head": answer(content_length=1000, content_encoding="gzip"),
                "/204": answer(status="204 No Content", content_length=None),
                "/304": answer(status="304 Not Modified", content_length=1000),
                "/after": answer("hello"),
            }
        )
        run = self.lua(
            """
            local api = orc.client { base_url = P.base, accept = { 200, 204, 304 }, retry = false }
            for _, request in ipairs { { url = "/head", method = "HEAD" }, { url = "/204" },
                { url = "/304" }, { url = "/after" } } do
              local res = assert(api:fetch(request))
              emit { res.status, res.body, res.framing, res.headers["content-length"] or orc.null }
            end
            """,
            f"base={self.server.base}",
        )
        self.assertEqual(
            run.values,
            [[200, "", "none", "1000"], [204, "", "none", None], [304, "", "none", "1000"],
             [200, "hello", "length", "5"]],
        )  # fmt: skip
        self.assertEqual(self.server.last().connection, 1)


RETRY = """
local api = orc.client { base_url = P.base, timeout = 10,
  retry = { attempts = 3, wait_initial = "1ms" } }
for request in P.requests:gmatch "%S+" do
  local method, path = request:match "(%u+)(.*)"
  local result = outcome(api:fetch { url = path, method = method })
  result.request = request
  emit(result)
end
"""


class Faults(Transport):
    def ask(self, *requests):
        run = self.lua(RETRY, f"base={self.server.base}", f"requests={' '.join(requests)}")
        return [(value.get("status"), value.get("err", value)["attempts"]) for value in run.values]

    def flaky(self, route, times=2):
        """The route, so many times; then an answer."""
        left = iter(range(times))
        return lambda connection, request: (
            answer("hello") if next(left, None) is None else route(connection, request)
        )

    def test_a_broken_connection_is_tried_again_if_that_can_do_no_harm(self):
        broken = {
            "mid-header": then_reset(b"HTTP/1.1 200 OK\r\nContent-"),
            "mid-body": then_reset(answer("hel", content_length=5)),
            "mid-chunk": then_reset(CHUNKED + b"5\r\nhe"),
            "reset": then_reset(b""),
            "close": then_close(b""),
        }
        for name, route in broken.items():
            with self.subTest(name):
                self.server.forget()
                self.server.routes["/get"] = self.flaky(route)
                self.server.routes["/post"] = self.flaky(route)
                self.assertEqual(self.ask("GET/get"), [(200, 3)])
                self.assertEqual(self.ask("POST/post"), [(None, 1)])
                self.assertEqual(self.server.targets(), ["/get", "/get", "/get", "/post"])

    def test_a_reset_before_the_request(self):
        resets = []

        def accepted(connection):
            if len(resets) < 2:
                resets.append(connection.number)
                connection.reset()

        self.server.accepted = accepted
        self.server.routes["/"] = answer("hello")
        self.assertEqual(self.ask("GET/"), [(200, 3)])

    def test_a_request_that_may_do_harm_is_sent_once_on_a_used_connection_too(self):
        # libcurl itself sends a request again when a connection it uses again is closed.
        self.server.routes.update(
            {"/": answer("hello"), "/post": then_close(b""), "/put": self.flaky(then_close(b""))}
        )
        self.assertEqual(self.ask("GET/", "POST/post", "GET/"), [(200, 1), (None, 1), (200, 1)])
        self.assertEqual(self.server.targets(), ["/", "/post", "/"])

    def test_a_connection_the_server_has_closed_meanwhile_is_not_used(self):
        self.server.routes["/"] = lambda connection, _: then_close(answer("hello"))(connection, _)
        run = self.lua(
            """
            local api = orc.client { base_url = P.base, retry = false }
            for _ = 1, 5 do
              emit(assert(api:fetch { url = "/", method = "POST" }).status)
              orc.sleep "20ms"
            end
            """,
            f"base={self.server.base}",
        )
        self.assertEqual(run.values, [200] * 5)
        self.assertEqual((self.server.opened, len(self.server.requests)), (5, 5))

    def test_refused(self):
        with closed_port() as port:
            run = self.lua(
                """
                emit(fetch { url = P.url, retry = { attempts = 3, wait_initial = "1ms" } })
                emit(fetch { url = P.url, method = "POST", retry = false })
                """,
                f"url=http://127.0.0.1:{port}/",
            )
        for value, attempts in zip(run.values, (3, 1), strict=True):
            self.assertEqual(
                (value["err"]["kind"], value["err"]["attempts"]), ("connect", attempts)
            )
            self.assertIn(str(port), value["err"]["text"])

    def test_refused_as_the_last_transfer(self):
        self.server.routes["/"] = answer("hello")
        with closed_port() as port:
            run = self.lua(
                """
                emit(fetch(P.good))
                emit(fetch { url = P.bad, retry = false })
                local results, errors = orc.gather {
                  function() return orc.fetch(P.good) end,
                  function() return orc.fetch { url = P.bad, retry = false } end,
                }
                emit { results[1].status, errors[2].kind }
                """,
                f"good={self.server.base}/",
                f"bad=http://127.0.0.1:{port}/",
            )
        self.assertEqual(run.values[0]["status"], 200)
        self.assertEqual(run.values[1]["err"]["kind"], "connect")
        self.assertEqual(run.values[2], [200, "connect"])

    def test_a_refused_connection_does_not_spoil_the_next(self):
        # It has the same descriptor.
        self.server.routes["/"] = answer("hello", connection="close")
        with closed_port() as port:
            run = self.lua(
                """
                for _ = 1, 3 do
                  emit(fetch { url = P.bad, retry = false })
                  emit(fetch { url = P.good, retry = false })
                end
                """,
                f"good={self.server.base}/",
                f"bad=http://127.0.0.1:{port}/",
            )
        statuses = [value.get("status") for value in run.values]
        self.assertEqual(statuses, [None, 200] * 3)

    def test_silence(self):
        self.server.routes.update(
            {
                "/at-once": silence,
                "/in-the-head": lambda c, _: c.send(b"HTTP/1.1 200 OK\r\n") and c.wait_closed(),
                "/in-the-body": lambda c, _: c.send(answer("hel", content_length=5))
                and c.wait_closed(),
            }
        )
        paths = [path for path in self.server.routes]
        run = self.lua(
            FETCH_ALL.replace("10", '"150ms"') % "retry = false",
            f"base={self.server.base}",
            f"paths={' '.join(paths)}",
        )
        self.assertEqual([value["err"]["kind"] for value in run.values], ["timeout"] * 3)
        self.server.until(lambda: sum(self.server.hung_up.values()) == 3)

    def test_a_timeout_that_came_while_the_script_was_busy(self):
        self.server.routes["/silent"] = silence
        run = self.lua(
            """
            for _, timeout in ipairs { "100ms", { connect = "50ms", attempt = "100ms" } } do
              local _, errors = orc.gather {
                function()
                  return orc.fetch { url = P.url, timeout = timeout, retry = false }
                end,
                function()
                  orc.sleep "50ms"
                  local till = orc.now() + 0.1
                  repeat until orc.now() > till
                end,
              }
              emit(errors[1].kind)
            end
            """,
            f"url={self.server.base}/silent",
        )
        self.assertEqual(run.values, ["timeout", "timeout"])

    def test_one_timeout_after_another(self):
        # A timer may be due when the loop begins its turn, before it waits.
        self.server.routes["/"] = silence
        run = self.lua(
            """
            local kinds = {}
            for _ = 1, 150 do
              local _, err = orc.fetch { url = P.base, retry = false, timeout = 0.003 }
              kinds[err.kind] = (kinds[err.kind] or 0) + 1
            end
            emit(kinds)
            """,
            f"base={self.server.base}/",
        )
        self.assertEqual(run.value, {"timeout": 150})

    def test_a_server_that_never_accepts(self):
        with RawServer(accepted=lambda connection: connection.wait_closed()) as server:
            run = self.lua(
                "emit(fetch { url = P.url, retry = false, timeout = '150ms' })",
                f"url={server.base}/",
            )
            self.assertEqual(run.value["err"]["kind"], "timeout")

    def test_a_download_is_given_up_when_nothing_comes_any_more(self):
        self.server.routes.update(
            {
                "/stalls": lambda c, _: c.send(answer("hel", content_length=5)) and c.wait_closed(),
                "/slow": lambda c, _: c.send(answer("", content_length=24))
                and c.send(*[b"ab"] * 12, pause=0.15)
                and None,
            }
        )
        run = self.lua(
            """
            local api = orc.client { base_url = P.base, retry = false,
              timeout = { attempt = "1s", idle = "1s" } }
            local results, errors = orc.gather {
              function() return api:fetch { url = "/stalls", save = "stalls" } end,
              function() return api:fetch { url = "/slow", save = "slow", min_speed = 0 } end,
            }
            emit { results[2].status, errors[1].kind }
            """,
            f"base={self.server.base}",
        )
        self.assertEqual(
            run.value, [200, "timeout"]
        )  # the slow one took longer than an attempt may
        self.assertEqual(self.files(), ["slow"])
        self.assertEqual(self.read("slow"), "ab" * 12)


class Connections(Transport):
    def test_200_requests_one_after_another_use_one_connection(self):
        self.server.routes["/"] = answer("hello")
        run = self.lua(
            """
            local function descriptors()
              local pipe = io.popen "ls -l /proc/$PPID/fd | grep -c socket:"
              local n = pipe:read "*n"
              pipe:close()
              return n
            end
            assert(orc.fetch(P.url))
            local before = descriptors()
            for _ = 2, 200 do assert(assert(orc.fetch(P.url)).body == "hello") end
            emit(descriptors() - before)
            """,
            f"url={self.server.base}/",
        )
        self.assertEqual(run.value, 0)
        self.assertEqual(len(self.server.requests), 200)
        self.assertEqual(self.server.opened, 1)

    def test_descriptors_are_used_again_when_connections_end(self):
        # Now the server ends the connection, now the client has to, now it stays.
        ways = (
            lambda c, _: answer("hello"),
            lambda c, _: answer("hello", connection="close"),
            then_close(answer("hello")),
            then_reset(answer("hello", content_length=9)),
            lambda c, _: answer("hello", status="500 Oops"),
        )
        self.server.routes["/"] = lambda c, r: ways[int(r.target[-1]) % 5](c, r)
        run = self.lua(
            """
            local api = orc.client { base_url = P.base, retry = false }
            local function ask(i) return api:fetch("/?" .. i) end
            local items = {}
            for i = 1, 100 do items[i] = i end
            for _, at_once in ipairs { 1, 20 } do
              local _, errors = orc.map(items, ask, { concurrency = at_once })
              for i = 1, 100 do emit { i % 5, errors[i] and errors[i].message or orc.null } end
            end
            """,
            f"base={self.server.base}",
        )
        wrong = [value for value in run.values if (value[1] is not None) != (value[0] in (3, 4))]
        self.assertEqual(wrong, [])

    def test_a_server_that_closes_after_every_answer_without_a_word(self):
        # Connections look fit for another request and are not. libcurl tries a request again then,
        # but gives up at the fifth time in the life of its handle.
        self.server.routes["/"] = then_close(answer("hello"))
        run = self.lua(
            """
            local n = 0
            local _, errors = orc.map(function()
              n = n + 1
              return n <= 400 and n or nil
            end, function()
              return orc.fetch { url = P.url, retry = false }
            end, { concurrency = 2 })
            for i = 1, 400 do
              if errors[i] then emit(errors[i].message) end
            end
            """,
            f"url={self.server.base}/",
        )
        self.assertEqual(run.values, [])

    def test_the_answer_of_one_cancels_the_other(self):
        # Both may be in libcurl, or the one cancelled may have ended in the same turn.
        self.server.routes["/"] = answer("hello")
        self.server.routes["/silent"] = silence
        run = self.lua(
            """
            local function race(first, second)
              local cancelled
              orc.group(function(g)
                local other
                local one = g:spawn(function()
                  assert(orc.fetch(first))
                  other:cancel()
                end)
                other = g:spawn(function() return orc.fetch(second) end)
                one:await()
                local _, err = other:await()
                cancelled = err and err.kind
              end)
              return cancelled
            end
            local silent, same = 0, 0
            for _ = 1, 20 do
              if race(P.base .. "/", P.base .. "/silent") == "cancelled" then
                silent = silent + 1
              end
              if race(P.base .. "/", P.base .. "/") == "cancelled" then same = same + 1 end
            end
            emit { silent, same >= 0, assert(orc.fetch(P.base .. "/")).body }
            """,
            f"base={self.server.base}",
        )
        self.assertEqual(run.value, [20, True, "hello"])
        self.server.until(lambda: self.server.in_flight == 0)

    def test_an_error_ends_the_program_while_others_run(self):
        self.server.routes.update({"/silent": silence, "/": answer("hello")})
        run = self.lua(
            """
            orc.group(function(g)
              for _ = 1, 10 do g:spawn(function() return orc.fetch(P.base .. "/silent") end) end
              g:spawn(function()
                orc.fetch(P.base .. "/")
                local nothing = nil
                return nothing.field
              end)
            end)
            emit "after the group"
            error "at the end"
            """,
            f"base={self.server.base}",
            code=1,
        )
        self.assertEqual(run.value, "after the group")
        self.assertIn("script.lua:11: at the end", run.err)
        self.server.until(lambda: self.server.hung_up["/silent"] == 10)

    def test_few_descriptors(self):
        # Who gets none waits until one is free.
        self.server.routes["/"] = lambda connection, _: connection.wait(0.05) and answer("hello")
        run = self.lua(
            """
            local items = {}
            for i = 1, 100 do items[i] = i end
            local api = orc.client { retry = false }
            local results = orc.map(items, function() return api:fetch(P.url) end,
              { concurrency = 50, on_error = "fail" })
            emit(results.n)
            emit(assert(orc.fetch(P.url)).body)
            """,
            f"url={self.server.base}/",
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32)),
        )
        self.assertEqual(run.values, [100, "hello"])

    def test_a_thousand_at_once(self):
        self.server.routes["/"] = lambda connection, _: connection.wait(0.01) and answer("hello")
        run = self.lua(
            """
            local api = orc.client { base_url = P.base, concurrency = 300 }
            local n = 0
            local bodies = orc.map(function()
              n = n + 1
              return n <= 1000 and n or nil
            end, function() return assert(api:fetch "/").body end, { concurrency = 300 })
            emit { bodies.n, #table.concat(bodies) }
            """,
            f"base={self.server.base}",
        )
        self.assertEqual(run.value, [1000, 5000])
        self.assertEqual(len(self.server.requests), 1000)
        self.assertLessEqual(self.server.opened, 300)


if __name__ == "__main__":
    unittest.main()
