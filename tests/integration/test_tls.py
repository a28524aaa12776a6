"""TLS: what is wrong is told of the right certificate, nothing is sent and nothing tried again."""

import contextlib
import os
import ssl
import subprocess
import unittest
import warnings

from pki import Pki
from program import Case
from servers import PATIENCE, RawServer, answer, scratch

OLD = "ALL:@SECLEVEL=0"  # the ciphers that TLS 1.0 and 1.1 need
V = ssl.TLSVersion


def speak_tls(context):
    """Makes the handshake before RawServer reads requests. When it fails, the client closes first:
    a server that closes at once may lose its alert."""

    def accepted(connection):
        sock = context.wrap_socket(connection.sock, server_side=True, do_handshake_on_connect=False)
        connection.sock = sock
        try:
            sock.do_handshake()
        except OSError:
            with contextlib.suppress(OSError):
                while os.read(sock.fileno(), 65536):
                    pass
            connection.close()

    return accepted


class Tls(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.pki = pki = Pki(cls.enterClassContext(scratch()))

        def sign(name, **dates):
            names = f"subjectAltName=DNS:{name}.test,DNS:*.{name}.test"
            pki.sign(name, f"{name}.test", names, **dates)
            pki.join(f"{name}-chain", f"{name}.pem", "middle.pem")

        sign("good")
        sign("expired", start="20200101000000Z", end="20210203040506Z")
        sign("future", start="20980101000000Z", end="20990101000000Z")
        sign("revoked")
        pki.sign("both", "both", "subjectAltName=DNS:good.test,DNS:expired.test")
        pki.join("both-chain", "both.pem", "middle.pem")
        pki.revoke("revoked")
        pki.list_revoked("crl", "root", "middle")
        pki.list_revoked("half-crl", "middle")
        pki.self_sign("self", "self.test", "subjectAltName=DNS:self.test,DNS:self2.test")
        pki.sign("address", "an address", "subjectAltName=IP:127.0.0.1,IP:::1")
        pki.join("address-chain", "address.pem", "middle.pem")
        many = ",".join(f"DNS:a-rather-long-name-{i}.test" for i in range(200))
        pki.self_sign("odd", "b\x1b[31m\u00fc\n", f"subjectAltName={many},DNS:\u202e.test")
        pki.sign("client", "A Client", "extendedKeyUsage=clientAuth")
        pki.join("client-chain", "client.pem", "middle.pem")
        pki.openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "other-key")
        pki.openssl("ec", "-in", "key", "-aes128", "-passout", "pass:sesame", "-out", "locked-key")

    def serve(self, certificate, routes=None, wants=False, **settings):
        """A server with that certificate; `wants` one of its client, too."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.pki.path(f"{certificate}.pem"), self.pki.path("key"))
        if wants:
            context.load_verify_locations(self.pki.path("root.pem"))
            context.verify_mode = ssl.CERT_REQUIRED
        if "alpn" in settings:
            context.set_alpn_protocols([settings.pop("alpn")])
        if "ciphers" in settings:
            context.set_ciphers(settings.pop("ciphers"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old protocol versions
            for name, value in settings.items():
                setattr(context, name, value)
        routes = {"/": answer("hello"), **(routes or {})}
        return self.enterContext(RawServer(routes, accepted=speak_tls(context)))

    def ask(self, port, host, *args, tls=None, code=""):
        """Runs a script that fetches https://HOST/ from that port. `tls` is the option's Lua
        text, in which ROOT and file("name") name files; ROOT is trusted unless it is given."""
        return self.lua(
            """
            local function file(name) return P.pki .. "/" .. name end
            local ROOT = file "root.pem"
            local hosts = {}
            for _, host in ipairs { P.host, "good.test", "expired.test" } do
              if not host:find "^[%d[]" then hosts[host:lower()] = "127.0.0.1" end
            end
            local function client(tls)
              return orc.client { tls = tls, resolve = hosts, retry = { wait_initial = 0 } }
            end
            local function get(api, url)
              local res, err = api:fetch(url or "https://" .. P.host .. ":" .. P.port .. "/")
              return res and { status = res.status } or { kind = err.kind, fault = err.fault,
                message = err.message, attempts = err.attempts, url = err.url }
            end
            """
            + (code or f"emit(get(client {tls or '{ ca = ROOT }'}))"),
            f"pki={self.pki.directory}",
            f"host={host}",
            f"port={port}",
            *args,
        )

    def assert_refused(self, server, host, message, tls=None):
        """A tls error with a message that matches, after one connection and no request."""
        err = self.ask(server.port, host, tls=tls).value
        self.assertRegex(err.get("message", ""), message, err)
        self.assertEqual((err["kind"], err["fault"], err["attempts"]), ("tls", "tls", 1))
        self.assertEqual((server.opened, server.targets()), (1, []))
        server.forget()

    def assert_answers(self, server, host, tls=None):
        self.assertEqual(self.ask(server.port, host, tls=tls).value, {"status": 200})
        server.forget()

    def test_a_good_certificate_passes(self):
        good = self.serve("good-chain")
        for host in "good.test", "x.good.test", "GOOD.test":
            self.assert_answers(good, host)
        self.assert_answers(self.serve("address-chain"), "127.0.0.1")

    def test_dates(self):
        self.assert_refused(
            self.serve("expired-chain"),
            "expired.test",
            r'^the certificate "CN=expired\.test" expired on 2021-02-03 04:05:06 UTC$',
        )
        self.assert_refused(
            self.serve("future-chain"),
            "future.test",
            r'^the certificate "CN=future\.test" is not valid before 2098-01-01 00:00:00 UTC',
        )

    def test_issuers(self):
        own = self.serve("self")
        self.assert_refused(
            own, "self.test", r'^the certificate "CN=self\.test" is self-signed, and not among'
        )
        self.assert_answers(own, "self.test", '{ ca = file "self.pem" }')
        alone = self.serve("good")
        self.assert_refused(
            alone,
            "good.test",
            r'^the certificate "CN=good\.test" is issued by "CN=Test Middle", which is neither '
            r"trusted nor sent along by the server: .* intermediate .* missing \(1 sent\)$",
        )
        self.assert_answers(alone, "good.test", '{ ca = file "middle.pem" }')
        # `ca` stands instead of the system's authorities, which do not know this one either.
        for tls in '{ ca = file "self.pem" }', "{}":
            self.assert_refused(
                self.serve("good-chain"),
                "good.test",
                r"""^the issuer's certificate "CN=Test Middle" is issued by "CN=Test Root", """
                r"which is neither trusted .* \(2 sent\)$",
                tls,
            )

    def test_names(self):
        good = self.serve("good-chain")
        for host in "wrong.test", "a.b.good.test", "127.0.0.1":
            self.assert_refused(
                good, host, rf"^the certificate is for good\.test, \*\.good\.test, not for {host}$"
            )
        self.assert_refused(
            self.serve("address-chain"),
            "good.test",
            r"^the certificate is for 127\.0\.0\.1, ::1, not for good\.test$",
        )

    def test_odd_names(self):
        """There may be anything in a certificate, and as much of it as the server likes."""
        odd = self.serve("odd")
        self.assert_refused(
            odd, "a.test", r'^the certificate "CN=b[^\x00-\x1f\x7f-\xff]+" is self-s'
        )
        self.assert_refused(
            odd,
            "a.test",
            r"^the certificate is for a-rather-long-name-0\.test, .{100,250}, …, not for a\.test$",
            '{ ca = file "odd.pem" }',
        )

    def test_a_certificate_for_something_else(self):
        self.assert_refused(
            self.serve("client-chain"),
            "good.test",
            '^the certificate "CN=A Client" is not for a server$',
        )

    def test_revocation(self):
        revoked = self.serve("revoked-chain")
        self.assert_answers(revoked, "revoked.test")
        lists = '{ ca = ROOT, crl = file "crl.pem" }'
        self.assert_refused(
            revoked,
            "revoked.test",
            r'^the certificate "CN=revoked\.test" was revoked by "CN=Test Middle" on 20\d\d-\d\d-',
            lists,
        )
        good = self.serve("good-chain")
        self.assert_answers(good, "good.test", lists)
        self.assert_refused(
            good,
            "good.test",
            r"""^the issuer's certificate "CN=Test Middle" cannot be checked .* no list of """
            r'"CN=Test Root" is in tls\.crl$',
            '{ ca = ROOT, crl = file "half-crl.pem" }',
        )

    def test_versions(self):
        for version in V.TLSv1, V.TLSv1_1:
            server = self.serve(
                "good-chain", minimum_version=version, maximum_version=version, ciphers=OLD
            )
            self.assert_refused(
                server,
                "good.test",
                r"^the server does not speak TLS 1\.2 or newer, .* \(tls\.min\)$",
            )
        run = self.ask(server.port, "good.test", tls='{ ca = ROOT, min = "1.1" }')
        self.assertEqual(run.value, {"status": 200})
        warning = r'warn script\.lua:\d+: client: tls\.min = "1\.1": broken versions of TLS'
        self.assertRegex(run.err, warning)
        newer = self.serve("good-chain", maximum_version=V.TLSv1_2)
        self.assert_refused(
            newer,
            "good.test",
            r"^the server does not speak TLS 1\.3, the least",
            '{ ca = ROOT, min = "1.3" }',
        )
        self.assert_answers(newer, "good.test", '{ ca = ROOT, min = "1.2" }')

    def test_a_server_that_speaks_no_tls(self):
        def smtp(connection):
            connection.send(b"220 mail.test ready to serve you\r\n")
            connection.wait_closed()

        server = self.enterContext(RawServer(accepted=smtp))
        self.assert_refused(server, "good.test", "^the server does not speak TLS on this port")

    def test_ciphers(self):
        server = self.serve(
            "good-chain", maximum_version=V.TLSv1_2, ciphers="ECDHE-RSA-AES128-GCM-SHA256"
        )
        self.assert_refused(server, "good.test", "^the server found no cipher or signature")

    def test_a_connection_that_breaks_in_the_handshake_is_tried_again(self):
        def first_fails(connection):
            if connection.number == 1:
                connection.sock.recv(65536)
                connection.close()
            elif connection.number == 2:
                connection.sock.recv(65536)
                connection.reset()
            else:
                accepted(connection)

        server = self.serve("good-chain")
        accepted, server.accepted = server.accepted, first_fails
        self.assert_answers(server, "good.test")
        server = self.enterContext(RawServer(accepted=lambda connection: connection.close()))
        err = self.ask(server.port, "good.test").value
        self.assertEqual((err["kind"], err["attempts"]), ("network", 5))

    def test_a_client_certificate(self):
        given = '{ ca = ROOT, cert = file "%s.pem", key = file "%s" }'
        for version in V.TLSv1_2, V.TLSv1_3:
            server = self.serve("good-chain", wants=True, maximum_version=version)
            self.assert_answers(server, "good.test", given % ("client-chain", "key"))
            self.assert_refused(
                server, "good.test", r"^the server wants a client certificate \(tls\.cert\), and"
            )
            for name in "client", "self":  # without its issuer; of an unknown one
                self.assert_refused(
                    server,
                    "good.test",
                    r"^the server turned down our certificate \(unknown CA\)$",
                    given % (name, "key"),
                )
        self.assert_refused(
            self.serve("good-chain", wants=True, alpn="h2"),
            "good.test",
            "^the server wants a client certificate",
        )
        self.assert_refused(
            server,
            "good.test",
            "^the key in /.*/other-key cannot be used: it is not the certificate's, or needs",
            given % ("client-chain", "other-key"),
        )
        self.assert_refused(
            server,
            "good.test",
            "^/.*/ca.cnf holds no certificate",
            '{ ca = ROOT, cert = file "ca.cnf", key = file "key" }',
        )

    def test_a_client_certificate_stays_at_home(self):
        """It is a credential: another origin than the client's sees none of them."""
        shown = []

        def route(connection, request):
            shown.append((request.path, "subject" in (connection.sock.getpeercert() or ())))
            return answer("hello")

        def away(connection, request):
            route(connection, request)
            return answer(status="302 Found", location=f"https://expired.test:{other.port}/there")

        def back(connection, request):
            route(connection, request)
            return answer(status="302 Found", location=f"https://good.test:{home.port}/again")

        routes = {name: route for name in ("/", "/there", "/again", "/direct", "/same", "/streamed")}
        optional = {"wants": True, "verify_mode": ssl.CERT_OPTIONAL}
        home = self.serve("good-chain", {**routes, "/away": away}, **optional)
        other = self.serve("both-chain", {**routes, "/back": back}, **optional)
        run = self.ask(
            home.port,
            "good.test",
            f"other={other.port}",
            code="""
            local home, other = "https://good.test:" .. P.port, "https://expired.test:" .. P.other
            local api = orc.client { base_url = home, resolve = hosts, retry = false,
              tls = { ca = ROOT, cert = file "client-chain.pem", key = file "key" } }
            local plain = { Authorization = false }
            for _, request in ipairs {
              { url = "/", headers = plain }, { url = "/away" }, { url = other .. "/direct" },
              { url = other .. "/streamed", stream = true }, { url = other .. "/back" },
              { url = "/streamed", stream = true }, { url = home .. "/same" },
            } do assert(api:fetch(request)) end
            local free = orc.client { resolve = hosts,
              tls = { ca = ROOT, cert = file "client-chain.pem", key = file "key" } }
            for _, url in ipairs { other .. "/", home .. "/away" } do assert(free:fetch(url)) end
            """,
        )
        self.assertEqual(run.values, [])
        self.assertEqual(
            shown,
            [
                ("/", True), ("/away", True), ("/there", False), ("/direct", False),
                ("/streamed", False), ("/back", False), ("/again", False), ("/streamed", True),
                ("/same", True), ("/", True), ("/away", True), ("/there", False),
            ],
        )  # fmt: skip

    def test_a_key_with_a_password(self):
        server = self.serve("good-chain", wants=True)
        locked = '{ ca = ROOT, cert = file "client-chain.pem", key = file "locked-key", %s }'
        self.assert_answers(server, "good.test", locked % 'key_password = "sesame"')
        for wrong in "", 'key_password = "open"':
            self.assert_refused(
                server, "good.test", "^the key in /.*/locked-key cannot be used", locked % wrong
            )

    def test_a_server_that_hangs_up_on_who_has_no_certificate(self):
        """It may close before its alert is read; that it wanted one is told all the same."""
        process = self.enterContext(
            subprocess.Popen(
                ["openssl", "s_server", "-accept", "127.0.0.1:0", "-www", "-Verify", "1"]
                + ["-cert", self.pki.path("good.pem"), "-key", self.pki.path("key")]
                + ["-cert_chain", self.pki.path("middle.pem")]
                + ["-CAfile", self.pki.path("root.pem"), "-verify_return_error"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        )
        self.addCleanup(process.wait, PATIENCE)
        self.addCleanup(process.kill)
        for line in process.stdout:
            if line.startswith("ACCEPT "):
                break
        err = self.ask(line.strip().rpartition(":")[2], "good.test").value
        self.assertIn(err["kind"], ("tls", "network"))
        self.assertIn("client certificate (tls.cert)", err["message"])

    def test_insecure_passes_everything_and_says_so(self):
        for name, host in ("expired-chain", "expired.test"), ("self", "x.test"), ("good", "a.test"):
            server = self.serve(name)
            run = self.ask(server.port, host, "-q", tls="{ insecure = true }")
            self.assertEqual(run.value, {"status": 200})
            self.assertRegex(
                run.err,
                r"^\S+ warn script\.lua:\d+: client: tls\.insecure: certificates are not verified"
                r"[^\n]*\n$",
            )

    def test_what_an_insecure_client_connected_serves_no_other(self):
        server = self.serve("expired-chain")
        run = self.ask(
            server.port,
            "expired.test",
            code="""
            local lax, strict = client { insecure = true }, client { ca = ROOT }
            for _, api in ipairs { lax, strict, lax, client { insecure = true }, strict } do
              local got = get(api)
              emit(got.status or got.kind)
            end
            """,
        )
        self.assertEqual(run.values, [200, "tls", 200, 200, "tls"])
        self.assertEqual(server.targets(), ["/"] * 3)
        self.assertEqual(server.opened, 3)  # the lax ones share theirs
        self.assertEqual(run.err.count("not verified"), 2)

    def test_each_hop_of_a_redirect(self):
        expired = self.serve("expired-chain")
        there = f"https://expired.test:{expired.port}/"
        good = self.serve("good-chain", {"/to": answer(status="302 Found", location=there)})
        err = self.ask(
            good.port,
            "good.test",
            code='emit(get(client { ca = ROOT }, "https://good.test:" .. P.port .. "/to"))',
        ).value
        self.assertEqual((err["kind"], err["attempts"], err["url"]), ("tls", 1, there))
        self.assertIn("CN=expired.test", err["message"])
        self.assertEqual(expired.targets(), [])

    def test_one_client_many_at_once(self):
        """Reports do not get mixed up, nor outlive their transfers."""
        expired, good = self.serve("expired-chain"), self.serve("good-chain")
        run = self.ask(
            expired.port,
            "expired.test",
            f"good={good.port}",
            code="""
            local api = client { ca = ROOT }
            local wrong = 0
            for _ = 1, 3 do
              orc.map({ 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 }, function(i)
                local bad = i % 2 == 0
                local got = get(api, not bad and "https://good.test:" .. P.good .. "/" or nil)
                local right = got.status == 200
                if bad then right = got.message:find "expired on 2021" ~= nil end
                if not right then wrong = wrong + 1 end
              end)
            end
            emit(wrong)
            """,
        )
        self.assertEqual(run.value, 0)

    def test_options_are_checked_at_the_start(self):
        for tls, message in (
            ('{ ca = file "none.pem" }', r'client\.tls: "ca" must be a file that can be read'),
            ('{ key = file "key" }', r'client\.tls: "key" needs a "cert"'),
            ("{ verify = false }", r'client\.tls: unknown option "verify"'),
        ):
            run = self.lua(
                f"local function file(n) return P.pki .. '/' .. n end orc.client {{ tls = {tls} }}",
                f"pki={self.pki.directory}",
                code=2,
            )
            self.assertRegex(run.err, r"script\.lua:1: " + message)


if __name__ == "__main__":
    unittest.main()
