"""Names: looked up beside everything else, so that a slow name server holds up nobody but those who
wait for it. slow_resolver.c plays the name server."""

import os
import signal
import time
import unittest

from program import ROOT, Case
from servers import RawServer, answer

RESOLVER = os.environ.get("SLOW_RESOLVER", os.path.join(ROOT, "build", "tests", "slow_resolver.so"))


class Names(Case):
    def setUp(self):
        super().setUp()
        self.server = self.enterContext(RawServer({"/": answer("hello")}))
        sanitizer = os.environ.get("ASAN_OPTIONS", "")
        self.env = {
            "LD_PRELOAD": RESOLVER,
            "RESOLVER_LOG": self.path("lookups.lua"),  # with that name it is no output
            "ASAN_OPTIONS": f"{sanitizer}:verify_asan_link_order=0",
        }

    def ask(self, source, *args, **options):
        """Runs a script that has url(name)."""
        return self.lua(
            "local function url(name, path)"
            " return 'http://' .. name .. ':' .. P.port .. (path or '/') end " + source,
            f"port={self.server.port}",
            *args,
            env=self.env,
            **options,
        )

    def lookups(self):
        """The names looked up, and how many lookups ran at once."""
        names, running, most = [], 0, 0
        for line in self.read("lookups.lua").splitlines():
            running += 1 if line[0] == "+" else -1
            most = max(most, running)
            if line[0] == "+":
                names.append(line[1:])
        return names, most

    def test_a_slow_lookup_holds_up_nobody_else(self):
        run = self.ask(
            """
            local slow, quick = 0, 0
            assert(orc.fetch(url "quick.test"))
            orc.group(function(g)
              for i = 1, 2 do
                g:spawn(function()
                  assert(orc.fetch(url("slow-2000.n" .. i .. ".test")).body == "hello")
                  slow = slow + 1
                end)
              end
              orc.sleep "50ms"
              for i = 1, 100 do
                assert(orc.fetch(url(i % 2 == 0 and "127.0.0.1" or "quick.test")).body == "hello")
                quick = quick + 1
              end
              emit { slow, quick }
            end)
            emit { slow, quick }
            """
        )
        self.assertEqual(run.values, [[0, 100], [2, 100]])

    def test_a_timeout_takes_effect_during_the_lookup(self):
        run = self.ask(
            """
            for _, timeout in ipairs { 0.2, { connect = 0.2 }, { total = 0.2 } } do
              local began = orc.now()
              local _, err = orc.fetch { url = url "slow-6000.test", timeout = timeout,
                retry = false }
              emit { err.kind, orc.now() - began < 3 }
            end
            """
        )
        self.assertEqual(run.values, [["timeout", True]] * 3)

    def test_cancelling_takes_effect_during_the_lookup_and_the_end_does_not_wait_for_it(self):
        began = time.monotonic()
        run = self.ask(
            """
            local began = orc.now()
            orc.group(function(g)
              local tasks = {}
              for i = 1, 10 do
                tasks[i] = g:spawn(function()
                  return orc.fetch(url("slow-8000.n" .. i .. ".test"))
                end)
              end
              orc.sleep "100ms"
              for i = 1, 10 do tasks[i]:cancel() end
              emit(select(2, tasks[1]:await()).kind)
            end)
            emit(orc.now() - began < 4)
            emit(orc.fetch(url "127.0.0.1").body)
            """
        )
        self.assertEqual(run.values, ["cancelled", True, "hello"])
        self.assertLess(time.monotonic() - began, 6)
        self.assertLessEqual(len(self.lookups()[0]), 3)  # those in the queue were never begun

    def test_an_interruption_takes_effect_during_the_lookup(self):
        self.write("script.lua", 'require("orchestrator").fetch("http://slow-8000.test/")')
        process = self.start("script.lua", env=self.env)
        while not os.path.exists(self.path("lookups.lua")):
            time.sleep(0.01)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        self.assertEqual(self.finish(process).code, 130)
        self.assertLess(time.monotonic() - began, 5)

    def test_a_name_is_looked_up_once_for_all_who_want_it(self):
        run = self.ask(
            """
            local urls = {}
            for i = 1, 30 do urls[i] = url("name-100.test", "/?" .. i) end
            local api = orc.client { accept = { 200, 404 } }
            local results = orc.map(urls, function(u) return api:fetch(u) end, { concurrency = 30 })
            emit(results.n)
            for _ = 1, 3 do emit(orc.fetch(url "NAME-100.test").body) end
            """
        )
        self.assertEqual(run.values, [30] + ["hello"] * 3)
        self.assertEqual(self.lookups()[0], ["name-100.test"])

    def test_few_lookups_at_once(self):
        run = self.ask(
            """
            local urls = {}
            for i = 1, 9 do urls[i] = url("name-100.n" .. i .. ".test") end
            local results = orc.map(urls, orc.fetch)
            for i = 1, 9 do emit(results[i].body) end
            """
        )
        self.assertEqual(run.values, ["hello"] * 9)
        names, most = self.lookups()
        self.assertEqual(len(set(names)), 9)
        self.assertLessEqual(most, 3)

    def test_no_such_name_is_for_good_and_no_answer_is_not(self):
        run = self.ask(
            """
            for _, name in ipairs { "none.test", "again.test", "none.test" } do
              emit(fetch { url = url(name), retry = { attempts = 3, wait_initial = 0 } }.err)
            end
            """
        )
        none, again, _ = run.values
        self.assertEqual((none["kind"], none["attempts"]), ("dns", 1))
        self.assertIn("none.test", none["text"])
        self.assertEqual((again["kind"], again["attempts"]), ("dns", 3))
        # A failure is not kept.
        self.assertEqual(self.lookups()[0], ["none.test"] + ["again.test"] * 3 + ["none.test"])

    def test_the_second_address_is_tried(self):
        run = self.ask(
            """
            for _ = 1, 3 do emit(fetch { url = url "both.test", retry = false }.status) end
            local urls = {}
            for i = 1, 20 do urls[i] = url "both.test" end
            local _, errors = orc.map(urls, orc.fetch)
            emit(#errors)
            """
        )
        self.assertEqual(run.values, [200, 200, 200, 0])
        self.assertLessEqual(self.server.opened, 20)

    def test_a_literal_address_is_not_looked_up(self):
        run = self.ask('emit(orc.fetch(url "127.0.0.1").body) emit(orc.fetch(url "0x7f.1").body)')
        self.assertEqual(run.values, ["hello", "hello"])
        self.assertFalse(os.path.exists(self.path("lookups.lua")))

    def test_the_time_it_takes_is_told_and_counts(self):
        self.server.routes["/to"] = answer(
            status="302 Found", location=f"http://slow-4000.test:{self.server.port}/"
        )
        run = self.ask(
            """
            local res = assert(orc.fetch(url "name-200.test"))
            emit { res.timing.dns >= 0.2, res.timing.total >= res.timing.dns }
            emit(fetch { url = url("127.0.0.1", "/to"), timeout = "300ms", retry = false }.err.kind)
            """
        )
        self.assertEqual(run.values, [[True, True], "timeout"])


if __name__ == "__main__":
    unittest.main()
