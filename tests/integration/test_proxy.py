"""Proxies: squid, with and without TLS, and SOCKS5; by option and by the environment."""

import contextlib
import itertools
import os
import ssl
import unittest

from program import ROOT, Case
from proxies import Socks5, Squid
from servers import Certificates, RawServer, answer, closed_port, scratch

RESOLVER = os.environ.get("SLOW_RESOLVER", os.path.join(ROOT, "build", "tests", "slow_resolver.so"))
PASSWORD = "squid:pass/wörd"
users = itertools.count(1)

# squid knows the names of these; slow_resolver.c has 127.0.0.1 for all under .test.
NAMES = ["plain.test", "safe.test"]


def setUpModule():
    global squid, plain, safe, certificates
    held = contextlib.ExitStack()
    unittest.addModuleCleanup(held.close)
    directory = held.enter_context(scratch())
    certificates = Certificates(directory)
    certificates.sign("safe", "safe.test")
    certificates.sign("squid", "squid.test")
    squid = Squid(directory, PASSWORD, NAMES, os.path.join(directory, "squid"))
    held.callback(squid.stop)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{directory}/safe.pem", f"{directory}/safe.key")

    def encrypt(connection):
        try:
            connection.sock = context.wrap_socket(connection.sock, server_side=True)
        except OSError:
            connection.close()

    safe = held.enter_context(RawServer({"/": answer("safe")}, accepted=encrypt))
    away = answer(status="302 Found", location=f"https://safe.test:{safe.port}/")
    plain = held.enter_context(RawServer({"/": answer("hello"), "/to-safe": away}))


class Proxies(Case):
    def setUp(self):
        super().setUp()
        plain.forget()
        safe.forget()
        self.user = f"user-{next(users)}"  # nobody else's
        sanitizer = os.environ.get("ASAN_OPTIONS", "")
        self.env = {
            "LD_PRELOAD": RESOLVER,
            "RESOLVER_LOG": self.path("lookups.lua"),  # with that name it is no output
            "ASAN_OPTIONS": f"{sanitizer}:verify_asan_link_order=0",
            "SSL_CERT_FILE": certificates.ca,
            "PASSWORD": PASSWORD,
        }

    def ask(self, source, env=None, **parameters):
        """Runs a script that has some URLs, through(url, fields) and get(client, request)."""
        prelude = """
            local plain = "http://plain.test:" .. P.plain .. "/"
            local safe = "https://safe.test:" .. P.safe .. "/"
            local squid = "http://127.0.0.1:" .. P.squid
            local function through(url, fields)
              local proxy = { url = url, username = P.user,
                password = orc.secret.env "PASSWORD" }
              for name, value in pairs(fields or {}) do proxy[name] = value or nil end
              return orc.client { proxy = proxy, retry = { attempts = 2, wait_initial = 0 } }
            end
            local function get(client, request)
              local res, err = client:fetch(request)
              return res and res.body or { err.kind, err.fault, err.attempts, tostring(err) }
            end
        """
        ports = {"plain": plain.port, "safe": safe.port, "squid": squid.port}
        parameters = {"user": self.user, **ports, **parameters}
        return self.lua(
            prelude.replace("\n", " ") + source,
            *(f"{name}={value}" for name, value in parameters.items()),
            env={**self.env, **(env or {})},
        )

    def lookups(self):
        with contextlib.suppress(FileNotFoundError):
            return [line[1:] for line in self.read("lookups.lua").splitlines() if line[0] == "+"]
        return []

    def test_squid_gets_credentials_of_its_own_and_hosts_get_theirs(self):
        run = self.ask(
            """
            local api = through(squid)
            for _, url in ipairs { plain, safe } do
              emit(get(api, { url = url, headers = { Authorization = "of-the-host" } }))
            end
            """
        )
        self.assertEqual(run.values, ["hello", "safe"])
        self.assertEqual(
            squid.ledger(self.user, 2),
            [
                ("CONNECT", f"safe.test:{safe.port}", "-"),
                ("GET", f"http://plain.test:{plain.port}/", "of-the-host"),
            ],
        )
        for server, host in ((plain, "plain.test"), (safe, "safe.test")):
            (request,) = server.requests
            self.assertEqual(request.target, "/")
            self.assertEqual(request.headers["host"], f"{host}:{server.port}")
            self.assertEqual(request.headers["authorization"], "of-the-host")
            self.assertEqual([name for name in request.headers if "proxy" in name], [])
        self.assertIn("via", plain.last().headers)
        self.assertEqual(self.lookups(), [])  # names are the proxy's to look up

    def test_the_proxy_itself_may_be_reached_by_name_and_by_tls(self):
        run = self.ask(
            """
            emit(get(through("http://proxy.test:" .. P.squid), plain))
            local api = through("https://squid.test:" .. P.tls)
            emit(get(api, plain), "") emit(get(api, safe))
            emit(get(through("https://other.test:" .. P.tls), plain))
            """,
            tls=squid.tls_port,
        )
        *good, bad = run.values
        self.assertEqual(good, ["hello", "hello", "safe"])
        self.assertEqual(bad[0], "tls")
        self.assertEqual(sorted(self.lookups()), ["other.test", "proxy.test", "squid.test"])

    def test_a_refusal_is_final(self):
        run = self.ask(
            """
            for _, fields in ipairs { { password = "wrong-password" },
              { username = false, password = false } } do
              emit(get(through(squid, fields), { url = plain, accept = "any" }))
              emit(get(through(squid, fields), safe))
            end
            emit(get(through(squid), "https://safe.test:1/"))
            """
        )
        for kind, fault, attempts, text in run.values:
            self.assertEqual((kind, fault, attempts), ("connect", "proxy_refused", 1), text)
            self.assertNotIn("wrong-password", text)
        self.assertEqual(plain.requests + safe.requests, [])

    def test_a_host_that_squid_cannot_reach_is_tried_again(self):
        with closed_port() as port:
            source = 'emit(get(through(squid), "https://safe.test:" .. P.nobody))'
            run = self.ask(source, nobody=port)
        self.assertEqual(run.value[:3], ["connect", "connect_failed", 2])

    def test_a_proxy_that_is_down(self):
        with closed_port() as port:
            run = self.ask(
                """
                for _, scheme in ipairs { "http", "https", "socks5" } do
                  local down = scheme .. "://" .. "%75ser:down%2dpass%2fword@127.0.0.1:" .. P.down
                  local api = orc.client { proxy = down,
                    retry = { attempts = 2, wait_initial = 0 } }
                  emit(get(api, plain))
                  emit(get(api, safe))
                end
                """,
                down=port,
            )
        for kind, fault, attempts, text in run.values:
            self.assertEqual((kind, fault, attempts), ("connect", "connect_failed", 2), text)
            self.assertNotRegex(text, "down.{1,3}pass")
            self.assertIn(str(port), text)  # it is the proxy that is not there

    def test_the_credentials_are_shown_nowhere(self):
        run = self.script(
            """
            local orc = require "orchestrator"
            print(orc.json.encode(orc.secret.value "a-pass-word"))
            orc.client { proxy = "ftp://user:a-pass-word@127.0.0.1:1" }
            """,
            code=2,
        )
        self.assertIn('client.proxy: "url" has the scheme "ftp"', run.err)
        self.assertNotIn("a-pass-word", run.err)
        self.write("script.lua", 'error(require("orchestrator").params.text)')
        secret = {"http_proxy": "http://user:environment%2Dpass@proxy.test:1"}
        for text in ("environment-pass", "environment%2Dpass"):
            self.assertNotIn(text, self.orchestrate("script.lua", f"text={text}", env=secret).err)

    def test_the_environment_names_a_proxy(self):
        source = """
            local api = orc.client { retry = false }
            emit(get(api, plain))
            emit(get(api, safe))
            emit(get(api, "http://127.0.0.1:" .. P.plain))
            emit(get(api, "http://localhost:" .. P.plain))
            emit(get(orc.client { proxy = false, retry = false }, plain))
            emit(#orc.fetch(plain).body)
        """
        everything = ["hello", "safe", "hello", "hello", "hello", 5]
        one = ("GET", f"http://plain.test:{plain.port}/", "-")
        two = ("CONNECT", f"safe.test:{safe.port}", "-")
        proxy = object()
        for variables, expected in (
            ({"all_proxy": proxy}, [two, one, one]),
            ({"http_proxy": proxy}, [one, one]),
            ({"HTTPS_PROXY": proxy, "HTTP_PROXY": "http://127.0.0.1:1"}, [two]),
            ({"ALL_PROXY": proxy, "no_proxy": ".plain.test"}, [two]),
            ({"ALL_PROXY": proxy, "NO_PROXY": "*"}, []),
        ):
            with self.subTest(variables=list(variables)):
                user = f"user-{next(users)}"
                named = f"http://{user}:squid%3Apass%2Fw%C3%B6rd@127.0.0.1:{squid.port}"
                env = {name: named if v is proxy else v for name, v in variables.items()}
                self.assertEqual(self.ask(source, env=env).values, everything)
                self.assertEqual(squid.ledger(user, len(expected)), expected)

    def test_the_environment_is_read_once(self):
        run = self.ask(
            """
            local ffi = require "ffi"
            ffi.cdef "int setenv(const char *, const char *, int);"
            for _, name in ipairs { "http_proxy", "https_proxy", "all_proxy" } do
              ffi.C.setenv(name, "http://127.0.0.1:1", 1)
            end
            emit(get(orc.client { retry = false }, plain))
            emit(get(orc.client { retry = false }, safe))
            ffi.C.setenv("no_proxy", "*", 1)
            emit(get(through(squid), plain))
            """
        )
        self.assertEqual(run.values, ["hello", "safe", "hello"])
        self.assertEqual(len(squid.ledger(self.user, 1)), 1)

    def test_an_explicit_proxy_heeds_its_own_no_proxy_alone(self):
        run = self.ask(
            """
            emit(get(through(squid), plain))
            emit(get(through(squid, { no_proxy = "safe.test" }), plain .. "to-safe"))
            """,
            env={"no_proxy": "*", "NO_PROXY": "*", "all_proxy": "http://127.0.0.1:1"},
        )
        self.assertEqual(run.values, ["hello", "safe"])
        self.assertEqual([entry[0] for entry in squid.ledger(self.user, 2)], ["GET", "GET"])
        self.assertEqual(len(safe.requests), 1)

    def test_connections_are_used_again_but_never_by_another_client(self):
        run = self.ask(
            """
            local api = through(squid)
            for _ = 1, 5 do emit(get(api, safe)) end
            emit(get(through(squid), safe)) -- the same settings
            emit(get(through(squid, { password = "wrong" }), safe)[2])
            emit(get(through(squid, { username = false, password = false }), safe)[2])
            emit(get(orc.client { retry = false }, safe))
            emit(get(api, safe))
            """
        )
        refused = ["proxy_refused"] * 2
        self.assertEqual(run.values, ["safe"] * 6 + refused + ["safe"] * 2)
        self.assertEqual(safe.opened, 2)  # one through squid, one without
        self.assertEqual([request.connection for request in safe.requests], [1] * 6 + [2, 1])

    def test_deny_private_has_no_proxy_to_hide_behind(self):
        run = self.ask(
            """
            local api = orc.client { deny_private = true }
            emit(get(api, plain))
            """,
            env={"http_proxy": f"http://127.0.0.1:{squid.port}"},
        )
        self.assertEqual(run.value[:3], ["blocked", "blocked_address", 1])
        self.assertEqual(plain.requests, [])

    def test_socks5_is_given_names(self):
        with Socks5() as proxy:
            run = self.ask(
                """
                for _, scheme in ipairs { "socks5://", "socks5h://" } do
                  local api = orc.client { proxy = scheme .. "127.0.0.1:" .. P.socks }
                  emit(get(api, plain))
                  emit(get(api, safe))
                end
                local api = orc.client { proxy = "socks5://proxy.test:" .. P.socks }
                emit(get(api, "http://127.0.0.1:" .. P.plain))
                emit(get(api, "http://[::1]:" .. P.plain))
                """,
                socks=proxy.port,
            )
        self.assertEqual(run.values, ["hello", "safe"] * 2 + ["hello"] * 2)
        names = [("name", "plain.test", plain.port), ("name", "safe.test", safe.port)]
        kinds = [entry[0] for entry in proxy.asked[-2:]]
        # The second client may use the connections of the first: the settings are the same.
        self.assertEqual(list(dict.fromkeys(proxy.asked))[:2], names)
        self.assertEqual(kinds, ["ipv4", "ipv6"])
        self.assertEqual(self.lookups(), ["proxy.test"])

    def test_socks5_with_credentials(self):
        with Socks5(user=("socks user", "socks:p@ss")) as proxy, closed_port() as nobody:
            run = self.ask(
                """
                local function through(user)
                  return orc.client { proxy = "socks5://" .. user .. "127.0.0.1:" .. P.socks,
                    retry = { attempts = 2, wait_initial = 0 } }
                end
                local good = through "socks%20user:socks%3Ap%40ss@"
                emit(get(good, plain))
                emit(get(good, safe))
                emit(get(through "socks%20user:socks-wrong@", plain))
                emit(get(through "", safe))
                emit(get(good, "http://plain.test:" .. P.nobody))
                """,
                socks=proxy.port,
                nobody=nobody,
            )
        *good, wrong, nobody, unreached = run.values
        self.assertEqual(good, ["hello", "safe"])
        for kind, fault, attempts, text in (wrong, nobody):
            self.assertEqual((kind, fault, attempts), ("connect", "proxy_refused", 1), text)
            self.assertNotIn("socks-wrong", text)
        self.assertEqual(unreached[:3], ["connect", "connect_failed", 2])
        self.assertEqual(self.lookups(), [])


if __name__ == "__main__":
    unittest.main()
