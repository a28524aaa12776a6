"""Clients that come and go: what each had of its own — connections, descriptors, cookies — goes with
it, and not before."""

import resource
import unittest

from program import SANITIZED, Case
from servers import RawServer, answer

MEASURES = """
local function memory()
  return tonumber(io.open("/proc/self/status"):read("*a"):match "VmRSS:%s*(%d+) kB") / 1000
end
"""


class Profiles(Case):
    def setUp(self):
        super().setUp()
        self.server = self.enterContext(RawServer())

    def run_script(self, source, **options):
        return self.lua(MEASURES + source, f"base={self.server.base}", **options)

    def test_clients_one_after_another_leave_nothing_behind(self):
        self.server.routes["/"] = answer("hello", set_cookie="a=b")
        run = self.run_script(
            """
            for i = 1, 3000 do
              local api = orc.client { base_url = P.base, cookies = true, retry = false }
              assert(api:fetch "/")
              if i % 1000 == 0 then emit(memory()) end
            end
            """,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300)),
        )
        first, _, last = run.values
        if not SANITIZED:
            self.assertLess(first, 60)
            self.assertLess(last, first + 10)
        self.assertEqual(len(self.server.requests), 3000)
        self.assertEqual([r for r in self.server.requests if "cookie" in r.headers], [])

    def test_clients_with_equal_settings_share_what_outlives_them(self):
        """As long as one of them is there."""
        self.server.routes["/"] = answer("hello")
        self.run_script(
            """
            local function new()
              return orc.client { resolve = { ["a.test"] = "127.0.0.1" }, base_url = P.base }
            end
            local kept = new()
            assert(kept:fetch "/")
            for _ = 1, 200 do assert(new():fetch "/") end
            collectgarbage()
            assert(kept:fetch "/")
            assert(new():fetch "/")
            """
        )
        self.assertEqual(self.server.opened, 1)

    def test_a_client_keeps_its_cookies(self):
        self.server.routes.update({"/set": answer(set_cookie="kept=1"), "/": answer("hello")})
        self.run_script(
            """
            local api = orc.client { base_url = P.base, cookies = true }
            assert(api:fetch "/set")
            for _ = 1, 150 do
              assert(orc.client { base_url = P.base, cookies = true }:fetch "/set")
            end
            collectgarbage()
            assert(api:fetch "/")
            """
        )
        self.assertEqual(self.server.last().headers.get("cookie"), "kept=1")
        self.assertEqual(self.server.last().connection, 1)

    def test_what_is_under_way_outlives_its_client(self):
        def slow(connection, _):
            connection.send(answer(b"x" * 100_000)[:-1])
            self.server.until(lambda: "/on" in self.server.targets())
            connection.send(b"x")

        self.server.routes.update({"/": answer("hello"), "/slow": slow, "/on": answer("")})
        run = self.run_script(
            """
            local function open(options)
              options.base_url, options.cookies = P.base, true
              return orc.client(options)
            end
            local res = assert(open {}:fetch { url = "/slow", stream = true })
            for _ = 1, 150 do assert(open {}:fetch "/") end
            collectgarbage()
            collectgarbage()
            local bytes = 0
            for text in res:chunks() do
              if bytes == 0 then assert(orc.fetch(P.base .. "/on")) end
              bytes = bytes + #text
            end
            emit(bytes)
            local task_bytes = orc.gather { function()
              return open {}:fetch("/"), collectgarbage()
            end }
            emit(task_bytes[1].body)
            """
        )
        self.assertEqual(run.values, [100_000, "hello"])

    def test_connections_are_closed_when_their_client_is_gone(self):
        first = []

        def gone(_connection, _request):
            self.server.until(lambda: first[0].ended)
            return answer("hello")

        self.server.routes.update(
            {"/": lambda connection, _: first.append(connection) or answer("hello"), "/gone": gone}
        )
        self.run_script(
            """
            assert(orc.client { base_url = P.base, cookies = true }:fetch "/")
            collectgarbage()
            assert(orc.fetch(P.base .. "/gone"))
            """
        )
        self.assertEqual(self.server.opened, 2)


if __name__ == "__main__":
    unittest.main()
