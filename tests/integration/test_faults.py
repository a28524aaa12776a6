"""Every fault has its outcome: kind, fault, tried again or not, no record of what is not whole, and
no descriptor left behind. What is told apart in more detail: test_transport.py (framing, retries),
test_codings.py (caps), test_redirects.py, test_dns.py, test_json.py."""

import collections
import functools
import gzip
import os
import re
import socket
import unittest

import faults_server
import test_faults_http2
import test_faults_limits
from faults_server import (
    BODY, CHUNK, CHUNKED, FAULTS, HEAD, LAST, LENGTH, Row, bomb, coded, deaf_port, deflated,
    dripped, fields, rows_script, sized,
)  # fmt: skip
from program import ROOT, Case
from servers import RawServer, answer, closed_port, drip, silence, then_reset
from test_codings import BROTLI, ZSTD

RESOLVER = os.environ.get("SLOW_RESOLVER", os.path.join(ROOT, "build", "tests", "slow_resolver.so"))

LONG = LENGTH.replace(b"32", b"9000")
POST = 'method = "POST", body = "x"'
SOON = "timeout = 0.5"

TRANSPORT = [
    Row("a whole answer", None, LENGTH + BODY),
    Row("whole chunks", None, CHUNKED + CHUNK + LAST),
    Row("to the end of the connection", None, HEAD + b"\r\n" + BODY),
    Row("one byte after another", None, dripped(LENGTH + BODY, 0.001)),
    Row("nobody listens", "connect_failed", url="http://127.0.0.1:$closed/"),
    Row("nobody accepts", "connect_timeout", url="http://127.0.0.1:$deaf/",
        request="timeout = { connect = 0.3, attempt = 9 }"),
    Row("no such name", "dns_no_such_host", url="http://none.test:$closed/"),
    Row("no answer to the name", "dns_no_answer", url="http://again.test:$closed/"),
    Row("no TLS at all", "tls", url="https://127.0.0.1:$plain/"),
    Row("reset at connect", "reset", url="http://127.0.0.1:$resets/"),
    Row("closed at connect", "closed_early", url="http://127.0.0.1:$closes/"),
    Row("closed without a word", "closed_early", b""),
    Row("reset without a word", "reset", then_reset(b"")),
    Row("reset in the head", "reset", then_reset(HEAD)),
    Row("reset in the body", "reset", then_reset(LENGTH + BODY[:8])),
    Row("reset in a chunk", "reset", then_reset(CHUNKED + CHUNK[:12])),
    Row("reset after the chunks", "reset", then_reset(CHUNKED + CHUNK)),
    Row("reset before the end of the connection", "reset", then_reset(HEAD + b"\r\n" + BODY)),
    Row("POST, closed without a word", "closed_early", b"", POST, attempts=1),
    Row("POST, reset in the body", "reset", then_reset(LENGTH + BODY[:8]), POST, attempts=1),
    Row("POST, short", "truncated_body", LENGTH + BODY[:-1], POST, attempts=1),
    Row("POST, silence", "timeout", silence, f"{POST}, {SOON}", attempts=1),
    Row("DELETE, closed without a word", "closed_early", b"", 'method = "DELETE"'),
    Row("silence", "timeout", silence, SOON),
    Row("silence in the head", "timeout", lambda c, _: c.send(HEAD) and c.wait_closed(), SOON),
    Row("silence in the body", "timeout",
        lambda c, _: c.send(LENGTH + BODY[:8]) and c.wait_closed(), SOON),
    Row("a drip of header fields", "timeout", drip(HEAD * 100, 0.01), SOON),
    Row("a drip of a body", "timeout", drip(LENGTH + BODY, 0.02), SOON),
    Row("a download that stalls", "idle",
        lambda c, _: c.send(LONG + b"x" * 2000) and c.wait_closed(),
        'save = "stalled", timeout = { idle = 1 }, min_speed = 0, retry = false', attempts=1,
        alone=True),
    Row("a download of a few bytes a second", "too_slow",
        lambda c, _: c.send(LONG) and c.send(*[b"x"] * 99, pause=0.05) and None,
        'save = "slow", timeout = { idle = 1 }, retry = false', attempts=1, alone=True),
    Row("a download that may be slow", None,
        lambda c, _: c.send(LENGTH) and c.send(*(BODY[i : i + 2] for i in range(0, 32, 2)),
                                               pause=0.1) and c.close(),
        'save = "allowed", timeout = { idle = 1 }, min_speed = 1', alone=True),
]  # fmt: skip

HEADS = [
    Row("closed in the status line", "closed_early", b"HTTP/1."),
    Row("closed after the status line", "closed_in_head", b"HTTP/1.1 200 OK\r\n"),
    Row("closed in a header field", "closed_in_head", HEAD + b"Content-Le"),
    Row("closed before the empty line", "closed_in_head", LENGTH[:-2]),
    Row("only an interim response", "closed_early", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    Row("interim responses", None,
        b"HTTP/1.1 100 Continue\r\n\r\n" + b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 5
        + b"HTTP/1.1 102 Processing\r\nContent-Length: 5\r\n\r\n" + LENGTH + BODY),
    Row("another protocol after all", "bad_framing",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n" + LENGTH + BODY),
    Row("HTTP/0.9", "not_http", BODY),
    Row("rubbish", "not_http", bytes(range(256))),
    Row("SSH", "not_http", b"SSH-2.0-OpenSSH_9.2\r\n"),
    Row("no status", "not_http", b"HTTP/1.1 OK\r\n\r\n" + BODY),
    Row("status 99", "not_http", b"HTTP/1.1 099 OK\r\n\r\n" + BODY),
    Row("status 1000", "not_http", b"HTTP/1.1 1000 OK\r\n\r\n" + BODY),
    Row("status 20", "not_http", b"HTTP/1.1 20 OK\r\n\r\n" + BODY),
    Row("HTTP/4", "not_http", b"HTTP/4 200 OK\r\n\r\n" + BODY),
    Row("HTTP/2 in plain text", "bad_framing", b"HTTP/2 200 OK\r\n\r\n" + BODY),
    Row("HTTP/2 as libcurl writes it", "bad_framing", b"HTTP/2 200 \r\n\r\n" + BODY),
    Row("HTTP/1.2", "not_http", (LENGTH + BODY).replace(b"1.1", b"1.2")),
    Row("NUL in a header", "not_http", fields(b"X: a\0b\nContent-Length: 32")),
    Row("CR in a header", "bad_framing", fields(b"X: a\rContent-Length: 32\nY: b")),
    Row("line ends without CR", None, (LENGTH + BODY).replace(b"\r", b"")),
    Row("a folded header", None, fields("X: a\n b\nContent-Length: 32")),
    Row("a field without a colon", "not_http", fields("X\nContent-Length: 32")),
    Row("header fields without end", "head_too_large",
        lambda c, _: c.send(HEAD) and endless(c, b"X-More: %s\r\n" % (b"y" * 1000))),
    Row("a header field without end", "head_too_large",
        lambda c, _: c.send(HEAD + b"X: ") and endless(c, b"y" * 1000)),
    Row("interim responses without end", "head_too_large",
        lambda c, _: endless(c, b"HTTP/1.1 103 Early\r\nLink: %s\r\n\r\n" % (b"y" * 1000))),
    Row("trailer fields without end", "head_too_large",
        lambda c, _: c.send(CHUNKED + CHUNK + b"0\r\n") and endless(c, b"X: %s\r\n" % (b"y" * 99))),
    Row("more than max_headers", "head_too_large", LENGTH + BODY, "max_headers = 50"),
    Row("10,000 header fields", None,
        fields("\n".join(f"X-{i}: y" for i in range(10_000)) + "\nContent-Length: 32")),
    Row("a long URL", None, LENGTH + BODY, 'query = { q = ("x"):rep(100000) }'),
]  # fmt: skip


def reset_unread(connection):
    """Resets once a request is there, without looking at it."""
    connection.sock.recv(1, socket.MSG_PEEK)
    connection.reset()


def endless(connection, piece):
    while connection.send(piece * 10):
        pass


FRAMING = [
    Row("short", "truncated_body", LENGTH + BODY[:-1]),
    Row("none of it", "truncated_body", LENGTH),
    Row("beyond the length", "extra_bytes",
        lambda c, _: c.send(fields("Content-Length: 8", close=False)) and c.wait_closed()),
    *(
        Row(f"length {value!r}", "bad_framing", fields("Content-Length: " + value))
        for value in (
            "", "-32", "+32", "0x20", "32x", "3 2", "32.0", "3_2", "32;", "32, 33", "32,", ",32",
            "99999999999999999999", "18446744073709551648",
        )
    ),
    Row("a part nobody asked for", "unasked_range",
        fields("Content-Range: bytes 0-31/900\nContent-Length: 32").replace(b"200 OK", b"206 Part")),
    Row("a part that was asked for", None,
        fields("Content-Range: bytes 0-31/900\nContent-Length: 32").replace(b"200 OK", b"206 Part"),
        'headers = { range = "bytes=0-31" }'),
    Row("a part to be saved", "unasked_range",
        fields("Content-Range: bytes 0-31/900\nContent-Length: 32").replace(b"200 OK", b"206 Part"),
        'save = "part"', alone=True),
    Row("a part of a stream", "unasked_range",
        fields("Content-Range: bytes 0-31/900\nContent-Length: 32").replace(b"200 OK", b"206 Part"),
        "stream = true", alone=True),
    Row("two lengths", "bad_framing", fields("Content-Length: 8\nContent-Length: 32")),
    Row("the same length twice", None, fields("Content-Length: 32\nContent-Length: 32")),
    Row("the same length in a list", None, fields("Content-Length: 32, 32")),
    Row("a length with a space before the colon", "bad_framing", fields("Content-Length : 8")),
    Row("a folded length", "bad_framing", fields("Content-Length:\n 8")),
    Row("a length that goes on", "bad_framing", fields("Content-Length: 3\n 2")),
    Row("length and chunks", "bad_framing",
        fields("Content-Length: 32\nTransfer-Encoding: chunked", CHUNK + LAST)),
    Row("chunks and length", "bad_framing",
        fields("Transfer-Encoding: chunked\nContent-Length: 32", CHUNK + LAST)),
    *(
        Row(f"transfer coding {value!r}", "bad_framing",
            fields("Transfer-Encoding: " + value, CHUNK + LAST))
        for value in ("", "chunked, chunked", "gzip, chunked", "chunked, identity", "identity",
                      "xchunked", "\n chunked", "chunked\nTransfer-Encoding: chunked")
    ),
    Row("chunks with a space before the colon", "bad_framing",
        fields("Transfer-Encoding : chunked", CHUNK + LAST)),
    Row("chunks in HTTP/1.0", "bad_framing",
        (CHUNKED + CHUNK + LAST).replace(b"HTTP/1.1", b"HTTP/1.0")),
    *(
        Row("chunk: " + name, fault, CHUNKED + body)
        for name, fault, body in (
            ("no number", "bad_framing", b"zz\r\n" + CHUNK + LAST),
            ("no size", "bad_framing", b"\r\n" + CHUNK + LAST),
            ("negative", "bad_framing", b"-20\r\n" + BODY + b"\r\n" + LAST),
            ("signed", "bad_framing", b"+20\r\n" + BODY + b"\r\n" + LAST),
            ("0x20", "bad_framing", b"0x20\r\n" + BODY + b"\r\n" + LAST),
            ("too large", "bad_framing", b"fffffffffffffffff\r\n" + BODY),
            ("larger than there is", "truncated_body", b"21\r\n" + BODY),
            ("the largest", "truncated_body", b"7fffffffffffffff\r\n" + BODY),
            ("smaller than there is", "bad_framing", b"1f\r\n" + BODY + b"\r\n" + LAST),
            ("no line end", "bad_framing", b"20\r\n" + BODY + LAST),
            ("cut off in the size", "truncated_body", CHUNK + b"1"),
            ("cut off after the size", "truncated_body", CHUNK + b"1\r\n"),
            ("cut off before the last", "truncated_body", CHUNK),
            ("cut off in the last", "truncated_body", CHUNK + b"0"),
            ("cut off before the empty line", "truncated_body", CHUNK + b"0\r\n"),
            ("cut off in the trailer", "truncated_body", CHUNK + b"0\r\nX: y\r\n"),
            ("extensions", None, b'20;a=b;c="d"\r\n' + BODY + b"\r\n0;e\r\n\r\n"),
            ("a trailer that says other things", None,
             CHUNK + b"0\r\nContent-Length: 5\r\nTransfer-Encoding: x\r\n"
             b"Content-Encoding: gzip\r\n\r\n"),
        )
    ),
]  # fmt: skip

DEFLATED = deflated("deflate")
GZIPPED = deflated("gzip")
FIVE_TIMES = functools.reduce(lambda data, _: gzip.compress(data), range(4), DEFLATED)

BODIES = [
    *(Row("good " + name, None, coded(name, data))
      for name, data in (("gzip", GZIPPED), ("deflate", DEFLATED))),
    Row("deflate without its wrapping", None, coded("deflate", deflated("raw"))),
    Row("five codings", None, coded("deflate, identity, gzip, gzip, gzip, gzip", FIVE_TIMES)),
    *(
        Row(f"{how} {name}", "corrupt_coding", coded(name, data))
        for name, whole in (("gzip", GZIPPED), ("deflate", DEFLATED), ("br", BROTLI),
                            ("zstd", ZSTD))
        for how, data in (("half a", whole[: len(whole) // 2]), ("almost a", whole[:-1]),
                          ("damaged", whole[:12] + bytes([whole[12] ^ 0xFF]) + whole[13:]),
                          ("no", b"\xff" * 40))
    ),
    Row("gzip without its trailer", "corrupt_coding", coded("gzip", GZIPPED[:-8])),
    Row("gzip and more", "corrupt_coding", coded("gzip", GZIPPED + b"more")),
    Row("gzip with a wrong sum", "corrupt_coding", coded("gzip", GZIPPED[:-8] + b"\0" * 8)),
    Row("half a gzip in whole chunks", "corrupt_coding",
        fields("Transfer-Encoding: chunked\nContent-Encoding: gzip",
               b"14\r\n" + GZIPPED[:20] + b"\r\n" + LAST)),
    Row("a gzip to the end of the connection, cut off", "corrupt_coding",
        fields("Content-Encoding: gzip", GZIPPED[:-4])),
    Row("a coding nobody asked for", "unknown_coding", coded("compress", BODY)),
    Row("a folded coding", "bad_framing", coded("\n gzip", GZIPPED)),
    Row("many codings", "too_many_codings", coded("gzip, " * 5 + "gzip", GZIPPED)),
    Row("a bomb", "body_too_large", coded("gzip", bomb()), 'max_body = "1MB"'),
    Row("a bomb in a bomb", "body_too_large", coded("gzip, gzip", gzip.compress(bomb())),
        'max_body = "1MB"'),
    Row("longer than max_body", "body_too_large", LENGTH + BODY, "max_body = 31"),
    Row("chunks longer than max_body", "body_too_large", CHUNKED + CHUNK + LAST, "max_body = 31"),
    Row("a length of terabytes", "body_too_large", fields("Content-Length: 999999999999999")),
    *(
        Row("JSON: " + name, "bad_json", sized(text))
        for name, text in (
            ("deep", b"[" * 100_000 + b"]" * 100_000), ("deep objects", b'{"a":' * 100_000),
            ("NaN", b'{"id":NaN}'), ("0x10", b'{"id":0x10}'), ("01", b'{"id":01}'),
            ("1.", b'{"id":1.}'), ("+1", b'{"id":+1}'), ("not UTF-8", b'{"id":"\xff"}'),
            ("half a surrogate", b'{"id":"\\ud800"}'), ("NUL", b'{"id":1}\0'),
            ("half", b'{"id":1'), ("two", b'{"id":1}{"id":2}'), ("HTML", b"<html></html>"),
        )
    ),
]  # fmt: skip

POLICY = [
    Row("file:", "bad_url", url="file:///etc/passwd", attempts=0),
    Row("gopher:", "bad_url", url="gopher://127.0.0.1:70/_x", attempts=0),
    Row("a line break in the URL", "bad_url", url="http://127.0.0.1:$port/a\r\nX: y", attempts=0),
    Row("a port that is none", "bad_url", url="http://127.0.0.1:99999/", attempts=0),
    Row("a line break in a header", "bad_header", LENGTH, 'headers = { X = "a\\r\\nY: b" }', attempts=0),
    Row("NUL in a header that is sent", "bad_header", LENGTH, 'headers = { X = "a\\0b" }', attempts=0),
    Row("a line break in the method", "bad_header", LENGTH, 'method = "GET\\r\\nX: y"', attempts=0),
    Row("a file that cannot be made", "cannot_save", LENGTH + BODY, 'save = "rows.lua/x"',
        alone=True),
    Row("status 404", "http_status", sized(BODY).replace(b"200 OK", b"404 Not Found")),
    Row("status 503", "http_status", sized(BODY).replace(b"200 OK", b"503 No"), attempts=2),
    Row("asked to wait for an hour", "retry_after_too_long",
        sized(BODY, "Retry-After: 3600").replace(b"200 OK", b"503 No")),
    Row("a circle", "too_many_redirects", answer(status="302 Found", connection="close", location="?x"),
        "follow = 3", sent=1),
    Row("to file:", "redirect_scheme", answer(status="302 Found", connection="close", location="file:///etc/passwd")),
    Row("to no URL", "redirect_bad_location", answer(status="302 Found", connection="close", location="http://[")),
    Row("to two places", "redirect_bad_location",
        answer(status="302 Found", connection="close", location="/0\r\nLocation: /1")),
    Row("to one place, said twice", "http_status",
        answer(status="302 Found", connection="close", location="/gone\r\nLocation: /gone")),
    Row("a secret to elsewhere", "redirect_secret_body",
        answer(status="307 Elsewhere", connection="close", location="http://127.0.0.1:1/"),
        'body = orc.secret.value "passw0rd"', attempts=1),
]  # fmt: skip

REACH = [
    Row("a private address", "blocked_address", LENGTH + BODY, client="deny_private = true",
        sent=0),
    Row("a host that is not allowed", "host_not_allowed", LENGTH + BODY,
        client='allow_hosts = { "other.test" }', sent=0),
    Row("a proxy that refuses", "proxy_refused", url="https://localhost:$port/",
        client='proxy = "http://127.0.0.1:$port"'),
    Row("a file that is not there", "cannot_read", LENGTH, 'method = "PUT", file = "missing"',
        sent=0),
]  # fmt: skip


class Rows(Case):
    """Fetches the rows and compares."""

    maxDiff = None

    def run_rows(self, rows, server, **values):
        server.routes["/last"] = sized(BODY)
        for i, row in enumerate(rows):
            row.path = f"/{i}"
            if row.route:
                server.routes[row.path] = row.route
        sanitizer = os.environ.get("ASAN_OPTIONS", "")
        run = self.lua(
            rows_script(rows, {"base": server.base, "port": server.port, **values}),
            name="rows.lua",
            code=None,
            env={"LD_PRELOAD": RESOLVER, "ASAN_OPTIONS": f"{sanitizer}:verify_asan_link_order=0"},
        )
        self.assertIn(run.code, (0, 1), run.err)  # 1: all items of one of the pipelines failed
        *outcomes, (before, after) = run.values
        self.assertEqual(len(outcomes), len(rows), run.err)
        self.assertEqual(after, before, "descriptors are left open")
        self.check_outcomes(rows, dict(outcomes))
        self.check_ledger(rows, server)
        self.check_records([row for row in rows if not row.alone])

    def check_outcomes(self, rows, outcomes):
        for row in rows:
            with self.subTest(row.name):
                outcome = outcomes[row.name]
                kind, _ = FAULTS.get(row.fault, (None, None))
                self.assertEqual(
                    [outcome.get(name) for name in ("kind", "fault", "attempts")],
                    [kind, row.fault, row.attempts],
                    outcome,
                )
                self.assertIn(row.says, outcome.get("message", ""))
                if not row.fault and row.record and not row.alone:
                    self.assertEqual(outcome["json"], {"id": 1})

    def check_ledger(self, rows, server):
        """Each was asked for as often as it was tried."""
        sent = collections.Counter(re.sub("&.*", "", target) for target in server.targets())
        for row in rows:
            if not row.url:
                with self.subTest(row.name, ledger=True):
                    self.assertEqual(sent[row.path + "?fetch"], row.sent)
                    self.assertEqual(sent[row.path + "?run"], row.sent * (not row.alone))

    def check_records(self, rows):
        """The good ones are written as they were sent; the others are dead letters."""
        written, dead = [], {}
        for name in self.files():
            if name.startswith("out/"):
                for line in self.records(name):
                    if name.endswith(".dead.jsonl"):
                        dead[line["item"]] = (line["error"]["kind"], line["attempts"])
                    else:
                        written.append((line["name"], line["record"]))
        good = [(row.name, {"id": 1}) for row in rows if not row.fault and row.record]
        self.assertEqual(sorted(written, key=str), sorted(good, key=str))
        bad = {row.name: (FAULTS[row.fault][0], row.attempts) for row in rows if row.fault}
        self.assertEqual(dead, bad)


class Faults(Rows):
    def test_the_table_is_that_of_the_program(self):
        run = self.lua(
            'for _, fault in ipairs(require("orchestrator.faults").list) do'
            " emit { fault.id, fault.kind, fault.retried } end"
        )
        self.assertEqual({row[0]: (row[1], row[2]) for row in run.values}, FAULTS)

    def test_every_fault_is_brought_about(self):
        for module in (test_faults_http2, test_faults_limits):  # they add what they produce
            self.assertIs(module.produces, faults_server.produces)
        self.assertEqual(FAULTS.keys() - faults_server.produced, faults_server.ELSEWHERE.keys())

    def test_the_network(self):
        server = self.enterContext(RawServer())
        resets = self.enterContext(RawServer(accepted=reset_unread))
        plain = self.enterContext(RawServer(accepted=lambda c: c.send(sized(BODY)) and c.close()))
        closes = self.enterContext(RawServer(accepted=lambda c: c.read_request() and c.close()))
        with closed_port() as closed, deaf_port() as deaf:
            self.run_rows(
                TRANSPORT, server, closed=closed, deaf=deaf, resets=resets.port,
                closes=closes.port, plain=plain.port,
            )  # fmt: skip

    def test_heads(self):
        self.run_rows(HEADS, self.enterContext(RawServer()))

    def test_framing(self):
        self.run_rows(FRAMING, self.enterContext(RawServer()))

    def test_bodies(self):
        self.run_rows(BODIES, self.enterContext(RawServer()))

    def test_policy(self):
        self.run_rows(POLICY, self.enterContext(RawServer()))

    def test_reach(self):
        self.run_rows(REACH, self.enterContext(RawServer()))


if __name__ == "__main__":
    unittest.main()
