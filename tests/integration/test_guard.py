"""deny_private and allow_hosts: what must not be reached gets no connection, however it is named.
Tests with public addresses run in a network of their own, which leads nowhere."""

import ipaddress
import os
import shutil
import socket
import subprocess
import sys
import unittest

from program import ROOT, Case
from servers import RawServer, answer

RESOLVER = os.environ.get("SLOW_RESOLVER", os.path.join(ROOT, "build", "tests", "slow_resolver.so"))
INSIDE = "GUARD_TEST_NETWORK" in os.environ
PUBLIC, PUBLIC6 = "198.41.0.4", "2001:500:2::c"  # inside, they are this machine's


def named(*addresses, kind="at"):
    """A name that slow_resolver.c resolves to these."""
    return "-".join([kind] + [ipaddress.ip_address(a).packed.hex() for a in addresses]) + ".test"


def each(urls, api="guarded"):
    """Lua text that fetches the URLs one after another."""
    texts = ", ".join(f'"{url}"' for url in urls)
    return f"local api = {api}; for _, url in ipairs {{ {texts} }} do emit(get(api, url)) end"


def redirect(url):
    return answer(status="302 Found", location=url)


class Guarded(Case):
    def setUp(self):
        super().setUp()
        self.server = self.enterContext(RawServer({"/": answer("hello")}))
        sanitizer = os.environ.get("ASAN_OPTIONS", "")
        self.env = {
            "LD_PRELOAD": RESOLVER,
            "RESOLVER_LOG": self.path("lookups.lua"),  # with that name it is no output
            "ASAN_OPTIONS": f"{sanitizer}:verify_asan_link_order=0",
        }

    def listen(self, address, port=0):
        """Another server, with the same answers."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = socket.create_server(
            (address, port), family=family, backlog=64, dualstack_ipv6=address == "::"
        )
        return self.enterContext(RawServer({"/": answer("hello")}, listener=listener))

    def ask(self, source, *args, **options):
        """Runs a script that has guarded, a client, and get(client, url): the status, or the kind,
        fault, message and URL of an error that was not tried again."""
        return self.lua(
            """
            local quick = { wait_initial = 0 }
            local guarded = orc.client { deny_private = true, retry = quick }
            local function get(api, url)
              local res, err = api:fetch(url)
              if res then return res.status end
              assert(err.kind ~= "blocked" or err.attempts == 1)
              return { err.kind, err.fault, err.message, err.url }
            end
            """
            + source,
            f"port={self.server.port}",
            *args,
            env=self.env,
            **options,
        )

    def blocked(self, url, address, what):
        return ["blocked", "blocked_address", f"deny_private: {address} is {what}", url]


class DenyPrivate(Guarded):
    def test_every_notation(self):
        everywhere = self.listen("::")  # IPv4 as well
        cases = [
            ("127.0.0.1", "127.0.0.1", "loopback"),
            ("127.1", "127.0.0.1", "loopback"),
            ("0x7f.1", "127.0.0.1", "loopback"),
            ("2130706433", "127.0.0.1", "loopback"),
            ("0x7f000001", "127.0.0.1", "loopback"),
            ("0177.0.0.1", "127.0.0.1", "loopback"),
            ("017700000001", "127.0.0.1", "loopback"),
            ("127.255.255.254", "127.255.255.254", "loopback"),
            ("0.0.0.0", "0.0.0.0", "unspecified"),
            ("0", "0.0.0.0", "unspecified"),
            ("[::1]", "::1", "loopback"),
            ("[0:0:0:0:0:0:0:1]", "::1", "loopback"),
            ("[::]", "::", "unspecified"),
            ("[::ffff:127.0.0.1]", "::ffff:127.0.0.1", "loopback"),
            ("[::ffff:7f00:1]", "::ffff:127.0.0.1", "loopback"),
        ]
        urls = [f"http://{host}:{everywhere.port}/" for host, _, _ in cases]
        run = self.ask(each(urls))
        for got, url, (_, address, what) in zip(run.values, urls, cases, strict=True):
            self.assertEqual(got, self.blocked(url, address, what))
        self.assertEqual(everywhere.opened, 0)
        run = self.ask(each(urls, "orc.client {}"))  # they do lead there
        self.assertEqual(run.values, [200] * len(urls))

    def test_names(self):
        everywhere = self.listen("::")
        cases = {
            "localhost": None,
            "LocalHost": None,
            named("127.0.0.1"): ("127.0.0.1", "loopback"),
            named("::1", "127.0.0.1"): None,
            named("::ffff:127.0.0.1"): ("::ffff:127.0.0.1", "loopback"),
        }
        run = self.ask(each(f"http://{host}:{everywhere.port}/" for host in cases))
        for got, (host, expected) in zip(run.values, cases.items(), strict=True):
            if expected:
                url = f"http://{host}:{everywhere.port}/"
                self.assertEqual(got, self.blocked(url, *expected))
            self.assertEqual(got[:2], ["blocked", "blocked_address"], host)
        self.assertEqual(everywhere.opened, 0)

    def test_no_connection_of_a_client_without_it_is_used(self):
        run = self.ask(
            """
            local open = orc.client { retry = quick }
            local other = orc.client { deny_private = true, retry = quick }
            for _, host in ipairs { "127.0.0.1", "localhost", "0x7f.1" } do
              local url = "http://" .. host .. ":" .. P.port .. "/"
              for _, api in ipairs { open, guarded, open, other, orc, guarded } do
                local got = get(api == orc and { fetch = function(_, u) return orc.fetch(u) end }
                  or api, url)
                emit(type(got) == "table" and got[1] or got)
              end
            end
            orc.gather {
              function() emit(get(open, "http://127.0.0.1:" .. P.port .. "/")) end,
              function() emit(get(guarded, "http://127.0.0.1:" .. P.port .. "/")[1]) end,
            }
            """
        )
        self.assertEqual(run.values[:-2], [200, "blocked", 200, "blocked", 200, "blocked"] * 3)
        self.assertCountEqual(run.values[-2:], [200, "blocked"])
        self.assertEqual(len(self.server.requests), 10)

    def test_the_script_may_not_name_private_addresses_either(self):
        """`resolve` is looked at like any other answer."""
        run = self.ask(
            """
            emit(get(orc.client { deny_private = true, resolve = { ["a.test"] = "127.0.0.1" } },
              "http://a.test:" .. P.port .. "/")[3])
            """
        )
        self.assertEqual(run.value, "deny_private: 127.0.0.1 is loopback")
        self.assertEqual(self.server.opened, 0)

    def test_false_is_the_default(self):
        run = self.ask(
            'for _, deny in ipairs { false, "absent" } do'
            ' local api = orc.client { deny_private = deny ~= "absent" and deny or nil }'
            ' emit(get(api, "http://127.0.0.1:" .. P.port .. "/")) end'
        )
        self.assertEqual(run.values, [200, 200])


class AllowHosts(Guarded):
    def test_only_those_hosts(self):
        run = self.ask(
            """
            local api = orc.client { allow_hosts = { "127.0.0.1", "*.b.test", "A.test" } }
            local allowed = { "127.0.0.1", "0x7f.1", "[::ffff:127.0.0.1]", "x.b.test", "a.test" }
            local others = { "localhost", "b.test", "127.0.0.2", "a.test.evil.test", "[::1]" }
            for i = 1, 10 do
              local host = allowed[i] or others[i - 5]
              emit(get(api, "http://" .. host .. ":" .. P.port .. "/"))
            end
            """
        )
        self.assertEqual(run.values[:5], [200] * 5)
        for got, host in zip(
            run.values[5:],
            ["localhost", "b.test", "127.0.0.2", "a.test.evil.test", "::1"],
            strict=True,
        ):
            self.assertEqual(got[:2], ["blocked", "host_not_allowed"])
            self.assertEqual(got[2], f"{host} is not among the client's allow_hosts")
        self.assertEqual(len(self.server.requests), 5)

    def test_each_hop(self):
        port = self.server.port
        targets = [
            f"http://localhost:{port}/",
            f"//localhost:{port}/",
            "http://127.0.0.2/",
            f"http://[::1]:{port}/",
        ]
        for i, target in enumerate(targets):
            self.server.routes[f"/{i}"] = redirect(target)
        self.server.routes["/near"] = redirect("/")
        self.server.routes["/again"] = redirect(f"http://0x7f.1:{port}/")
        run = self.ask(
            """
            local api = orc.client { allow_hosts = { "127.0.0.1" } }
            for _, path in ipairs { "near", "again", "0", "1", "2", "3" } do
              emit(get(api, "http://127.0.0.1:" .. P.port .. "/" .. path))
            end
            -- A connection another client has made changes nothing.
            emit(orc.fetch("http://localhost:" .. P.port .. "/").status)
            emit(get(api, "http://127.0.0.1:" .. P.port .. "/0")[2])
            """
        )
        self.assertEqual(run.values[:2], [200, 200])
        for got in run.values[2:6]:
            self.assertEqual(got[:2], ["blocked", "host_not_allowed"])
        self.assertEqual(run.values[4][3], "http://127.0.0.2/")
        self.assertEqual(run.values[6:], [200, "host_not_allowed"])
        self.assertEqual(
            self.server.targets(),
            ["/near", "/", "/again", "/", "/0", "/1", "/2", "/3", "/", "/0"],
        )


@unittest.skipUnless(INSIDE, "run by Network")
class Inside(Guarded):
    """With public addresses, in a network namespace of our own."""

    def setUp(self):
        super().setUp()
        self.public = self.listen(PUBLIC)
        self.base = f"http://{PUBLIC}:{self.public.port}"

    def test_public_addresses_pass(self):
        six = self.listen(PUBLIC6)
        number = int(ipaddress.ip_address(PUBLIC))
        hosts = [PUBLIC, named(PUBLIC), f"[::ffff:{PUBLIC}]", str(number)]
        urls = [f"http://{host}:{self.public.port}/" for host in hosts]
        urls += [f"http://{host}:{six.port}/" for host in (f"[{PUBLIC6}]", named(PUBLIC6))]
        run = self.ask(each(urls))
        self.assertEqual(run.values, [200] * 6)

    def test_other_addresses_do_not(self):
        cases = [
            ("[::127.0.0.1]", "::127.0.0.1", "IPv4-compatible"),
            ("[64:ff9b::7f00:1]", "64:ff9b::7f00:1", "loopback"),
            ("[2002:7f00:1::]", "2002:7f00:1::", "loopback"),
            ("169.254.169.254", "169.254.169.254", "link-local"),
            ("10.0.0.1", "10.0.0.1", "private"),
            ("172.16.0.1", "172.16.0.1", "private"),
            ("192.168.0.1", "192.168.0.1", "private"),
            ("100.64.0.1", "100.64.0.1", "shared (CGNAT)"),
            ("224.0.0.1", "224.0.0.1", "multicast"),
            ("[fd00:ec2::254]", "fd00:ec2::254", "unique local"),
            ("[fe80::1]", "fe80::1", "link-local"),
            (named("169.254.169.254"), "169.254.169.254", "link-local"),
            (named("10.1.2.3", "10.1.2.3"), "10.1.2.3", "private"),
        ]
        urls = [f"http://{host}/" for host, _, _ in cases]
        run = self.ask(each(urls))
        for got, url, (_, address, what) in zip(run.values, urls, cases, strict=True):
            self.assertEqual(got, self.blocked(url, address, what))

    def test_each_hop_of_a_redirect(self):
        port = self.server.port
        targets = {
            "/1": (f"http://127.0.0.1:{port}/", "127.0.0.1", "loopback"),
            "/2": (f"http://0x7f.1:{port}/", "127.0.0.1", "loopback"),
            "/3": (f"http://[::1]:{port}/", "::1", "loopback"),
            "/4": ("http://169.254.169.254/latest/", "169.254.169.254", "link-local"),
            "/5": (f"http://{named('127.0.0.1')}:{port}/", "127.0.0.1", "loopback"),
            "/6": (f"http://[::ffff:7f00:1]:{port}/", "::ffff:127.0.0.1", "loopback"),
        }
        for path, (target, _, _) in targets.items():
            self.public.routes[path] = redirect(target)
        self.public.routes["/far"] = redirect("/farther")
        self.public.routes["/farther"] = redirect("/1")
        self.public.routes["/good"] = redirect(f"http://{named(PUBLIC)}:{self.public.port}/")
        run = self.ask(
            "for _, path in ipairs { 1, 2, 3, 4, 5, 6, 'far', 'good' } do"
            f' emit(get(guarded, "{self.base}/" .. path)) end'
        )
        for got, expected in zip(run.values, targets.values(), strict=False):
            self.assertEqual(got, self.blocked(*expected))
        self.assertEqual(run.values[6], self.blocked(*targets["/1"]))
        self.assertEqual(run.values[7], 200)
        self.assertEqual(self.server.opened, 0)

    def test_a_name_with_both_kinds_of_address(self):
        """The private one is never tried, neither first nor when the public one fails."""
        private = self.listen("127.0.0.1", self.public.port)
        with socket.create_server((PUBLIC, 0)) as reserved:
            closed = reserved.getsockname()[1]
        behind = self.listen("127.0.0.1", closed)
        run = self.ask(
            f'emit(get(guarded, "http://{named("127.0.0.1", PUBLIC)}:{self.public.port}/"))'
            f'emit(get(guarded, "http://{named(PUBLIC, "127.0.0.1")}:{self.public.port}/"))'
            f'emit(get(guarded, "http://{named(PUBLIC, "127.0.0.1")}:{closed}/")[1])'
            f'emit(get(guarded, "http://{named("127.0.0.1", PUBLIC)}:{closed}/")[1])'
        )
        self.assertEqual(run.values[:2], [200, 200])
        self.assertLessEqual(set(run.values[2:]), {"blocked", "connect"})
        self.assertEqual((private.opened, behind.opened), (0, 0))

    def test_rebinding(self):
        """A name that was public leads home at the next lookup. The first answer is forgotten here
        because so many other names come after it."""
        private = self.listen("127.0.0.1", self.public.port)
        self.public.routes["/"] = answer("hello", connection="close")
        rebound = named(PUBLIC, "127.0.0.1", kind="turn")
        loopback = named("127.0.0.1")
        run = self.ask(
            f"""
            local url = "http://{rebound}:{self.public.port}/"
            emit(get(guarded, url))
            emit(get(guarded, url))
            for i = 1, 4200 do
              local other = ("http://{loopback[:-5]}.n%d.test:{self.public.port}/"):format(i)
              local got = get(guarded, other)
              if got[1] ~= "blocked" then emit(got) end
            end
            emit(get(guarded, url)[3])
            """
        )
        self.assertEqual(run.values, [200, 200, "deny_private: 127.0.0.1 is loopback"])
        self.assertEqual(self.read("lookups.lua").count(f"+{rebound}"), 2)
        self.assertEqual(private.opened, 0)


@unittest.skipIf(INSIDE, "this is the network")
class Network(unittest.TestCase):
    def test_in_a_network_of_its_own(self):
        if not shutil.which("unshare") or not shutil.which("ip"):
            self.skipTest("unshare and ip are needed")
        alone = ["unshare", "--map-root-user", "--net"]
        if subprocess.run([*alone, "true"], capture_output=True).returncode:
            self.skipTest("this machine gives us no network namespace")
        setup = (
            f"ip link set lo up && ip addr add {PUBLIC}/32 dev lo && "
            f'ip addr add {PUBLIC6}/128 dev lo nodad && exec "$@"'
        )
        run = subprocess.run(
            [*alone, "sh", "-c", setup, "sh", sys.executable, "-B", "-m", "unittest"]
            + ["test_guard.Inside"],
            cwd=os.path.dirname(__file__),
            env={**os.environ, "GUARD_TEST_NETWORK": "1"},
            capture_output=True,
            text=True,
        )
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertRegex(run.stderr, r"Ran 5 tests")


if __name__ == "__main__":
    unittest.main()
