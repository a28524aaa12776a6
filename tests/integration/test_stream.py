"""Responses that are read while they come in: framings, back-pressure, memory, and every way in which
one may end."""

import gzip
import os
import socket
import time
import unittest
import zlib

from program import SANITIZED, Case
from servers import (
    Certificates, Nginx, RawServer, answer, drip, scratch, silence, then_close, then_reset,
)  # fmt: skip

# How much to stream through the memory test; 1000 takes a few seconds.
MEGABYTES = int(os.environ.get("STREAM_MB", "20" if SANITIZED else "200"))

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

HELPERS = """
local function stream(request)
  if type(request) == "string" then request = { url = request } end
  request.url, request.stream = P.base .. request.url, true
  return orc.fetch(request)
end
-- What an iterator gives, and what it raises.
local function drain(iterator)
  local got = {}
  local ok, err = pcall(function() for value in iterator do got[#got + 1] = value end end)
  local fault = not ok and err.fault
  err = not ok and plain(err) or nil
  if err then err.fault = fault end
  return { got = orc.json.array(got), err = err }
end
local function read(request, method, ...)
  local res, err = stream(request)
  if not res then return { err = plain(err) } end
  local out = drain(res[method or "lines"](res, ...))
  out.framing, out.size, out.attempts = res.framing, res.size, res.attempts
  return out
end
"""


def chunked(*pieces):
    return CHUNKED + b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)


class Stream(Case):
    def setUp(self):
        super().setUp()
        self.server = self.enterContext(RawServer())

    def streams(self, source, *args, **options):
        # On one line, so that those of the source keep their numbers.
        helpers = " ".join(line for line in HELPERS.splitlines() if not line.startswith("--"))
        return self.lua(helpers + " " + source, f"base={self.server.base}", *args, **options)


class Reading(Stream):
    def test_every_framing(self):
        text = b"one\r\n\ntwo\nthree"
        coded = gzip.compress(text)
        self.server.routes.update(
            {
                "/length": answer(text.decode()),
                "/chunked": chunked(text[:2], text[2:4], text[4:]) + b"0\r\n\r\n",
                "/close": then_close(b"HTTP/1.1 200 OK\r\n\r\n" + text),
                "/drip": drip(chunked(text) + b"0\r\n\r\n", 0.001),
                "/gzip": answer(coded, content_encoding="gzip"),
                "/gzip-chunked": CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")
                + chunked(*(coded[i : i + 3] for i in range(0, len(coded), 3)))[len(CHUNKED) :]
                + b"0\r\n\r\n",
                "/empty": answer(""),
                "/none": answer(status="204 No Content", content_length=None),
            }
        )
        paths = list(self.server.routes)
        run = self.streams(
            "for path in P.paths:gmatch '%S+' do emit(read(path)) end", f"paths={' '.join(paths)}"
        )
        lines, size = ["one", "", "two", "three"], len(text)
        self.assertEqual(
            {path: tuple(value.values()) for path, value in zip(paths, run.values)},
            {
                path: (1, framing, got, length)
                for path, framing, got, length in [
                    ("/length", "length", lines, size),
                    ("/chunked", "chunked", lines, size),
                    ("/close", "close", lines, size),
                    ("/drip", "chunked", lines, size),
                    ("/gzip", "length", lines, size),
                    ("/gzip-chunked", "chunked", lines, size),
                    ("/empty", "length", [], 0),
                    ("/none", "none", [], 0),
                ]
            },
        )

    def test_head(self):
        self.server.routes["/"] = answer(content_length=100)
        run = self.streams("emit(read { url = '/', method = 'HEAD' })")
        self.assertEqual((run.value["got"], run.value["framing"]), ([], "none"))

    def test_records(self):
        self.server.routes.update(
            {
                "/jsonl": chunked(b'{"a":', b"1}\n\n[2", b",3]\nnull") + b"0\r\n\r\n",
                "/csv": chunked(b'id;t\r\n1;"a""', b'b\n;c"\r', b"\n2;x") + b"0\r\n\r\n",
            }
        )
        run = self.streams(
            """
            emit(read("/jsonl", "jsonl").got)
            emit(read("/csv", "csv", { separator = ";" }).got)
            emit(read("/csv", "csv", { separator = ";", header = false }).got[1])
            emit(read("/jsonl", "chunks").got)
            local res = stream "/jsonl"
            emit { res.status, res.headers["transfer-encoding"], res.body or orc.null,
              tostring(select(2, res:json())) }
            """
        )
        jsonl, csv, row, pieces, streamed = run.values
        self.assertEqual(jsonl, [{"a": 1}, [2, 3], None])
        self.assertEqual(csv, [{"id": "1", "t": 'a"b\n;c'}, {"id": "2", "t": "x"}])
        self.assertEqual(row, ["id", "t"])
        self.assertEqual("".join(pieces), '{"a":1}\n\n[2,3]\nnull')
        self.assertEqual(streamed[:3], [200, "chunked", None])
        self.assertIn("the body is streamed", streamed[3])

    def test_what_comes_is_given_at_once(self):
        # The second line is sent when the first one was read.
        def route(connection, _request):
            connection.send(chunked(b"first\n"))
            self.server.until(lambda: "/go" in self.server.targets())
            connection.send(chunked(b"second\n")[len(CHUNKED) :] + b"0\r\n\r\n")

        self.server.routes.update({"/": route, "/go": answer("")})
        run = self.streams(
            """
            for line in assert(stream "/"):lines() do
              emit(line)
              if line == "first" then assert(orc.fetch(P.base .. "/go")) end
            end
            """
        )
        self.assertEqual(run.values, ["first", "second"])

    def test_a_bad_record(self):
        self.server.routes.update(
            {"/": chunked(b'1\n2\n{"a"\n4\n') + b"0\r\n\r\n", "/long": drip(b"x" * 100, 0)}
        )
        self.server.routes["/long"] = chunked(b"short\n" + b"x" * 5000)  # and never ends
        run = self.streams(
            """
            emit(read("/", "jsonl"))
            emit(read("/long", "lines", { max_line = "1kB" }))
            """
        )
        bad, long = run.values
        self.assertEqual((bad["got"], bad["err"]["kind"]), ([1, 2], "decode"))
        self.assertRegex(bad["err"]["text"], r"line 3: not JSON: byte \d+")
        self.assertEqual((long["got"], long["err"]["kind"]), (["short"], "too_large"))
        self.assertIn("line 2: the line is longer than 1 kB", long["err"]["text"])


class Flow(Stream):
    def test_a_slow_consumer_stops_the_server(self):
        sent, stalled = [0], [0]
        block = b"x" * 999 + b"\n"

        def route(connection, _request):
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 64000000\r\n\r\n")
            connection.sock.settimeout(0.3)
            left = memoryview(block * 64000)
            while left:
                try:
                    n = connection.sock.send(left[: 1 << 16])
                    sent[0] += n
                    left = left[n:]
                except TimeoutError:  # nothing was taken for so long: the reader stands still
                    stalled[0] = stalled[0] or sent[0]
                    with self.server.changed:
                        self.server.changed.notify_all()

        def until_stalled(_connection, _request):
            self.server.until(lambda: stalled[0])
            return answer(str(sent[0]))

        self.server.routes.update({"/": route, "/stalled": until_stalled})
        run = self.streams(
            """
            local count = 0
            for _ in assert(stream "/"):lines() do
              count = count + 1
              if count == 1 then emit(tonumber(orc.fetch(P.base .. "/stalled").body)) end
            end
            emit(count)
            """
        )
        accepted, count = run.values
        self.assertLess(accepted, 16_000_000)  # sockets hold a few megabytes
        self.assertEqual((count, sent[0]), (64000, 64_000_000))

    def test_memory_is_bounded(self):
        block = b"".join(b"%07d %s\n" % (i, b"x" * (i % 180)) for i in range(10000))
        count = -(-MEGABYTES * 1_000_000 // len(block))
        size = count * len(block)

        def route(connection, _request):
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            for _ in range(count):
                connection.send(block)

        self.server.routes["/"] = route
        run = self.streams(
            """
            local lines, bytes = 0, 0
            local res = assert(stream { url = "/" })
            for line in res:lines() do
              lines, bytes = lines + 1, bytes + #line + 1
            end
            local status = io.open("/proc/self/status"):read "*a"
            emit { lines, bytes, res.size, tonumber(status:match "VmHWM:%s*(%d+) kB") }
            """
        )
        *read, peak = run.value
        self.assertEqual(read, [count * 10000, size, size])
        self.assertLess(peak, 64_000 + 300_000 * SANITIZED)

    def test_idle_does_not_count_the_time_of_the_consumer(self):
        body = b"x" * 99 + b"\n"
        self.server.routes["/"] = answer(body * 20000)
        run = self.streams(
            """
            local n = 0
            for _ in assert(stream { url = "/", timeout = { idle = "300ms" } }):lines() do
              n = n + 1
              if n == 1 then orc.sleep("700ms") end
            end
            emit(n)
            """
        )
        self.assertEqual(run.value, 20000)

    def test_many_at_once(self):
        for i in range(20):
            lines = "".join(f"{i} {k}\n" for k in range(3000))
            self.server.routes[f"/{i}"] = answer(lines)
        run = self.streams(
            """
            local paths = {}
            for i = 1, 20 do paths[i] = "/" .. i - 1 end
            local results = orc.map(paths, function(path)
              local k, mine = 0, path:sub(2)
              for line in assert(stream(path)):lines() do
                assert(line == mine .. " " .. k, line)
                k = k + 1
                if k % 500 == 0 then orc.sleep(0) end
              end
              return k
            end)
            results.n = nil
            emit(results)
            """
        )
        self.assertEqual(run.value, [3000] * 20)


class Ends(Stream):
    def test_what_is_cut_off_is_raised_and_no_partial_line_is_given(self):
        # The head and the first line, and after it was read the rest and the end.
        def broken(head, rest, end):
            def route(connection, request):
                connection.send(head)
                self.server.until(lambda: "/go" + request.target in self.server.targets())
                connection.send(rest)
                connection.wait(0.02)  # a RST may overtake what was sent
                end(connection)

            return route

        close, reset, stay = (lambda c: c.close()), (lambda c: c.reset()), (lambda c: None)
        flushed = zlib.compressobj(wbits=31)
        first = flushed.compress(b"1\n") + flushed.flush(zlib.Z_SYNC_FLUSH)
        coded = flushed.compress(b"2\n345") + flushed.flush()
        length = answer("1\n", content_length=100)
        gzipped = answer("", content_length=len(first + coded), content_encoding="gzip") + first
        routes = {
            "/length": (length, b"2\n345", close, "network"),
            "/chunk": (chunked(b"1\n"), b"20\r\n2\n345", close, "network"),
            "/last-chunk": (chunked(b"1\n"), b"5\r\n2\n345\r\n", close, "network"),
            "/reset": (length, b"2\n345", reset, "network"),
            "/chunk-size": (chunked(b"1\n"), b"5\r\n2\n345\r\nzz\r\n", stay, "protocol"),
            "/gzip": (gzipped, coded[:-9] + b"x" * 9, stay, "decode"),
            "/gzip-length": (gzipped, coded[:-9], close, "network"),
        }
        for path, route in routes.items():
            self.server.routes[path] = broken(*route[:3])
            self.server.routes["/go" + path] = answer("")
        run = self.streams(
            """
            for path in P.paths:gmatch "%S+" do
              local res = assert(stream(path))
              local iterator = res:lines()
              local first = iterator()
              assert(orc.fetch(P.base .. "/go" .. path))
              local rest = drain(iterator)
              rest.first = first
              emit(rest)
            end
            """,
            f"paths={' '.join(routes)}",
        )
        for (path, route), value in zip(routes.items(), run.values):
            with self.subTest(path):
                err = value["err"]
                # Nothing comes of a piece that does not decode.
                got = [] if route[3] == "decode" else ["2"]
                self.assertEqual((value["first"], value["got"]), ("1", got))
                self.assertEqual((err["kind"], err["url"]), (route[3], self.server.base + path))
                # What breaks off later is not tried again.
                self.assertEqual(self.server.targets().count(path), 1)

    def test_what_is_refused_when_the_consumer_goes_on(self):
        # The buffer is full before there are 290,000 bytes. What comes after it libcurl keeps, and
        # hands over when the consumer has taken the first.
        def route(connection, request):
            connection.send(chunked(b"x" * 400_000))
            silence(connection, request)

        self.server.routes["/"] = route
        run = self.streams(
            """
            local res = assert(stream { url = "/", max_body = 290000 })
            orc.sleep "300ms"
            local began = orc.now()
            local out = drain(res:chunks())
            emit { fault = out.err.fault, took = orc.now() - began }
            """
        )
        self.assertEqual(run.value["fault"], "body_too_large")
        self.assertLess(run.value["took"], 5)

    def test_a_task_fails_with_it(self):
        self.server.routes["/"] = then_close(answer("1\n2", content_length=100))
        run = self.streams(
            """
            local _, errors = orc.map({ "/" }, function(path)
              for _ in assert(stream { url = path, retry = false }):lines() do end
              return "whole"
            end)
            emit(plain(errors[1]))
            """
        )
        self.assertEqual(run.value["kind"], "network")

    def test_silence(self):
        def route(connection, request):
            connection.send(chunked(b"1\n2"))
            silence(connection, request)

        self.server.routes["/"] = route
        began = time.monotonic()
        run = self.streams(
            """
            emit(read { url = "/", timeout = { idle = "300ms" } })
            emit(read { url = "/", timeout = { total = "300ms" } })
            emit(read { url = "/", timeout = { attempt = "300ms" } })
            """
        )
        self.assertEqual(
            [value["err"]["fault"] for value in run.values], ["idle", "timeout", "timeout"]
        )
        for value in run.values:
            self.assertEqual((value["got"], value["err"]["kind"]), (["1"], "timeout"))
        self.assertLess(time.monotonic() - began, 20)

    def test_max_body(self):
        self.server.routes["/"] = chunked(b"12345\n" * 100) + b"0\r\n\r\n"
        run = self.streams("emit(read { url = '/', max_body = 200 }) emit(#read('/').got)")
        cut, whole = run.values
        self.assertEqual(cut["err"]["kind"], "too_large")
        self.assertEqual(whole, 100)

    def test_what_is_given_up_frees_slot_and_connection(self):
        def endless(connection, _request):
            connection.send(CHUNKED)
            while connection.send(chunked(b"line\n" * 1000)[len(CHUNKED) :]):
                pass

        self.server.routes.update({"/": endless, "/then": answer("ok")})
        run = self.streams(
            """
            local api = orc.client { base_url = P.base, concurrency = 1 }
            local function open(method, ...)
              local res = assert(api:fetch { url = "/", stream = true })
              local iterator = res[method or "lines"](res, ...)
              iterator()
              return iterator, res
            end
            local function free() emit(api:fetch("/then").body) end
            local iterator, res = open()
            res:close()
            res:close()
            local ok, err = pcall(function() for _ in iterator do end end)
            emit { ok, tostring(err) }
            free()
            orc.gather { function() open() end } -- a task ends
            free()
            orc.deadline("100ms", function() -- a task is cancelled while it reads
              for _ in open "chunks" do end
            end)
            free()
            orc.group(function(g) -- and while it waits for something else
              g:spawn(function() open() orc.sleep(60) end)
              orc.sleep("50ms")
              error "enough"
            end)
            free()
            emit(pcall(open, "lines", { max_line = 2 })) -- a record is bad
            free()
            open() -- the script ends
            """
        )
        closed, *others = run.values
        self.assertEqual(closed[0], False)
        self.assertIn("cancelled", closed[1])
        self.assertEqual(others, ["ok"] * 4 + [False, "ok"])
        self.server.until(lambda: self.server.hung_up["/"] == 6)


class BeforeTheBody(Stream):
    def test_retries_go_on_until_there_is_a_head(self):
        failures = [answer("busy", status="503 Busy"), then_close(b"HTTP/1.1 200 OK\r\nA:"), None]

        def route(connection, request):
            left = failures.pop(0)
            return left(connection, request) if callable(left) else left or answer("1\n2\n")

        self.server.routes["/"] = route
        run = self.streams("emit(read { url = '/', retry = { wait_initial = 0 } })")
        self.assertEqual((run.value["got"], run.value["attempts"]), (["1", "2"], 3))

    def test_a_status_that_is_not_accepted(self):
        self.server.routes.update(
            {
                "/404": answer("not here", status="404 Not Found"),
                "/endless": chunked(b"gone " * 100000),
            }
        )
        self.server.routes["/endless"] = self.server.routes["/endless"].replace(
            b"200 OK", b"410 Gone"
        )
        run = self.streams(
            """
            emit(read "/404".err)
            local err = read "/endless".err
            emit { err.status, err.body:sub(1, 10), #err.body }
            emit(read({ url = "/404", accept = { 404 } }).got)
            """
        )
        missing, gone, accepted = run.values
        self.assertEqual(
            (missing["kind"], missing["status"], missing["body"]), ("http", 404, "not here")
        )
        self.assertEqual(gone[:2], [410, "gone gone "])
        self.assertLess(gone[2], 100_000)
        self.assertEqual(accepted, ["not here"])

    def test_redirects(self):
        self.server.routes.update(
            {"/": answer("moved\n", status="302 Found", location="/to"), "/to": answer("1\n2\n")}
        )
        run = self.streams(
            """
            local res = assert(stream "/")
            emit { res.url, #res.hops, drain(res:lines()).got }
            """
        )
        self.assertEqual(run.value, [self.server.base + "/to", 1, ["1", "2"]])

    def test_in_a_pipeline(self):
        # Refused, as its records would silently be none; a source may read one.
        self.server.routes.update({"/": answer("/a\n/b\n"), "/a": answer("[1]"), "/b": answer("[2]")})
        run = self.streams(
            """
            return {
              orc.pipeline { name = "streamed", source = { "/a" }, sink = "streamed.jsonl",
                request = function(item) return { url = P.base .. item, stream = true } end },
              orc.pipeline { name = "sourced", client = { base_url = P.base }, sink = "-",
                source = assert(stream "/"):lines() },
            }
            """,
            code=None,
        )
        self.assertEqual(sorted(run.values), [1, 2])
        (dead,) = self.records("streamed.dead.jsonl")
        self.assertIn("a pipeline reads whole bodies", dead["error"]["message"])


class Http2(Case):
    def test_a_paused_stream_does_not_stop_others_of_its_host(self):
        directory = self.enterContext(scratch())
        certificates = Certificates(directory)
        certificates.sign("localhost", "localhost")
        os.mkdir(os.path.join(directory, "www"))
        with open(os.path.join(directory, "www", "big"), "wb") as file:
            file.write((b"x" * 99 + b"\n") * 200_000)
        nginx = self.enterContext(
            Nginx(
                directory,
                {
                    "h2": (
                        "ssl http2",
                        "ssl_certificate localhost.pem; ssl_certificate_key localhost.key;"
                        " location = /small { return 200 $server_protocol; }",
                    )
                },
            )
        )
        run = self.lua(
            """
            local streams = {}
            for i = 1, 3 do
              streams[i] = assert(orc.fetch { url = P.base .. "/big", stream = true }):lines()
              streams[i]()
            end
            local results = orc.map({ 1, 2, 3, 4, 5, 6 }, function()
              return orc.fetch { url = P.base .. "/small", timeout = 10 }
            end)
            for i = 1, 6 do emit(results[i].body) end
            for i = 1, 3 do
              local n = 1
              for _ in streams[i] do n = n + 1 end
              emit(n)
            end
            """,
            f"base=https://localhost:{nginx.ports['h2']}",
            env={"SSL_CERT_FILE": certificates.ca},
        )
        self.assertEqual(run.values, ["HTTP/2.0"] * 6 + [200_000] * 3)


if __name__ == "__main__":
    unittest.main()
