"""Content codings, and the caps on what a server may send."""

import base64
import gzip
import hashlib
import unittest
import zlib

from program import SANITIZED, Case
from servers import RawServer, answer, then_close

TEXT = "".join(hashlib.sha256(bytes([i])).hexdigest() for i in range(8)).encode()

# TEXT as `brotli -q 11` and `zstd -19 --check` write it.
BROTLI = base64.b64decode(
    "H/8B+OXBMdRmDb9EgS6ciGvHAp3z3+yVkVMqctbtAUXjkYDL38zO4RaKWAyGXl+AK/2KRM8iqjLKvUfXHbPUfrxoALXG"
    "OBxauj5zxOMeKpq1PdgyCfB/EquurVs6xgECSPqm2/DHRyIp7XaVYaK+GQYhfwvR6VEv64tp5SJWYa0BkGdsbYjbaITY"
    "ppVV+085ekqboxCjQCzOIhsDXps4vQYW9eP6b5T0YFSQUxw4ked47p2VdXkMDdvb9opQZHKfex6ogOttnVQXeQ2ao9Uu"
    "vG2uYZfxteRb0JkWPcBZeM8yydnZcUpc0feRKx4GMXrzNsUarvG25GfzouSU7OleLvEbwYnb5jm35Tvejw/gwhM="
)
ZSTD = base64.b64decode(
    "KLUv/QRo1QgABqBFC8APsFbFWtjK/64EQQBBAEEAmkWFdzzizNelhcMx1gpg0eO30oy7Lt47xVRFNC8S9UsdoK8XBqMR"
    "hXY4N7M/HZB4LAp4u+ZEpZyYerP/nAs0bgHFKf+tmlq2EWKxHWFrY54AWGuoRnRqGX1Nr3i5CO1PCIbZV2SY6nZLSSQ+"
    "/rBd9iUBBDjGpV1bV43k/wDJtMHbAdtDt1qcBeuJrpJrex1Qgeed72SiEPW2vQ0L4+mamnvncZ7IgaOcoGLwkmL/dfyK"
    "BtbLka0HjE00RyNQjFCcLeUBeeheAB+/x33aznm2HTmI/Uind3mTclL0bH7S9liHNcr27MUIhked+L6oI+W4uTnJNO+h"
    "OcCLlrmgfdL6mG5YZwEA15Aczg=="
)
GZIP = gzip.compress(TEXT)
DEFLATE = zlib.compress(TEXT)
RAW_DEFLATE = DEFLATE[2:-4]


def coded(coding, data, **fields):
    return answer(data, content_encoding=coding, **fields)


def chunked(data, size=7, **fields):
    """The data in chunks, which end anywhere in it."""
    head = answer(content_length=None, transfer_encoding="chunked", **fields)
    pieces = [data[i : i + size] for i in range(0, len(data), size)]
    return head + b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"


def damaged(data, at):
    return data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]


class Served(Case):
    def setUp(self):
        super().setUp()
        self.server = self.enterContext(RawServer())

    def fetch_all(self, routes, request="", **options):
        """Fetches every route; path → outcome."""
        self.server.routes.update(routes)
        run = self.lua(
            "local api = orc.client { base_url = P.base, retry = false }\n"
            'for path in P.paths:gmatch "%S+" do\n'
            f"  local result = outcome(api:fetch {{ url = path, {request} }})\n"
            "  result.path, result.size = path, #(result.body or '')\n"
            "  if result.size > 10000 then result.body = nil end\n"
            "  if result.err then result.err.body = nil end\n"
            "  emit(result)\n"
            "end\n",
            f"base={self.server.base}",
            f"paths={' '.join(routes)}",
            **options,
        )
        return {value["path"]: value for value in run.values}

    def kinds(self, outcomes):
        return {path: value["err"]["kind"] for path, value in outcomes.items() if "err" in value}


class Codings(Served):
    def test_every_coding_is_decoded(self):
        routes = {
            "/gzip": coded("gzip", GZIP),
            "/x-gzip": coded("X-GZIP", GZIP),
            "/deflate": coded("deflate", DEFLATE),
            "/raw-deflate": coded("deflate", RAW_DEFLATE),
            "/br": coded("br", BROTLI),
            "/zstd": coded("zstd", ZSTD),
            "/identity": coded("identity", TEXT),
            "/chain": coded("deflate, gzip", gzip.compress(DEFLATE)),
            "/two-fields": coded("deflate\r\nContent-Encoding: gzip", gzip.compress(DEFLATE)),
            "/members": coded("gzip", gzip.compress(TEXT[:100]) + gzip.compress(TEXT[100:])),
            "/gzip-chunked": chunked(GZIP, content_encoding="gzip"),
            "/br-chunked": chunked(BROTLI, 1, content_encoding="br"),
            "/zstd-chunked": chunked(ZSTD, 1, content_encoding="zstd"),
            "/gzip-close": then_close(coded("gzip", GZIP, content_length=None)),
        }
        for path, outcome in self.fetch_all(routes).items():
            with self.subTest(path):
                self.assertEqual(outcome.get("body"), TEXT.decode(), outcome.get("err"))

    def test_we_ask_for_what_we_decode(self):
        self.fetch_all({"/": answer("x")})
        self.assertEqual(self.server.last().headers["accept-encoding"], "gzip, deflate, br, zstd")

    def test_half_of_it_is_an_error(self):
        routes = {}
        for name, data in {
            "gzip": GZIP, "deflate": DEFLATE, "br": BROTLI, "zstd": ZSTD,
        }.items():  # fmt: skip
            for part in (1, len(data) // 2, len(data) - 5, len(data) - 1):
                routes[f"/{name}-{part}"] = coded(name, data[:part])
        routes["/no-trailer"] = coded("gzip", GZIP[:-8])
        routes["/raw-deflate"] = coded("deflate", RAW_DEFLATE[:-1])
        routes["/half-a-chain"] = coded("deflate, gzip", gzip.compress(DEFLATE[:100]))
        routes["/chunked"] = chunked(GZIP[:200], content_encoding="gzip")
        routes["/close"] = then_close(coded("gzip", GZIP[:200], content_length=None))
        outcomes = self.fetch_all(routes)
        self.assertEqual(self.kinds(outcomes), {path: "decode" for path in routes})

    def test_damage_is_an_error(self):
        routes = {
            "/gzip-magic": coded("gzip", damaged(GZIP, 0)),
            "/gzip-data": coded("gzip", damaged(GZIP, 60)),
            "/gzip-checksum": coded("gzip", damaged(GZIP, len(GZIP) - 8)),
            "/gzip-length": coded("gzip", damaged(GZIP, len(GZIP) - 1)),
            "/gzip-and-more": coded("gzip", GZIP + b"more"),
            "/deflate-checksum": coded("deflate", damaged(DEFLATE, len(DEFLATE) - 1)),
            "/br-data": coded("br", damaged(BROTLI, 3)),
            "/br-and-more": coded("br", BROTLI + b"more"),
            "/zstd-magic": coded("zstd", damaged(ZSTD, 0)),
            "/zstd-checksum": coded("zstd", damaged(ZSTD, len(ZSTD) - 1)),
            "/no-gzip": coded("gzip", TEXT),
            "/no-br": coded("br", b"\xff" * 100),
            "/unknown": coded("compress", TEXT),
        }
        outcomes = self.fetch_all(routes)
        self.assertEqual(self.kinds(outcomes), {path: "decode" for path in routes})
        self.assertIn("compress", outcomes["/unknown"]["err"]["message"])

    def test_a_long_chain_is_refused(self):
        chain = "gzip, " * 5 + "gzip"
        outcomes = self.fetch_all({"/": coded(chain, GZIP)})
        self.assertEqual(self.kinds(outcomes), {"/": "too_large"})

    def test_nothing_of_a_damaged_body_becomes_a_record_or_a_file(self):
        lines = b"".join(b'{"id":%d}' % i for i in range(100000))
        self.server.routes["/"] = coded("gzip", gzip.compress(lines)[:-8])
        self.pipeline(
            "source = { P.url }, sink = 'out.jsonl', client = { retry = false }, on_error = 'skip'",
            f"url={self.server.base}/",
            code=1,
        )
        self.lua(
            "emit(fetch { url = P.url, save = 'saved', retry = false })", f"url={self.server.base}/"
        )
        self.assertEqual(self.files(), [])


class Caps(Served):
    def test_max_body(self):
        routes = {
            "/fits": answer("x" * 1000),
            "/length": answer("x" * 1001),
            "/chunked": chunked(b"x" * 1001, 100),
            "/close": then_close(answer("x" * 1001, content_length=None)),
            "/gzip": coded("gzip", gzip.compress(b"x" * 1001)),
            "/gzip-fits": coded("gzip", gzip.compress(b"x" * 1000)),
        }
        outcomes = self.fetch_all(routes, "max_body = '1kB'")
        self.assertEqual(
            self.kinds(outcomes),
            {path: "too_large" for path in ("/length", "/chunked", "/close", "/gzip")},
        )
        self.assertIn("max_body", outcomes["/length"]["err"]["message"])
        self.assertEqual(outcomes["/gzip-fits"]["size"], 1000)

    def test_a_length_is_believed_before_the_body(self):
        self.server.routes["/"] = (
            lambda connection, _: connection.send(answer(content_length=10**12))
            and connection.wait_closed()
        )
        outcomes = self.fetch_all({"/": self.server.routes["/"]})
        self.assertEqual(self.kinds(outcomes), {"/": "too_large"})

    def test_bombs(self):
        # 100 MB of zeros in 100 kB, and again in 300 bytes.
        bomb = gzip.compress(bytes(100_000_000), 9)
        routes = {
            "/gzip": coded("gzip", bomb),
            "/twice": coded("gzip, gzip", gzip.compress(bomb)),
        }
        self.server.routes.update(routes)
        run = self.lua(
            """
            for _, path in ipairs { "/gzip", "/twice" } do
              emit(fetch { url = P.base .. path, retry = false }.err.kind)
            end
            local status = io.open("/proc/self/status"):read "*a"
            emit(tonumber(status:match "VmHWM:%s*(%d+) kB"))
            """,
            f"base={self.server.base}",
        )
        *kinds, peak = run.values
        self.assertEqual(kinds, ["too_large"] * 2)
        self.assertLess(peak, 100_000 + 300_000 * SANITIZED)  # the cap is 64 MB

    def test_max_headers(self):
        many = {f"x_{i}": "y" * 90 for i in range(5)}
        routes = {
            "/fits": answer("x"),
            "/many": answer("x", **many),
            "/long": answer("x", x_long="y" * 400),
            "/interim": b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" * 8 + answer("x"),
        }
        outcomes = self.fetch_all(routes, "max_headers = 300")
        self.assertEqual(self.kinds(outcomes), {"/many": "too_large", "/long": "too_large"})
        self.assertIn("max_headers", outcomes["/many"]["err"]["message"])

    def test_endless_headers(self):
        def endless(connection, _request):
            connection.send(b"HTTP/1.1 200 OK\r\n")
            while connection.send(b"x-more: %s\r\n" % (b"y" * 1000)):
                pass

        def one_line(connection, _request):
            connection.send(b"HTTP/1.1 200 OK\r\nx-more: ")
            while connection.send(b"y" * 1000):
                pass

        def interim(connection, _request):
            while connection.send(b"HTTP/1.1 103 Early\r\nLink: %s\r\n\r\n" % (b"y" * 1000)):
                pass

        routes = {"/endless": endless, "/one-line": one_line, "/interim": interim}
        outcomes = self.fetch_all(routes, "timeout = 20")
        self.assertEqual(self.kinds(outcomes), {path: "too_large" for path in routes})


if __name__ == "__main__":
    unittest.main()
