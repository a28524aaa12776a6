"""What a hostile server can make us hold: little, wherever its body goes."""

import base64
import unittest

from faults_server import FAULTS, coded
from program import SANITIZED, Case
from servers import RawServer

# 400 MiB of zeros: as `brotli -q 9 --lgwin=24` writes them, and as `zstd -19 | zstd -19 | gzip` do.
BROTLI = base64.b64decode(
    "z///fwAkAOKxQHLv//n//w+ABEAcFoDu/T////8BkACIwwLQvf/n//8/ABIAcVgAuvf//P//B0ACIA4LQPf+n////w"
    "BIAMRhAeje//P//x8ACYA4LADd+3/+//8DIAEQhwWge//P//9/ACQA4rAAdO//+f//D4AEQBwWgO79P////wGQAIjD"
    "AtC9/+f//z8AEgBxWAC69//8//8HQAIgDgtA9/6f////AEgAxGEB6N7/8///HwAJgDgsAN37f/7//wMgARCHBaB7/8"
    "///38AJADisAB07//5//8PgARAHBaA7v0/////AZAAiMMC0L3/5///PwASAHFYALr3//z//wdAAiAOC0D3/p////8A"
    "SADEYQHo3v/z//8fAAmAOCwA3ft//v//AyABEIcFoHv/z///fwAkAOKwAHTv/wc="
)
ZSTD_TWICE = base64.b64decode(
    "H4sIAAAAAAACA9PYqv+XJWMrI8MUJg0w04eBgYOBkeHPf0sBJiYGAQYXBgYg9+//M9wCzEBuzsvXnEwMTn6NZ6q/hm"
    "7n/BUqeBUAJamcnEMAAAA="
)

MISSING = b"HTTP/1.1 404 Not Found\r\nConnection: close\r\n"


def page(head, size):
    """An error page of that size."""

    def route(connection, _):
        connection.send(MISSING + head + b"\r\n")
        for _ in range(0, size, 1_000_000):
            if not connection.send(b"e" * 1_000_000):
                break
        connection.close()

    return route


def missing(data):
    return data.replace(b"200 OK", b"404 Not Found")


class Memory(Case):
    def setUp(self):
        super().setUp()
        self.server = self.enterContext(RawServer())

    def assert_refused(self, route, request, fault, most):
        """It ends with that fault, after at most so many MB were taken."""
        self.server.routes["/"] = route
        run = self.lua(
            """
            local request = { url = P.base .. "/", retry = false, %s }
            local res, err = orc.fetch(request)
            local ok, raised = pcall(function()
              for _ in res and request.stream and res:chunks() or pairs {} do end
            end)
            err = err or not ok and raised or { kind = "none" }
            local status = io.open("/proc/self/status"):read "*a"
            emit { err.kind, err.fault or orc.null, tonumber(status:match "VmHWM:%%s*(%%d+) kB") / 1000 }
            """
            % request,
            f"base={self.server.base}",
        )
        kind, got, peak = run.value
        self.assertEqual((kind, got), (FAULTS[fault][0], fault))
        self.assertLess(peak, most + 300 * SANITIZED)

    def test_a_bomb_in_a_stream(self):
        """What a few bytes become is not known before, but it is counted as it comes."""
        for coding, data in (("br", BROTLI), ("zstd, zstd, gzip", ZSTD_TWICE)):
            with self.subTest(coding):
                for data in (coded(coding, data), missing(coded(coding, data))):
                    self.assert_refused(data, "stream = true", "expands_too_fast", 120)

    def test_a_large_error_is_not_saved_and_not_held(self):
        for name, route in (
            ("length", page(b"Content-Length: 300000000\r\n", 300_000_000)),
            ("to the end of the connection", page(b"", 300_000_000)),
            ("a bomb", missing(coded("br", BROTLI))),
        ):
            with self.subTest(name):
                self.assert_refused(route, 'save = "file"', "body_too_large", 160)
                self.assertEqual(self.files(), [])

    def test_an_error_that_is_not_saved_can_be_read(self):
        self.server.routes["/"] = page(b"", 10_000_000)
        run = self.lua(
            """
            local _, err = orc.fetch { url = P.base .. "/", save = "file" }
            emit { err.kind, #err.response.body }
            _, err = orc.fetch { url = P.base .. "/", save = "file", max_body = "1MB" }
            emit { err.kind, err.fault }
            """,
            f"base={self.server.base}",
        )
        self.assertEqual(run.values, [["http", 10_000_000], ["too_large", "body_too_large"]])
        self.assertEqual(self.files(), [])


if __name__ == "__main__":
    unittest.main()
