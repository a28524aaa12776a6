"""Bytes that nobody asked for: a whole second answer behind the first one. Wherever it arrives, it
never becomes the answer to another request."""

import array
import contextlib
import fcntl
import os
import ssl
import termios
import time
import unittest

from faults_server import BODY, FAULTS, PRELUDE, fields
from program import Case
from servers import PATIENCE, Certificates, RawServer, answer, scratch
from test_tls import speak_tls

EVIL = answer('{"id":"evil"}')
HEAD = b"HTTP/1.1 200 OK\r\n"
GOOD = fields("Content-Length: 32", close=False)
EMPTY = HEAD + b"Content-Length: 0\r\n\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNK, LAST = b"20\r\n" + BODY + b"\r\n", b"0\r\n\r\n"
LARGE = 2_500_000  # bytes: more than any buffer on the way holds


def sized(size, text=b" "):
    return HEAD + b"Content-Length: %d\r\n\r\n" % size + BODY + text * (size - len(BODY))


def in_two(data, at):
    """A part of the answer, then the rest in one piece."""

    def route(connection, _):
        connection.send(data[:at])
        if connection.wait(0.01):
            connection.send(data[at:])

    return route


def at_the_end(size):
    """An answer whose last bytes come together with EVIL: nobody can see the one without the
    other."""
    return in_two(sized(size) + EVIL, -len(EVIL) - 16)


# Answers by their length, with EVIL right behind; and others, which libcurl ends by itself.
OVERRUN = {
    "/one": GOOD + EVIL,
    "/split": in_two(GOOD + EVIL, -len(EVIL) - len(BODY)),
    "/odd": at_the_end(30_001),
    "/large": at_the_end(LARGE),
}
OTHERS = {
    "/zero": EMPTY + EVIL,
    "/none": b"HTTP/1.1 204 No Content\r\n\r\n" + EVIL,
    "/chunks": CHUNKED + CHUNK + LAST + EVIL,
    "/split-chunks": in_two(CHUNKED + CHUNK + LAST + EVIL, len(CHUNKED)),
    "/many-chunks": in_two(CHUNKED + CHUNK + b"2\r\n  \r\n" * 40_000 + LAST + EVIL, -200),
}


def arrive(sock):
    """Waits until the other side's kernel has all that was sent, or the connection is gone."""
    queued, end = array.array("i", [1]), time.monotonic() + PATIENCE
    with contextlib.suppress(OSError):
        while queued[0] and time.monotonic() < end:
            fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, queued)
            time.sleep(0.001 if queued[0] else 0)


class ExtraBytes(Case):
    ROUNDS = 4

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        directory = cls.enterClassContext(scratch())
        certificates = Certificates(directory)
        certificates.sign("localhost", "localhost")
        cls.ca = certificates.ca
        cls.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        cls.context.load_cert_chain(
            os.path.join(directory, "localhost.pem"), os.path.join(directory, "localhost.key")
        )

    def serve(self, tls):
        """Such a server, and its base."""
        routes = {**OVERRUN, **OTHERS, "/good": GOOD, "/poison": at_the_end(200_000)}
        routes.update({"/late": self.late, "/at-once": self.at_once, "/sent": self.sent})
        server = self.enterContext(RawServer(routes, accepted=tls and speak_tls(self.context)))
        self.server, self.written = server, 0
        self.begun, self.ended = 0, 0
        return f"https://localhost:{server.port}" if tls else server.base

    def run_script(self, base, source, *args):
        env = {"SSL_CERT_FILE": self.ca}
        return self.lua(PRELUDE + source, f"base={base}", *args, env=env)

    def late(self, connection, _):
        """EVIL comes after the answer; then there is a file."""
        connection.send(GOOD)
        if connection.wait(0.01) and connection.send(EVIL):
            with self.server.changed:
                self.written += 1
                self.write(f"late-{self.written}", "")

    def at_once(self, connection, _):
        """What comes of it depends on how fast it is read."""
        with self.server.changed:
            self.begun += 1
        connection.send(sized(LARGE) + EVIL)
        arrive(connection.sock)
        with self.server.changed:
            self.ended += 1
            self.server.changed.notify_all()

    def sent(self, _connection, _request):
        self.server.until(lambda: self.ended == self.begun)
        return GOOD

    def check_next(self, tls):
        """What came of each route, and of the requests on its connection after it."""
        run = self.run_script(
            self.serve(tls),
            """
            local api = orc.client { base_url = P.base, retry = false, accept = { 200, 204 } }
            local other = orc.client { base_url = P.base, cookies = true } -- shares no connection
            local function fetch(path, mode)
              local res, err = api:fetch { url = path, stream = mode == "stream" or nil,
                save = mode == "save" and "saved" or nil }
              local ok, raised = pcall(function()
                for _ in res and mode == "stream" and res:chunks() or pairs {} do end
              end)
              err = err or not ok and raised or nil
              return err and err.fault or "answered"
            end
            local function good()
              local res, err = api:fetch "/good"
              return res and res:json().id or err.fault
            end
            for path in P.paths:gmatch "%S+" do
              for _, mode in ipairs { "memory", "stream", "save" } do
                local outcomes = {}
                for round = 1, tonumber(P.rounds) do
                  local outcome = fetch(path, mode)
                  if path == "/at-once" then orc.sleep "50ms" elseif round % 2 == 0 then orc.sleep "5ms" end
                  if path == "/at-once" then assert(other:fetch "/sent") end
                  for _, one in ipairs { outcome, good(), good() } do
                    outcomes[#outcomes + 1] = one
                  end
                end
                emit { path, mode, outcomes }
              end
            end
            """,
            f"rounds={self.ROUNDS}",
            "paths=" + " ".join([*OVERRUN, *OTHERS, "/at-once"]),
        )
        self.assertEqual(len(run.values), 3 * len([*OVERRUN, *OTHERS, "/at-once"]))
        for path, mode, outcomes in run.values:
            with self.subTest(path, mode=mode, tls=tls):
                self.assertEqual(outcomes[1::3] + outcomes[2::3], [1] * (2 * self.ROUNDS))
                if path in OVERRUN:
                    self.assertEqual(outcomes[::3], ["extra_bytes"] * self.ROUNDS)
                else:
                    self.assertLessEqual(set(outcomes[::3]), {"answered", "extra_bytes"})

    def test_the_next_request_in_plain_text(self):
        self.check_next(tls=False)

    def test_the_next_request_in_tls(self):
        """The second answer is within the record that ends the first one."""
        self.check_next(tls=True)

    def test_the_requests_beside_it(self):
        for tls in (False, True):
            with self.subTest(tls=tls):
                run = self.run_script(
                    self.serve(tls),
                    """
                    local api = orc.client { base_url = P.base, retry = false, concurrency = 4 }
                    local list, told = {}, {}
                    for i = 1, 300 do list[i] = i % 10 == 0 and "/poison" or "/good" end
                    orc.map(list, function(path)
                      local res, err = api:fetch(path)
                      local what = path .. " " .. tostring(res and res:json().id or err.fault)
                      told[what] = (told[what] or 0) + 1
                    end, { concurrency = 4 })
                    emit(told)
                    """,
                )
                self.assertEqual(run.value, {"/good 1": 270, "/poison extra_bytes": 30})

    def test_they_come_while_nobody_listens(self):
        """A function of the script's takes its time, and EVIL comes on two idle connections."""
        for tls in (False, True):
            with self.subTest(tls=tls):
                run = self.run_script(
                    self.serve(tls),
                    """
                    local api = orc.client { base_url = P.base, retry = false }
                    for i = 1, 5 do
                      orc.map({ 1, 2 }, function() assert(api:fetch "/late") end)
                      local file
                      repeat file = io.open("late-" .. 2 * i) until file
                      file:close()
                      orc.map({ 1, 2, 3 }, function() emit(assert(api:fetch "/good"):json().id) end)
                    end
                    """,
                )
                self.assertEqual(run.values, [1] * 15)
                for i in range(1, 11):
                    os.remove(self.path(f"late-{i}"))

    def test_it_is_a_fault_that_is_tried_again(self):
        self.assertEqual(FAULTS["extra_bytes"], ("protocol", True))


if __name__ == "__main__":
    unittest.main()
