"""Against nginx: HTTP/2, TLS, keep-alive, gzip, slow and big files."""

import hashlib
import json
import os
import unittest

from program import SANITIZED, Case
from servers import Certificates, Nginx, scratch

BIG = 20_000_000
BODY = json.dumps({"items": [{"id": i, "name": f"item {i}"} for i in range(2000)]})

LOCATIONS = """
client_max_body_size 10k;
location = /connection {
  default_type application/json;
  return 200 '{"connection":$connection,"requests":$connection_requests,"as":"$server_protocol"}';
}
location = /444 { return 444; }
location = /to { return 302 $http_x_to; }
location /slow/ { alias www/; limit_rate 40k; add_header x-connection $connection; }
location /gzip/ { alias www/; gzip on; gzip_types *; gzip_min_length 1; }
"""


def tls(certificate, more=""):
    return (
        "ssl",
        f"ssl_certificate {certificate}.pem; ssl_certificate_key {certificate}.key;"
        f" {more} {LOCATIONS}",
    )


class WithNginx(Case):
    @classmethod
    def setUpClass(cls):
        directory = cls.enterClassContext(scratch())
        certificates = Certificates(directory)
        certificates.sign("localhost", "localhost")
        certificates.sign("other", "other.test")
        certificates.sign("expired", "localhost", days=-1)
        certificates.sign("stranger", "localhost", ca="stranger-ca")
        os.mkdir(os.path.join(directory, "www"))
        for name, size in (("60k", 60000), ("big", BIG)):
            with open(os.path.join(directory, "www", name), "wb") as file:
                file.write((b"0123456789abcdef" * (size // 16 + 1))[:size])
        with open(os.path.join(directory, "www", "items.json"), "w", encoding="ascii") as file:
            file.write(BODY)
        options, text = tls("localhost")
        cls.nginx = cls.enterClassContext(
            Nginx(
                directory,
                {
                    "http": ("", LOCATIONS),
                    "short": ("", "keepalive_requests 10;" + LOCATIONS),
                    "https": (options, text),
                    "h2": (options + " http2", text),
                    "other": tls("other"),
                    "expired": tls("expired"),
                    "stranger": tls("stranger"),
                    "old": tls("localhost", "ssl_protocols TLSv1.1; ssl_ciphers ALL:@SECLEVEL=0;"),
                },
            )
        )
        cls.ca = certificates.ca
        cls.http = f"http://127.0.0.1:{cls.nginx.ports['http']}"
        cls.https, cls.h2 = (
            f"https://localhost:{cls.nginx.ports[name]}" for name in ("https", "h2")
        )

    def ask(self, source, *args, trust=None, **options):
        """Runs a script that knows the CA."""
        args += (f"http={self.http}", f"https={self.https}", f"h2={self.h2}")
        return self.lua(source, *args, env={"SSL_CERT_FILE": trust or self.ca}, **options)


class Connections(WithNginx):
    def test_twenty_requests_to_one_http2_host_share_a_connection(self):
        run = self.ask(
            """
            local began = orc.now()
            local urls = {}
            for i = 1, 20 do urls[i] = P.h2 .. "/slow/60k?" .. i end
            local results = orc.map(urls, orc.fetch)
            for i = 1, 20 do
              emit { results[i].headers["x-connection"], results[i].version, #results[i].body }
            end
            emit(orc.now() - began)
            emit(assert(orc.fetch(P.h2 .. "/connection")):json().connection)
            """
        )
        *answers, elapsed, then = run.values
        self.assertEqual({tuple(answer) for answer in answers}, {(str(then), "2", 60000)})
        self.assertLess(elapsed, 5)  # one after another they take ten seconds

    def test_so_many_that_they_need_more_connections(self):
        run = self.ask(
            """
            local urls = {}
            for i = 1, 150 do urls[i] = P.h2 .. "/connection?" .. i end
            local api = orc.client { concurrency = 150 }
            local results = orc.map(urls, function(url) return api:fetch(url) end,
              { concurrency = 150 })
            for i = 1, 150 do emit(results[i]:json().connection) end
            """
        )
        self.assertEqual(len(run.values), 150)
        self.assertLessEqual(len(set(run.values)), 3)  # 64 at once on each

    def test_requests_one_after_another_share_a_connection(self):
        for base, version in (
            (self.http, "HTTP/1.1"),
            (self.https, "HTTP/1.1"),
            (self.h2, "HTTP/2.0"),
        ):
            with self.subTest(base):
                run = self.ask(
                    "for _ = 1, 30 do"
                    " emit((assert(orc.fetch(P.base .. '/connection')):json())) end",
                    f"base={base}",
                )
                self.assertEqual(len({value["connection"] for value in run.values}), 1)
                self.assertEqual([value["requests"] for value in run.values], list(range(1, 31)))
                self.assertEqual({value["as"] for value in run.values}, {version})

    def test_a_server_that_ends_connections_now_and_then(self):
        run = self.ask(
            """
            local items = {}
            for i = 1, 100 do items[i] = i end
            local results, errors = orc.map(items, function()
              return assert(orc.fetch(P.base .. "/connection")):json().connection
            end, { concurrency = 1 })
            results.n = nil
            emit { #errors, results }
            """,
            f"base=http://127.0.0.1:{self.nginx.ports['short']}",
        )
        failures, connections = run.value
        self.assertEqual(failures, 0)
        self.assertEqual(len(set(connections)), 10)

    def test_hundreds_at_once(self):
        for base in (self.http, self.https, self.h2):
            run = self.ask(
                """
                local urls = {}
                for i = 1, 300 do urls[i] = P.base .. "/gzip/items.json?" .. i end
                local results, errors = orc.map(urls, function(url)
                  local res, err = orc.fetch(url)
                  return res and #res:json().items, err
                end, { concurrency = 50 })
                local sum = 0
                for i = 1, 300 do sum = sum + (results[i] or 0) end
                emit { sum, errors[1] and tostring(errors[1]) or orc.null }
                """,
                f"base={base}",
            )
            self.assertEqual(run.value, [600_000, None])


class Tls(WithNginx):
    def refused(self, name, host="localhost", **options):
        run = self.ask(
            "emit(fetch { url = P.url, timeout = 10 })",
            f"url=https://{host}:{self.nginx.ports[name]}/connection",
            **options,
        )
        err = run.value["err"]
        self.assertEqual((err["kind"], err["attempts"]), ("tls", 1), err)
        return err["text"]

    def test_what_is_trusted(self):
        run = self.ask("emit(fetch(P.https .. '/connection').status)")
        self.assertEqual(run.value, 200)

    def test_an_unknown_authority(self):
        self.assertRegex(self.refused("stranger"), r'"CN=localhost" is issued by "CN=stranger-ca", which is neither trusted')
        self.refused("https", trust="/etc/ssl/certs/ca-certificates.crt")

    def test_another_host(self):
        self.assertRegex(self.refused("other"), "the certificate is for other.test, not for localhost")
        self.assertRegex(self.refused("https", host="127.0.0.1"), "127.0.0.1")

    def test_an_expired_certificate(self):
        self.assertRegex(self.refused("expired"), "expired")

    def test_old_protocols(self):
        self.assertRegex(self.refused("old"), "does not speak TLS 1.2 or newer")

    def test_no_tls_at_all(self):
        self.refused("http")

    def test_refused_handshakes_do_not_spoil_others(self):
        urls = [
            f"https://localhost:{self.nginx.ports[name]}/connection"
            for name in ("stranger", "https", "other", "h2", "expired", "http")
        ]
        run = self.ask(
            """
            local urls = {}
            for _ = 1, 10 do
              for url in P.urls:gmatch "%S+" do urls[#urls + 1] = url end
            end
            local results, errors = orc.map(urls, orc.fetch, { concurrency = 20 })
            for i = 1, #urls do emit(results[i] and results[i].status or errors[i].kind) end
            """,
            f"urls={' '.join(urls)}",
        )
        self.assertEqual(run.values, ["tls", 200, "tls", 200, "tls", "tls"] * 10)

    def test_https_never_leads_to_http(self):
        run = self.ask(
            """
            for _, base in ipairs { P.http, P.h2 } do
              emit(fetch { url = P.https .. "/to", headers = { ["X-To"] = base .. "/connection" } })
            end
            """
        )
        refused, followed = run.values
        self.assertEqual(refused["err"]["kind"], "blocked")
        self.assertRegex(refused["err"]["message"], "https to http")
        self.assertEqual((followed["status"], followed["hops"]), (200, 1))


class Faults(WithNginx):
    def test_444_is_tried_again(self):
        run = self.ask(
            """
            for _, base in ipairs { P.http, P.https, P.h2 } do
              emit(fetch { url = base .. "/444", retry = { attempts = 3, wait_initial = 0 } }.err)
              emit(fetch { url = base .. "/444", method = "POST" }.err)
            end
            """
        )
        self.assertEqual([err["attempts"] for err in run.values], [3, 1] * 3)
        self.assertLessEqual({err["kind"] for err in run.values}, {"network", "protocol"})

    def test_an_upload_that_is_refused_while_it_goes_on(self):
        run = self.ask(
            """
            for _, base in ipairs { P.http, P.https, P.h2 } do
              emit(fetch { url = base .. "/gzip/x", method = "POST", body = ("x"):rep(3000000) })
            end
            """
        )
        self.assertEqual([value["err"].get("status") for value in run.values], [413] * 3)

    def test_gzip(self):
        run = self.ask(
            """
            for _, base in ipairs { P.http, P.https, P.h2 } do
              local res = assert(orc.fetch(base .. "/gzip/items.json"))
              emit { res.headers["content-encoding"], #res.body, #res:json().items, res.framing }
            end
            """
        )
        self.assertEqual(
            run.values,
            [["gzip", len(BODY), 2000, framing] for framing in ("chunked", "chunked", "h2")],
        )

    def test_a_timeout_in_a_slow_body(self):
        run = self.ask(
            """
            for _, base in ipairs { P.http, P.h2 } do
              emit(fetch { url = base .. "/slow/big", timeout = "200ms", retry = false }.err.kind)
              emit(fetch(base .. "/connection").status)
            end
            """
        )
        self.assertEqual(run.values, ["timeout", 200] * 2)


class Save(WithNginx):
    def test_a_big_file_goes_to_the_disk_piece_by_piece(self):
        run = self.ask(
            """
            emit(fetch { url = P.http .. "/big", save = "deep/down/http" })
            emit(fetch { url = P.h2 .. "/big", save = "h2" })
            local res = assert(orc.fetch { url = P.h2 .. "/gzip/big", save = "gzip" })
            emit { res.body or orc.null, res.size, tostring(select(2, res:json())) }
            local status = io.open("/proc/self/status"):read "*a"
            emit(tonumber(status:match "VmHWM:%s*(%d+) kB"))
            """
        )
        http, h2, decoded, peak = run.values
        self.assertEqual((http["status"], h2["status"]), (200, 200))
        self.assertEqual(decoded[:2], [None, BIG])
        self.assertIn("saved to a file", decoded[2])
        self.assertLess(peak, 30_000 + 300_000 * SANITIZED)
        self.assertEqual(self.files(), ["deep/down/http", "gzip", "h2"])
        digests = set()
        for name in self.files():
            with open(self.path(name), "rb") as file:
                digests.add(hashlib.file_digest(file, "sha256").hexdigest())
        self.assertEqual(digests, {hashlib.sha256((b"0123456789abcdef" * (BIG // 16))).hexdigest()})

    def test_what_fails_leaves_nothing(self):
        self.write("old", "old")
        run = self.ask(
            """
            emit(fetch { url = P.http .. "/nothing", save = "missing", retry = false })
            emit(fetch { url = P.http .. "/444", save = "dropped", retry = false })
            local _, err = orc.deadline("300ms", function()
              return orc.fetch { url = P.http .. "/slow/big", save = "cancelled" }
            end)
            emit(plain(err))
            emit(fetch { url = P.http .. "/slow/big", save = "old", timeout = "300ms",
              retry = false })
            """
        )
        missing, dropped, cancelled, late = run.values
        self.assertEqual(missing["err"]["status"], 404)
        self.assertIn("404 Not Found", missing["err"]["body"])
        self.assertEqual(dropped["err"]["kind"], "network")
        self.assertEqual(cancelled["kind"], "timeout")
        self.assertEqual(late["err"]["kind"], "timeout")
        self.assertEqual(self.files(), ["old"])
        self.assertEqual(self.read("old"), "old")

    def test_what_cannot_be_written(self):
        os.mkdir(self.path("directory"))
        self.write("file", "")
        run = self.ask(
            """
            for _, path in ipairs { "directory", "file/below", ("x"):rep(300) } do
              emit(fetch { url = P.http .. "/60k", save = path })
            end
            """
        )
        for value in run.values:
            self.assertEqual((value["err"]["kind"], value["err"]["attempts"]), ("invalid", 1))
            self.assertIn("cannot write", value["err"]["text"])

    def test_two_downloads_to_one_file(self):
        run = self.ask(
            """
            local ok, busy = 0, 0
            local _, errors = orc.map({ 1, 2 }, function()
              return orc.fetch { url = P.http .. "/slow/60k", save = "file", retry = false }
            end)
            emit((errors[1] or errors[2]).message)
            """
        )
        self.assertIn("cannot write", run.value)
        self.assertEqual(self.files(), ["file"])
        self.assertEqual(len(self.read("file")), 60000)


if __name__ == "__main__":
    unittest.main()
