"""fetch and the options of clients and requests: each of them does what it says, end to end."""

import base64
import json
import socket
import threading
import unittest

from program import Case
from servers import RawServer, answer, answer_json, silence


def echo(_connection, request):
    return answer_json(
        json.dumps(
            {
                "method": request.method,
                "target": request.target,
                "headers": request.headers,
                "body": request.body.decode("latin-1"),
            }
        ),
        x_echo="yes",
    )


def times(count, first, then):
    """One answer so many times, then another."""
    left = iter([first] * count)
    return lambda connection, request: next(left, then)


class Served(Case):
    def setUp(self):
        super().setUp()
        self.server = self.enterContext(RawServer({"/echo": echo, "/": answer("hello")}))

    def ask(self, source, *args, **options):
        return self.lua(source, f"base={self.server.base}", *args, **options)

    def echoed(self, request, client="", **options):
        """What arrives of a request."""
        return self.ask(
            f"local api = orc.client {{ base_url = P.base, {client} }}\n"
            f"emit((assert(api:fetch {request}):json()))",
            **options,
        ).value


class Requests(Served):
    def test_the_plainest(self):
        got = self.echoed('"/echo"')
        self.assertEqual((got["method"], got["target"], got["body"]), ("GET", "/echo", ""))
        version = self.orchestrate("--version").out.split()[1]
        self.assertEqual(
            got["headers"],
            {
                "host": f"127.0.0.1:{self.server.port}",
                "accept": "*/*",
                "accept-encoding": "gzip, deflate, br, zstd",
                "user-agent": f"orchestrator/{version}",
            },
        )

    def test_base_url_and_url(self):
        for base, url, target in (
            ("/v1", "/users", "/v1/users"),
            ("/v1/", "users", "/v1/users"),
            ("/v1", "?a=1", "/v1?a=1"),
        ):
            with self.subTest(url):
                self.server.routes[target] = echo
                run = self.ask(
                    f"local api = orc.client {{ base_url = P.base .. '{base}' }}"
                    f"emit(api:fetch('{url}'):json().target)"
                )
                self.assertEqual(run.value, target)
        self.assertEqual(self.echoed(f'"{self.server.base}/echo"')["target"], "/echo")

    def test_query(self):
        got = self.echoed(
            '{ url = "/echo?z=0", query = { b = { 1, 2 }, a = "ä &=", c = true, d = 1.5 } }'
        )
        self.assertEqual(got["target"], "/echo?z=0&a=%C3%A4%20%26%3D&b=1&b=2&c=true&d=1.5")

    def test_headers(self):
        got = self.echoed(
            '{ url = "/echo", headers = { ["x-ONE"] = "request", ["Accept-Encoding"] = false } }',
            'headers = { ["X-One"] = "client", ["X-Two"] = 2, ["User-Agent"] = "me" }',
        )["headers"]
        self.assertEqual((got["x-one"], got["x-two"], got["user-agent"]), ("request", "2", "me"))
        self.assertNotIn("accept-encoding", got)

    def test_method_and_body(self):
        for request, method, body, content_type in (
            ('{ url = "/echo", json = { b = { 1 }, a = orc.null } }', "POST", '{"a":null,"b":[1]}',
             "application/json"),
            ('{ url = "/echo", form = { b = "1 2", a = "ü" } }', "POST", "a=%C3%BC&b=1+2",
             "application/x-www-form-urlencoded"),
            ('{ url = "/echo", body = "a\\0b" }', "POST", "a\0b", None),
            ('{ url = "/echo", body = "" }', "POST", "", None),
            ('{ url = "/echo", method = "put", body = "x", headers = { ["content-type"]="a/b" } }',
             "PUT", "x", "a/b"),
            ('{ url = "/echo", method = "PROPFIND" }', "PROPFIND", "", None),
            ('{ url = "/echo", method = "DELETE" }', "DELETE", "", None),
            ('{ url = "/echo", method = "POST" }', "POST", "", None),
            ('{ url = "/echo", method = "GET", json = {} }', "GET", "{}", "application/json"),
        ):  # fmt: skip
            with self.subTest(request):
                got = self.echoed(request)
                self.assertEqual((got["method"], got["body"]), (method, body))
                self.assertEqual(got["headers"].get("content-type"), content_type)
                length = str(len(body)) if method in ("POST", "PUT") or body else None
                self.assertEqual(got["headers"].get("content-length"), length)
                self.assertNotIn("transfer-encoding", got["headers"])
                self.assertNotIn("expect", got["headers"])

    def test_a_connection_is_used_again_whatever_the_method_was(self):
        run = self.ask(
            """
            local api = orc.client { base_url = P.base }
            for _, request in ipairs { { method = "HEAD" }, { body = "x" }, {},
                { method = "PUT", body = "y" }, { method = "OPTIONS" }, {}, { method = "HEAD" },
                { json = {} }, {} } do
              request.url = "/echo"
              local got = assert(api:fetch(request)):json()
              emit(got and { got.method, got.body } or "none")
            end
            """
        )
        self.assertEqual(
            run.values,
            ["none", ["POST", "x"], ["GET", ""], ["PUT", "y"], ["OPTIONS", ""], ["GET", ""], "none",
             ["POST", "{}"], ["GET", ""]],
        )  # fmt: skip
        self.assertEqual(self.server.opened, 1)

    def test_a_big_body(self):
        self.server.routes["/size"] = lambda c, r: answer(f"{len(r.body)} {sum(r.body)}")
        run = self.ask(
            "emit(orc.fetch { url = P.base .. '/size', body = ('\\1\\2'):rep(2e6) }.body)"
        )
        self.assertEqual(run.value, "4000000 6000000")

    def test_the_response(self):
        self.server.routes["/r"] = answer_json(
            '{"a":[1]}', status="201 Created", x_list="a\r\nX-List: b", set_cookie="a=1, b"
        )
        run = self.ask(
            """
            local res = assert(orc.fetch(P.base .. "/r"))
            emit { res.status, res.ok, res.url == P.base .. "/r", res.body, res.attempts, #res.hops,
              res.from_cache == nil, res.framing, res:json().a[1] }
            emit(res.headers)
            for _, name in ipairs { "dns", "connect", "tls", "first_byte", "total" } do
              assert(res.timing[name] >= 0, name)
            end
            emit { res.timing.total >= res.timing.first_byte, tostring(res) }
            local value, err = orc.fetch(P.base .. "/"):json()
            emit { value == nil, err.kind, err.url }
            """
        )
        fields, headers, timing, decode = run.values
        self.assertEqual(fields, [201, True, True, '{"a":[1]}', 1, 0, True, "length", 1])
        self.assertEqual(headers["x-list"], "a, b")
        self.assertEqual(headers["content-type"], "application/json")
        self.assertEqual(timing, [True, f"response 201 from {self.server.base}/r"])
        self.assertEqual(decode, [True, "decode", f"{self.server.base}/"])

    def test_nothing_is_sent_that_could_be_read_as_something_else(self):
        run = self.ask(
            """
            for _, c in ipairs { "\\r", "\\n", "\\0", "\\r\\nX-Evil: 1" } do
              emit(fetch(P.base .. "/a" .. c .. "b").err)
              emit(fetch { url = P.base .. "/", headers = { ["X-A"] = "a" .. c .. "b" } }.err)
              emit(fetch { url = P.base .. "/", headers = { ["X-A" .. c .. "b"] = "a" } }.err)
              emit(fetch { url = P.base .. "/", method = "GE" .. c .. "T" }.err)
              emit(fetch { url = P.base:gsub("//", "//user" .. c .. ":p@") .. "/" }.err)
            end
            for _, url in ipairs { "", "no-url", "http://", "http://a b/", "http://a:99999/",
                "//a/", "file:///etc/passwd", "ftp://a/", "data:,x", "http://[::1/",
                "http://a\\27b/" } do
              emit(fetch(url).err)
            end
            """
        )
        self.assertEqual(len(run.values), 31)
        for err in run.values:
            self.assertEqual(err["kind"], "invalid", err)
            self.assertTrue(err["text"].isprintable(), err)
        self.assertEqual((self.server.requests, self.server.opened), ([], 0))

    def test_query_in_json_cannot_be_mixed(self):
        run = self.ask(
            "orc.fetch { url = P.base, json = {}, body = '' }", code=2
        )  # fmt: skip
        self.assertIn("script.lua:1: request: json and body exclude each other", run.err)

    def test_international_names_and_paths(self):
        self.server.routes["/b%C3%BCcher?%C3%BC"] = answer("hello")
        run = self.ask(
            """
            emit(orc.fetch(P.base .. "/bücher?ü").body)
            emit(fetch { url = "http://bücher.invalid/", retry = false }.err)
            """
        )
        self.assertEqual(run.values[0], "hello")
        self.assertEqual(run.values[1]["kind"], "dns")
        self.assertIn("xn--bcher-kva.invalid", run.values[1]["message"])


class Auth(Served):
    def test_each_type(self):
        basic = base64.b64encode(b"me:pass word").decode()
        for auth, place, value in (
            ('{ type = "bearer", token = "t" }', "authorization", "Bearer t"),
            ('{ type = "basic", username = "me", password = "pass word" }', "authorization",
             f"Basic {basic}"),
            ('{ type = "api_key", name = "X-Key", value = "k", place = "header" }', "x-key", "k"),
            ('{ type = "api_key", name = "X-Key", value = orc.secret.value "k" }', "x-key", "k"),
        ):  # fmt: skip
            with self.subTest(auth):
                self.assertEqual(self.echoed('"/echo"', f"auth = {auth}")["headers"][place], value)
        got = self.echoed(
            '{ url = "/echo", query = { a = 1 } }',
            'auth = { type = "api_key", name = "key", value = "k&", place = "query" }',
        )
        self.assertEqual(got["target"], "/echo?a=1&key=k%26")

    def test_nothing_comes_from_elsewhere(self):
        self.write(".netrc", "machine 127.0.0.1 login me password netrc-password")
        got = self.echoed('"/echo"', env={"HOME": self.dir, "CURL_HOME": self.dir})
        self.assertNotIn("authorization", got["headers"])

    def test_secrets_are_sent_and_never_shown(self):
        self.server.routes["/401"] = lambda c, r: answer(
            f"no access with {r.headers['authorization']}", status="401 No"
        )
        run = self.ask(
            """
            local token = orc.secret.env "X_TOKEN"
            print(token, "Bearer " .. token, orc.json.encode { token })
            local api = orc.client { base_url = P.base, auth = { type = "bearer", token = token } }
            local _, err = api:fetch { url = "/401?again=" .. token, headers = { ["X-T"] = token } }
            print(err)
            io.stderr:write(tostring(err), "\\n")
            return orc.pipeline { client = api, source = { "/401" }, sink = "out.jsonl",
              map = function() error("cannot map " .. P.base .. os.getenv "X_TOKEN") end }
            """,
            env={"X_TOKEN": "s3cr3t-token"},
            code=1,
        )
        self.assertIn(b"Bearer s3cr3t-token", self.server.last().raw)
        written = run.out + run.err + "".join(self.read(name) for name in self.files())
        self.assertNotIn("s3cr3t", written)
        self.assertIn("***", written)

    def test_a_secret_that_is_not_set(self):
        run = self.ask('orc.secret.env "X_NOT_SET"', code=2)
        self.assertIn("X_NOT_SET is not set", run.err)
        self.assertIn("script.lua:1", run.err)


class Judgement(Served):
    """accept, then response_action, then retry.statuses."""

    def test_what_is_no_success_is_an_error_with_its_response(self):
        self.server.routes["/404"] = answer_json('{"why":"gone"}', status="404 Not Found")
        run = self.ask(
            """
            local res, err = orc.fetch(P.base .. "/404")
            assert(res == nil)
            emit { err.kind, err.status, err.attempts, err.url, err.response:json().why,
              tostring(err) }
            """
        )
        url = f"{self.server.base}/404"
        self.assertEqual(run.value, ["http", 404, 1, url, "gone", f"http: status 404 (GET {url})"])

    def test_accept(self):
        for status in (200, 204, 301, 404, 503):
            self.server.routes[f"/{status}"] = answer(status=f"{status} X")
        run = self.ask(
            """
            local function statuses(api, accept)
              local got = {}
              for i, status in ipairs { 200, 204, 301, 404, 503 } do
                local res = api:fetch { url = "/" .. status, accept = accept }
                got[i] = res and res.status or orc.null
              end
              emit(got)
            end
            local api = orc.client { base_url = P.base, retry = false }
            statuses(api)
            statuses(api, { 204, 404 })
            statuses(api, "any")
            statuses(api, function(res) return res.status > 300 end)
            local other = orc.client { base_url = P.base, retry = false, accept = { 404 } }
            statuses(other)
            statuses(other, { 200 })
            """
        )
        self.assertEqual(
            run.values,
            [
                [200, 204, None, None, None],
                [None, 204, None, 404, None],
                [200, 204, 301, 404, 503],
                [None, None, 301, 404, 503],
                [None, None, None, 404, None],
                [200, None, None, None, None],
            ],
        )

    def test_response_action(self):
        self.server.routes["/error"] = answer_json('{"error":"busy"}')
        self.server.routes["/503"] = answer(status="503 No")
        run = self.ask(
            """
            local function act(url, action, more)
              local request = { base_url = P.base, retry = { attempts = 3, wait_initial = 0 },
                response_action = function(res)
                  if type(action) == "function" then return action(res) end
                  return action
                end }
              for name, value in pairs(more or {}) do request[name] = value end
              local result = outcome(orc.client(request):fetch(url))
              emit { result.status or result.err.kind, (result.err or result).attempts,
                result.ignored or false }
            end
            act("/error", function(res) return res:json().error and "retry" or nil end)
            act("/error", "fail")
            act("/error", "ignore")
            act("/error", nil)
            act("/503", "accept")
            act("/503", "fail")
            act("/503", nil)
            act("/503", "retry", { accept = "any" })
            act("/503", nil, { accept = "any" })
            """
        )
        self.assertEqual(
            run.values,
            [["http", 3, False], ["http", 1, False], [200, 1, True], [200, 1, False],
             [503, 1, False], ["http", 1, False], ["http", 3, False], ["http", 3, False],
             [503, 1, False]],
        )  # fmt: skip

    def test_a_response_action_that_is_wrong(self):
        run = self.ask(
            "orc.client { response_action = function() return 'maybe' end }:fetch(P.base .. '/')",
            code=1,
        )
        self.assertIn("got maybe", run.err)


class Retry(Served):
    def attempts(self, request, client=""):
        run = self.ask(
            f"local api = orc.client {{ base_url = P.base, {client} }}\n"
            f"emit(outcome(api:fetch {request}))"
        )
        value = run.value
        return value.get("status") or value["err"]["kind"], (value.get("err") or value)["attempts"]

    def gaps(self):
        at = [request.at for request in self.server.requests]
        return [later - earlier for earlier, later in zip(at, at[1:])]

    def test_attempts(self):
        self.server.routes["/503"] = answer(status="503 No")
        quick = "wait_initial = 0"
        self.assertEqual(self.attempts(f'{{ url = "/503", retry = {{ {quick} }} }}'), ("http", 5))
        client = f"retry = {{ {quick}, attempts = 3 }}"
        self.assertEqual(self.attempts('"/503"', client), ("http", 3))
        self.assertEqual(
            self.attempts('{ url = "/503", retry = { attempts = 2 } }', client), ("http", 2)
        )
        self.assertEqual(self.attempts('{ url = "/503", retry = false }', client), ("http", 1))
        self.assertEqual(self.attempts('"/503"', "retry = false"), ("http", 1))
        self.assertEqual(len(self.server.requests), 5 + 3 + 2 + 1 + 1)

    def test_waits(self):
        self.server.routes["/503"] = answer(status="503 No")
        retry = (
            'attempts = 4, jitter = false, wait_initial = "60ms", factor = 3, wait_max = "200ms"'
        )
        self.assertEqual(self.attempts('"/503"', f"retry = {{ {retry} }}"), ("http", 4))
        for gap, least in zip(self.gaps(), (0.06, 0.18, 0.2), strict=True):
            self.assertGreater(gap, least - 0.02)  # the server's clock starts a little later
            self.assertLess(gap, least + 5)

    def test_jitter(self):
        self.server.routes["/503"] = answer(status="503 No")
        retry = 'attempts = 9, wait_initial = "20ms", factor = 1'
        self.attempts('"/503"', f"retry = {{ {retry} }}")
        self.assertGreater(max(self.gaps()) - min(self.gaps()), 0.002)

    def test_statuses_and_methods(self):
        for status in (200, 404, 409, 503):
            self.server.routes[f"/{status}"] = answer(status=f"{status} X")
        client = (
            'retry = { attempts = 2, wait_initial = 0, statuses = { 409 }, methods = { "POST" } }'
        )
        for request, attempts in (
            ('{ url = "/409", method = "POST" }', 2),
            ('{ url = "/503", method = "POST" }', 1),
            ('{ url = "/409" }', 1),
            ('{ url = "/404", method = "POST" }', 1),
        ):
            self.assertEqual(self.attempts(request, client), ("http", attempts))

    def test_retry_after(self):
        self.server.routes["/"] = times(1, answer(status="429 Slow", retry_after=1), answer("ok"))
        client = "retry = { wait_initial = 0 }"
        self.assertEqual(self.attempts('"/"', client), (200, 2))
        self.assertGreater(self.gaps()[0], 0.98)

    def test_retry_after_need_not_be_respected(self):
        self.server.routes["/"] = times(1, answer(status="429 Slow", retry_after=60), answer("ok"))
        client = "retry = { wait_initial = 0, respect_retry_after = false }"
        self.assertEqual(self.attempts('"/"', client), (200, 2))

    def test_too_long_a_wait_is_refused(self):
        self.server.routes["/"] = answer(status="429 Slow", retry_after=301)
        self.assertEqual(self.attempts('"/"'), ("rate_limited", 1))
        self.server.routes["/"] = answer(status="429 Slow", retry_after=3)
        self.assertEqual(
            self.attempts('"/"', 'retry = { max_retry_after = "2s" }'), ("rate_limited", 1)
        )
        self.server.routes["/"] = answer(status="503 No", retry_after="9" * 30)
        self.assertEqual(self.attempts('"/"'), ("rate_limited", 1))

    def test_what_is_no_retry_after_is_passed_over(self):
        for value in ("-1", "-1.5", "soon", "Thu, 01 Jan 1970 00:00:00 GMT", "", "60; 60"):
            self.server.routes["/"] = times(1, answer(status="503 No", retry_after=value), answer())
            with self.subTest(value):
                self.assertEqual(self.attempts('"/"', "retry = { wait_initial = 0 }"), (200, 2))

    def test_a_429_that_stays_is_an_http_error(self):
        self.server.routes["/"] = answer(status="429 Slow", retry_after=0)
        self.assertEqual(self.attempts('"/"'), ("http", 5))

    def test_budget(self):
        self.server.routes["/503"] = answer(status="503 No")
        run = self.ask(
            """
            local api = orc.client { base_url = P.base, concurrency = 1,
              retry = { attempts = 2, wait_initial = 0, budget = tonumber(P.budget) } }
            for _ = 1, 30 do
              local _, err = api:fetch "/503"
              emit { err.attempts, err.message }
            end
            """,
            "budget=0",
        )
        self.assertEqual([value[0] for value in run.values], [2] * 10 + [1] * 20)
        self.assertIn("budget", run.values[-1][1])
        self.server.forget()
        self.ask(
            """
            local api = orc.client { base_url = P.base,
              retry = { attempts = 2, wait_initial = 0, budget = 1 } }
            for _ = 1, 30 do api:fetch "/503" end
            """
        )
        self.assertEqual(len(self.server.requests), 60)

    def test_no_slot_is_held_while_a_retry_waits(self):
        self.server.routes["/a"] = times(1, answer(status="503 No"), answer())
        run = self.ask(
            """
            local api = orc.client { base_url = P.base, concurrency = 1,
              retry = { wait_initial = 1, jitter = false } }
            orc.gather {
              function() assert(api:fetch "/a") end,
              function() assert(api:fetch "/") assert(api:fetch "/") end,
            }
            emit "done"
            """
        )
        self.assertEqual(run.value, "done")
        self.assertEqual(self.server.targets(), ["/a", "/", "/", "/a"])


class Timeouts(Served):
    def kind(self, options):
        run = self.ask(
            "local began = orc.now()\n"
            f"local result = fetch {{ url = P.base .. '/silent', {options} }}\n"
            "emit { result.err and result.err.kind or result.status, result.err.attempts,"
            " orc.now() - began }"
        )
        return run.value

    def test_attempt(self):
        self.server.routes["/silent"] = silence
        for options in ("timeout = '150ms'", "timeout = 0.15", "timeout = { attempt = 0.15 }"):
            with self.subTest(options):
                kind, attempts, elapsed = self.kind(
                    f"{options}, retry = {{ attempts = 2, wait_initial = 0 }}"
                )
                self.assertEqual((kind, attempts), ("timeout", 2))
                self.assertGreater(elapsed, 0.29)

    def test_total(self):
        self.server.routes["/silent"] = silence
        kind, _, elapsed = self.kind("timeout = { attempt = '100ms', total = '350ms' }, "
                                     "retry = { attempts = 100, wait_initial = 0 }")  # fmt: skip
        self.assertEqual(kind, "timeout")
        self.assertGreater(elapsed, 0.34)
        self.assertLess(len(self.server.requests), 6)
        self.server.routes["/silent"] = answer(status="503 No", retry_after=30)
        self.assertEqual(self.kind("timeout = { total = '200ms' }")[0], "timeout")

    def test_idle(self):
        # It is for the whole of a slow body, which an attempt's time is too short for.
        self.server.routes["/silent"] = lambda c, r: (
            c.send(answer(content_length=10)) and c.wait_closed()
        )
        kind, _, _ = self.kind("timeout = { idle = '1s' }, retry = false")
        self.assertEqual(kind, "timeout")

    def test_connect(self):
        # A listener whose queue is full does not answer at all.
        with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
            clients = []
            for _ in range(3):
                client = socket.socket()
                self.addCleanup(client.close)
                client.setblocking(False)
                client.connect_ex(full.getsockname())
                clients.append(client)
            run = self.ask(
                """
                for _, url in ipairs { P.full, P.base .. "/", P.full, P.base .. "/" } do
                  emit(fetch { url = url, timeout = { connect = "150ms", attempt = "20s" },
                    retry = false })
                end
                """,
                f"full=http://127.0.0.1:{full.getsockname()[1]}/",
            )
        outcomes = [v.get("status") or v["err"]["kind"] for v in run.values]
        self.assertEqual(outcomes, ["timeout", 200, "timeout", 200])

    def test_waiting_for_a_slot_does_not_count(self):
        self.server.routes["/"] = lambda c, r: c.wait(0.15) and answer("hello")
        run = self.ask(
            """
            local api = orc.client { base_url = P.base, concurrency = 1, retry = false,
              timeout = { attempt = "1s", total = "1s" } }
            local urls = {}
            for i = 1, 10 do urls[i] = "/" end
            local _, errors = orc.map(urls, function(url) return api:fetch(url) end)
            emit(#errors)
            """
        )
        self.assertEqual(run.value, 0)

    def test_waiting_for_the_rate_does_not_count(self):
        run = self.ask(
            """
            local api = orc.client { base_url = P.base, rate_limit = "5/1s", retry = false,
              timeout = { attempt = "500ms" } }
            local urls = {}
            for i = 1, 6 do urls[i] = "/" end
            local began = orc.now()
            local _, errors = orc.map(urls, function(url) return api:fetch(url) end)
            emit { #errors, orc.now() - began >= 1 }
            """
        )
        self.assertEqual(run.value, [0, True])


class Limits(Served):
    def setUp(self):
        super().setUp()
        self.release = threading.Event()

    def crowd(self, server, size, count):
        """Answers when so many are there at once, or at the end of the last few."""

        def route(connection, _request):
            with server.changed:
                server.changed.wait_for(
                    lambda: server.in_flight >= size or len(server.requests) >= count, 5
                )
            connection.wait(0.02)  # more would come now
            return answer("hello")

        server.routes["/"] = route

    def test_total(self):
        for client, size in (
            ("concurrency = 3", 3),
            ("concurrency = { total = 4 }", 4),
            ("", 20),  # the default of 50 is more than map lets through
        ):
            with self.subTest(client):
                self.server.forget()
                self.crowd(self.server, size, 20)
                self.ask(
                    f"local api = orc.client {{ base_url = P.base, {client} }}\n"
                    "local urls = {}\n"
                    "for i = 1, 20 do urls[i] = '/' end\n"
                    "orc.map(urls, function(url) return api:fetch(url) end)\n"
                )
                self.assertEqual(len(self.server.requests), 20)
                self.assertEqual(self.server.most_in_flight, size)

    def test_per_host(self):
        with RawServer() as other:
            self.crowd(self.server, 2, 10)
            self.crowd(other, 2, 10)
            self.ask(
                """
                local api = orc.client { concurrency = { total = 10, per_host = 2 } }
                local urls = {}
                for i = 1, 20 do urls[i] = (i <= 10 and P.base or P.other) .. "/" end
                local _, errors = orc.map(urls, function(url) return api:fetch(url) end)
                assert(#errors == 0)
                """,
                f"other={other.base}",
            )
            self.assertEqual((len(self.server.requests), len(other.requests)), (10, 10))
            self.assertEqual((self.server.most_in_flight, other.most_in_flight), (2, 2))

    def elapsed(self, rate, count, clients=1):
        """Seconds from the first start to the last."""
        run = self.ask(
            f"""
            local clients, urls = {{}}, {{}}
            for i = 1, {clients} do
              clients[i] = orc.client {{ base_url = P.base, rate_limit = {rate} }}
            end
            for i = 1, {count} do urls[i] = "/" end
            local began = orc.now()
            orc.map(urls, function(url, i) assert(clients[i % {clients} + 1]:fetch(url)) end)
            emit(orc.now() - began)
            """
        )
        return run.value

    def test_rate_limit(self):
        self.assertGreaterEqual(self.elapsed('"10/500ms"', 7), 0.3)
        self.assertGreaterEqual(self.elapsed('{ limit = 1, per = "100ms" }', 4), 0.3)

    def test_burst(self):
        self.assertLess(self.elapsed('{ limit = 1, per = "1h", burst = 5 }', 5), 60)
        self.assertGreaterEqual(self.elapsed('{ limit = 10, per = "1s", burst = 4 }', 6), 0.2)

    def test_sliding_window(self):
        rate = '{ limit = 5, per = "300ms", window = "sliding" }'
        self.assertGreaterEqual(self.elapsed(rate, 11), 0.6)
        at = [request.at for request in self.server.requests]
        self.assertLess(at[4] - at[0], 0.3)

    def test_a_name_is_shared(self):
        shared = '{ limit = 10, per = "1s", name = "api" }'
        self.assertGreaterEqual(self.elapsed(shared, 4, clients=2), 0.3)
        apart = '{ limit = 1, per = "1h" }'
        self.assertLess(self.elapsed(apart, 4, clients=4), 60)

    def test_attempts_and_hops_pay_the_rate(self):
        self.server.routes["/"] = times(2, answer(status="503 No"), answer(
            status="302 Found", location="/end"))  # fmt: skip
        self.server.routes["/end"] = answer("end")
        run = self.ask(
            """
            local api = orc.client { base_url = P.base, rate_limit = "10/1s",
              retry = { wait_initial = 0 } }
            local began = orc.now()
            assert(api:fetch("/").attempts == 3)
            emit(orc.now() - began >= 0.3)
            """
        )
        self.assertTrue(run.value)
        self.assertEqual(len(self.server.requests), 4)


if __name__ == "__main__":
    unittest.main()
