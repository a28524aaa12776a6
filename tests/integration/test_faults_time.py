"""Servers that take their time: what a stream waits for at most, and what counts as a byte."""

import unittest

from faults_server import BODY, FAULTS
from program import Case
from servers import RawServer, answer, drip, silence

HEAD = b"HTTP/1.1 200 OK\r\n"
MISSING = b"HTTP/1.1 404 Not Found\r\nContent-Length: 90000\r\n\r\n"


def slow_body(connection, _):
    connection.send(HEAD + b"Content-Length: 10\r\n\r\n")
    connection.send(*[b"x"] * 10, pause=0.08)


def slow_line(connection, _):
    """No header field is whole for a second."""
    connection.send(HEAD)
    connection.send(*[b"X"] * 40, pause=0.025)
    connection.send(b": y\r\nContent-Length: 32\r\n\r\n" + BODY)


def slow_error(connection, _):
    connection.send(MISSING + b"sorry")
    connection.send(*[b"."] * 9000, pause=0.02)


class Time(Case):
    def setUp(self):
        super().setUp()
        self.server = self.enterContext(RawServer())

    def run_script(self, source, **routes):
        self.server.routes.update({"/" + name: route for name, route in routes.items()})
        run = self.lua(
            """
            local api = orc.client { base_url = P.base, timeout = 0.4,
              retry = { attempts = 2, wait_initial = 0 } }
            local function try(request)
              local began = orc.now()
              request.stream = true
              local res, err = api:fetch(request)
              local ok, text = pcall(function()
                local parts = {}
                for part in res and res:chunks() or pairs {} do parts[#parts + 1] = part end
                return table.concat(parts)
              end)
              err = err or not ok and text
              emit { took = orc.now() - began, body = text, fault = err and err.fault,
                kind = err and err.kind, attempts = err and err.attempts,
                message = err and err.message,
                excerpt = err and err.response and err.response.body }
            end
            """
            + source,
            f"base={self.server.base}",
        )
        return run.values

    def assert_too_late(self, value, attempts=2):
        self.assertEqual((value.get("kind"), value.get("fault")), ("timeout", "timeout"), value)
        self.assertEqual(value["attempts"], attempts)
        self.assertLess(value["took"], 5)

    def test_the_head_of_a_stream_comes_in_time(self):
        values = self.run_script(
            """
            orc.map({ "/silence", "/head", "/line" }, function(path) try { url = path } end)
            """,
            silence=silence,
            head=drip(HEAD + b"X: y\r\n" * 1000, 0.01),
            line=drip(HEAD + b"X: " + b"y" * 1000, 0.01),
        )
        for value in values:
            self.assert_too_late(value)
            self.assertIn("no answer within 0.4s", value["message"])
            self.assertGreater(value["took"], 0.75)
        self.assertEqual(len(self.server.requests), 6)

    def test_the_redirects_to_it_do_not_add_time(self):
        def away(connection, _):
            connection.wait(0.25)
            return answer(status="302 Found", location="/more")

        values = self.run_script(
            'try { url = "/away" }',
            away=away,
            more=lambda connection, _: connection.wait(0.25) and answer("late"),
        )
        self.assert_too_late(values[0])

    def test_its_body_may_take_longer(self):
        (value,) = self.run_script('try { url = "/body" }', body=slow_body)
        self.assertEqual(value.get("body"), "x" * 10)
        self.assertGreater(value["took"], 0.6)

    def test_what_explains_an_error_comes_in_time(self):
        (value,) = self.run_script('try { url = "/error" }', error=slow_error)
        self.assertEqual((value["kind"], value["fault"]), ("http", "http_status"))
        self.assertLess(value["took"], 5)
        self.assertTrue(value["excerpt"].startswith("sorry"))

    def test_who_looks_at_the_body_before_it_is_accepted_gets_it_in_time(self):
        (value,) = self.run_script(
            """
            try { url = "/error", response_action = function(res)
              local text, err = res:peek(100000)
              if err and err.fault == "timeout" then return "fail" end
            end }
            """,
            error=slow_error,
        )
        self.assertEqual(value["kind"], "http")
        self.assertIn("response_action failed", value["message"])
        self.assertLess(value["took"], 5)

    def test_a_request_may_say_otherwise(self):
        values = self.run_script(
            """
            try { url = "/late", timeout = 5 }
            try { url = "/late", timeout = { attempt = 0 } }
            try { url = "/body", timeout = 0.3 }
            """,
            late=lambda connection, _: connection.wait(0.6) and answer("late"),
            body=slow_body,
        )
        self.assertEqual([value.get("body") for value in values[:2]], ["late", "late"])
        self.assertEqual(values[2]["fault"], "timeout")

    def test_the_end_of_a_stream_takes_effect_at_the_next_record(self):
        """However many are there already."""

        def lines(connection, _):
            connection.send(HEAD + b"Content-Length: 900000\r\n\r\n" + b"[1]\n" * 10_000)
            connection.wait_closed()

        self.server.routes["/"] = lines
        run = self.lua(
            """
            local function read(res, kind, between)
              local count = 0
              local ok, err = pcall(function()
                for _ in res[kind](res, kind == "csv" and { header = false } or nil) do
                  count = count + 1
                  between(res, count)
                end
              end)
              emit { kind, count, ok, tostring(err.kind), err.message }
            end
            for _, kind in ipairs { "lines", "jsonl", "csv" } do
              local res = assert(orc.fetch { url = P.base, stream = true })
              local other
              orc.group(function(g)
                g:spawn(function() orc.sleep "50ms" res:close() end)
                read(res, kind, function(_, n) if n == 3 then orc.sleep "100ms" end end)
              end)
              read(assert(orc.fetch { url = P.base, stream = true, timeout = { total = "100ms" } }),
                kind, function(_, n) if n == 5 then orc.sleep "200ms" end end)
              read(assert(orc.fetch { url = P.base, stream = true }), kind,
                function(res, n) if n == 7 then res:close() end end)
            end
            """,
            f"base={self.server.base}",
        )
        closed, late = "the response was closed", "no answer within 0.1s in total"
        for kind, outcomes in zip(("lines", "jsonl", "csv"), zip(*[iter(run.values)] * 3)):
            self.assertEqual(
                outcomes,
                (
                    [kind, 3, False, "cancelled", closed], [kind, 5, False, "timeout", late],
                    [kind, 7, False, "cancelled", closed],
                ),
            )  # fmt: skip

    def test_what_was_read_to_its_end_can_be_closed(self):
        self.server.routes["/"] = answer("1\n2\n3\n")
        run = self.lua(
            """
            local res = assert(orc.fetch { url = P.base, stream = true })
            local lines = {}
            orc.sleep "50ms"
            for line in res:lines() do
              lines[#lines + 1] = line
              res:close()
            end
            emit(lines)
            """,
            f"base={self.server.base}",
        )
        self.assertEqual(run.value, ["1", "2", "3"])

    def test_the_bytes_of_a_header_line_are_bytes(self):
        self.server.routes["/"] = slow_line
        run = self.lua(
            """
            local timeout = { idle = 0.3, attempt = 20 }
            local res, err = orc.fetch { url = P.base, timeout = timeout, retry = false }
            emit { res and res.status or err.fault }
            local _, slow = orc.fetch { url = P.base, timeout = timeout, retry = false,
              min_speed = 1000 }
            emit { slow.fault, slow.message }
            """,
            f"base={self.server.base}",
        )
        whole, (fault, message) = run.values
        self.assertEqual(whole, [200])
        self.assertEqual(fault, "too_slow")
        self.assertIn("min_speed", message)
        self.assertEqual(FAULTS[fault][0], "timeout")


if __name__ == "__main__":
    unittest.main()
