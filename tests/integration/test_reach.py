"""Reaching servers in other ways than by IPv4 and a name server: IPv6, several addresses, addresses
of one's own, Unix sockets; lookups that take too long; cookies."""

import contextlib
import os
import socket
import ssl
import unittest

from program import ROOT, Case
from servers import Certificates, RawServer, answer, scratch

RESOLVER = os.environ.get("SLOW_RESOLVER", os.path.join(ROOT, "build", "tests", "slow_resolver.so"))


def listen(address, port=0):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, port), family=family, backlog=128)


@contextlib.contextmanager
def black_hole(address, port):
    """An address where nobody says a word: the queue of a listener that accepts nothing is full."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with contextlib.ExitStack() as held:
        listener = socket.create_server((address, port), family=family, backlog=0)
        held.enter_context(listener)
        while True:
            client = held.enter_context(socket.socket(family))
            client.settimeout(0.1)
            try:
                client.connect(listener.getsockname())
            except TimeoutError:
                break
        yield


class Reach(Case):
    def setUp(self):
        super().setUp()
        sanitizer = os.environ.get("ASAN_OPTIONS", "")
        self.env = {
            "LD_PRELOAD": RESOLVER,
            "RESOLVER_LOG": self.path("lookups.lua"),  # with that name it is no output
            "ASAN_OPTIONS": f"{sanitizer}:verify_asan_link_order=0",
        }

    def serve(self, routes, address="127.0.0.1", port=0):
        return self.enterContext(RawServer(routes, listener=listen(address, port)))

    def ask(self, source, *args, **options):
        """Runs a script that has get(client, request)."""
        prelude = (
            "local function get(client, request) local res, err = client:fetch(request)"
            " return res and res.body or { err.kind, err.fault, err.attempts, tostring(err) } end "
        )
        return self.lua(prelude + source, *args, env=self.env, **options)

    def lookups(self):
        with contextlib.suppress(FileNotFoundError):
            return [line[1:] for line in self.read("lookups.lua").splitlines() if line[0] == "+"]
        return []


class Addresses(Reach):
    def test_ipv6(self):
        server = self.serve({"/": answer("six")}, "::1")
        run = self.ask(
            """
            local res = assert(orc.fetch("http://[::1]:" .. P.port))
            emit { res.body, res.url }
            emit(get(orc.client(), "http://[0:0:0:0:0:0:0:1]:" .. P.port))
            local api = orc.client { resolve = { ["six.test"] = "::1" } }
            emit(get(api, "http://six.test:" .. P.port))
            """,
            f"port={server.port}",
        )
        self.assertEqual(run.values, [["six", f"http://[::1]:{server.port}/"], "six", "six"])
        self.assertEqual(server.requests[0].headers["host"], f"[::1]:{server.port}")

    def test_an_address_that_says_nothing_holds_nobody_up(self):
        four = self.serve({"/": answer("four")})
        with black_hole("::1", four.port):
            run = self.ask(
                """
                local res = assert(orc.fetch { url = "http://both.test:" .. P.port, retry = false })
                emit { res.body, res.timing.total < 3 }
                """,
                f"port={four.port}",
            )
        self.assertEqual(run.value, ["four", True])
        six = self.serve({"/": answer("six")}, "::1")
        with black_hole("127.0.0.1", six.port):
            run = self.ask(
                """
                local api = orc.client { resolve = { ["dual.test"] = { "127.0.0.1", "::1" } } }
                local res = assert(api:fetch { url = "http://dual.test:" .. P.port, retry = false })
                emit { res.body, res.timing.total < 3 }
                """,
                f"port={six.port}",
            )
        self.assertEqual(run.value, ["six", True])

    def test_addresses_of_ones_own(self):
        one = self.serve({"/": answer("one")})
        two = self.serve({"/": answer("two")}, "127.0.0.2", one.port)
        one.routes["/to"] = answer(status="302 Found", location=f"http://b.test:{one.port}/")
        run = self.ask(
            """
            local first = orc.client { resolve = { ["a.test"] = "127.0.0.1",
              ["b.test"] = "127.0.0.2" } }
            local second = orc.client { resolve = { ["a.test:" .. P.port] = { "127.0.0.2" },
              ["a.test"] = "127.0.0.9" } }
            local a = "http://a.test:" .. P.port .. "/"
            for _ = 1, 2 do
              emit(get(first, a)) emit(get(second, a)) emit(get(first, a .. "to"))
              emit(get(orc.client(), a))
            end
            """,
            f"port={one.port}",
        )
        self.assertEqual(run.values, ["one", "two", "two", "one"] * 2)
        self.assertEqual(self.lookups(), ["a.test"])  # by the client without a map
        # Nobody's connection is used with another map.
        self.assertEqual((one.opened, two.opened), (2, 2))
        hosts = {request.headers["host"] for request in one.requests}
        self.assertEqual(hosts, {f"a.test:{one.port}"})

    def test_an_address_of_ones_own_does_not_change_whose_the_certificate_must_be(self):
        directory = self.enterContext(scratch())
        certificates = Certificates(directory)
        certificates.sign("a", "a.test")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{directory}/a.pem", f"{directory}/a.key")

        def encrypt(connection):
            try:
                connection.sock = context.wrap_socket(connection.sock, server_side=True)
            except OSError:
                connection.close()

        server = self.enterContext(RawServer({"/": answer("hello")}, accepted=encrypt))
        run = self.ask(
            """
            local api = orc.client { tls = { ca = P.ca }, resolve = { ["a.test"] = "127.0.0.1",
              ["b.test"] = "127.0.0.1" } }
            emit(get(api, "https://a.test:" .. P.port))
            emit(get(api, "https://b.test:" .. P.port)[1])
            """,
            f"port={server.port}",
            f"ca={certificates.ca}",
        )
        self.assertEqual(run.values, ["hello", "tls"])

    def test_a_lookup_has_a_timeout_of_its_own(self):
        server = self.serve({"/": answer("hello"), "/late": self.late})
        run = self.ask(
            """
            local api = orc.client { timeout = { dns = "200ms", connect = "20s", attempt = "20s" },
              retry = { attempts = 2, wait_initial = 0 } }
            local began = orc.now()
            emit(get(api, "http://slow-5000.test:" .. P.port))
            emit(orc.now() - began < 3)
            emit(get(api, "http://name-20.test:" .. P.port .. "/late")) -- it is over by then
            """,
            f"port={server.port}",
        )
        failure, quick, late = run.values
        self.assertEqual(failure[:3], ["timeout", "connect_timeout", 2])
        self.assertTrue(quick)
        self.assertEqual(late, "late")

    @staticmethod
    def late(connection, _request):
        connection.wait(0.4)
        return answer("late")


class UnixSockets(Reach):
    def setUp(self):
        super().setUp()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.path("http.sock"))
        listener.listen()
        routes = {
            "/": answer("hello"),
            "/to": answer(status="302 Found", location="http://other.test/"),
        }
        self.server = self.enterContext(RawServer(routes, listener=listener))

    def test_everything_goes_to_the_socket(self):
        run = self.ask(
            """
            local api = orc.client { base_url = "http://engine.test/", unix_socket = "http.sock" }
            emit(get(api, "/"))
            emit(get(api, "/to"))
            emit(get(api, "http://127.0.0.1:1/"))
            emit(get(orc.client { unix_socket = P.path }, "http://localhost/"))
            """,
            f"path={self.path('http.sock')}",
        )
        self.assertEqual(run.values, ["hello"] * 4)
        hosts = [request.headers["host"] for request in self.server.requests]
        self.assertEqual(
            hosts, ["engine.test", "engine.test", "other.test", "127.0.0.1:1", "localhost"]
        )
        self.assertEqual(self.lookups(), [])

    def test_no_proxy_of_the_environment_applies(self):
        self.env["all_proxy"] = "http://127.0.0.1:1"
        run = self.ask('emit(get(orc.client { unix_socket = "http.sock" }, "http://engine.test/"))')
        self.assertEqual(run.value, "hello")

    def test_a_socket_that_is_not_there(self):
        run = self.ask(
            """
            local api = orc.client { unix_socket = "gone.sock",
              retry = { attempts = 2, wait_initial = 0 } }
            emit(get(api, "http://engine.test/"))
            """
        )
        self.assertEqual(run.value[:3], ["connect", "connect_failed", 2])


def ordered(request):
    cookie = request.headers.get("cookie")
    return cookie and "; ".join(sorted(cookie.split("; ")))


class Cookies(Reach):
    """The names are real ones, or there would be no public suffixes; they are never looked up."""

    def setUp(self):
        super().setUp()
        self.server = self.serve({"/": answer("hello"), "/deep/er": answer("hello")})
        self.directory = self.enterContext(scratch())

    def browse(self, source, cookies="true", **parameters):
        """Runs a script with api and other, clients with a jar, and go(host, path) to fetch by the
        first; returns what cookies each request carried, in the order of their names."""
        self.ask(
            """
            local at = {}
            for _, host in ipairs { "a.example.com", "b.example.com", "example.com", "example.org",
              "shop.co.uk", "bank.co.uk" } do at[host] = "127.0.0.1" end
            local function client()
              return orc.client { resolve = at, cookies = %s, tls = { ca = P.ca } }
            end
            local api, other = client(), client()
            local function go(host, path, fields)
              local request = { url = "http://" .. host .. ":" .. P.port .. (path or "/") }
              for name, value in pairs(fields or {}) do request[name] = value end
              assert(api:fetch(request))
            end
            """.replace("\n", " ")
            % cookies
            + source,
            f"port={self.server.port}",
            f"ca={self.authority()}",
            *(f"{name}={value}" for name, value in parameters.items()),
        )
        return [ordered(request) for request in self.server.requests]

    def authority(self):
        if not hasattr(self, "certificates"):
            self.certificates = Certificates(self.directory)
        return self.certificates.ca

    def set(self, path, *cookies, **options):
        """A route that sets cookies."""
        head, _, body = answer("set", **options).partition(b"\r\n\r\n")
        lines = "".join(f"\r\nSet-Cookie: {cookie}" for cookie in cookies)
        self.server.routes[path] = head + lines.encode() + b"\r\n\r\n" + body

    def test_they_are_sent_back_by_the_client_that_was_given_them(self):
        self.set("/set", "one=1", "two=2; HttpOnly")
        carried = self.browse(
            """
            go("a.example.com", "/set")
            go "a.example.com"
            assert(other:fetch("http://a.example.com:" .. P.port))
            go "a.example.com"
            """
        )
        self.assertEqual(carried, [None, "one=1; two=2", None, "one=1; two=2"])

    def test_there_are_none_unless_asked_for(self):
        self.set("/set", "one=1")
        source = 'go("a.example.com", "/set") go "a.example.com"'
        self.assertEqual(self.browse(source, cookies="false"), [None, None])
        self.server.forget()
        self.assertEqual(self.browse(source, cookies="nil"), [None, None])

    def test_they_belong_to_a_host_or_to_a_domain(self):
        self.set("/host", "host=1")
        self.set("/domain", "domain=1; Domain=example.com")
        self.set("/strange", "strange=1; Domain=example.org")
        carried = self.browse(
            """
            go("a.example.com", "/host") go("a.example.com", "/domain")
            go("a.example.com", "/strange")
            go "a.example.com" go "b.example.com" go "example.com" go "example.org"
            """
        )
        self.assertEqual(carried[3:], ["domain=1; host=1", "domain=1", "domain=1", None])

    def test_none_is_for_a_public_suffix(self):
        self.set("/set", "evil=1; Domain=co.uk", "dot=1; Domain=.co.uk", "uk=1; Domain=uk")
        self.set("/own", "own=1; Domain=shop.co.uk")
        carried = self.browse(
            'go("shop.co.uk", "/set") go "shop.co.uk" go "bank.co.uk"'
            ' go("shop.co.uk", "/own") go "shop.co.uk" go "bank.co.uk"'
        )
        self.assertEqual(carried, [None] * 4 + ["own=1", None])

    def test_path_and_expiry(self):
        self.set("/deep/set", "deep=1", "root=1; Path=/", "late=1; Path=/; Max-Age=1000")
        past = "Expires=Thu, 01 Jan 2015 00:00:00 GMT"
        self.set("/end", "root=; Path=/; Max-Age=0", f"late=1; Path=/; {past}")
        carried = self.browse(
            """
            go("a.example.com", "/deep/set")
            go("a.example.com", "/deep/er")
            go("a.example.com", "/")
            go("a.example.com", "/end")
            go("a.example.com", "/deep/er")
            """
        )
        self.assertEqual(carried[1], "deep=1; late=1; root=1")
        self.assertEqual(carried[2], "late=1; root=1")
        self.assertEqual(carried[4], "deep=1")

    def test_secure_ones_go_over_tls_only(self):
        directory = self.directory
        self.authority()
        self.certificates.sign("a", "a.example.com")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{directory}/a.pem", f"{directory}/a.key")

        def encrypt(connection):
            connection.sock = context.wrap_socket(connection.sock, server_side=True)

        self.set("/set", "safe=1; Secure", "plain=1")
        secure = self.enterContext(RawServer(self.server.routes, accepted=encrypt))
        carried = self.browse(
            """
            local safe = "https://a.example.com:" .. P.safe
            assert(api:fetch(safe .. "/set"))
            assert(api:fetch(safe))
            go "a.example.com"
            """,
            safe=secure.port,
        )
        self.assertEqual(ordered(secure.last()), "plain=1; safe=1")
        self.assertEqual(carried, ["plain=1"])

    def test_redirects_carry_what_belongs_where_they_lead(self):
        port = self.server.port
        self.set("/set", "here=1")
        self.set("/away", "late=1", status="302 Found", location=f"http://example.org:{port}/back")
        home = f"http://a.example.com:{port}/end"
        self.set("/back", "there=1", status="302 Found", location=home)
        self.set("/end")
        carried = self.browse(
            """
            go("a.example.com", "/set")
            go("a.example.com", "/away", { headers = { Cookie = "own=1" } })
            go "example.org"
            """
        )
        self.assertEqual(carried[:2], [None, "here=1; own=1"])
        self.assertEqual(carried[2], None)  # neither the jar's nor the request's
        self.assertEqual(carried[3], "here=1; late=1")
        self.assertEqual(carried[4], "there=1")

    def test_a_request_may_have_some_of_its_own(self):
        self.set("/set", "jar=1")
        carried = self.browse(
            """
            go("a.example.com", "/set", { headers = { cookie = "own=0" } })
            go("a.example.com", "/", { headers = { Cookie = "own=1; more=1" } })
            go "a.example.com"
            go("a.example.com", "/", { headers = { Cookie = orc.secret.value "own=secret" } })
            go("a.example.com", "/", { headers = { Cookie = "" } })
            """
        )
        self.assertEqual(
            carried,
            ["own=0", "jar=1; more=1; own=1", "jar=1", "jar=1; own=secret", "jar=1"],
        )
        for request in self.server.requests:
            self.assertLessEqual(request.raw.lower().count(b"\r\ncookie:"), 1)


if __name__ == "__main__":
    unittest.main()
