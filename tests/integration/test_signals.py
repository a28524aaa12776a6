"""SIGINT and SIGTERM: once stops and sums up, twice stops at once."""

import fcntl
import os
import signal
import struct
import termios
import time
import unittest

from program import PRELUDE, Case
from servers import PATIENCE, RawServer, answer, answer_json, silence

# One item that is through, and then two whose server is silent.
SILENT = """
local items, through = { "/one", "/silent", "/silent" }, false
return orc.pipeline {
  name = "job",
  client = { base_url = P.base },
  source = function()
    while #items == 2 and not through do orc.sleep(0.01) end
    return table.remove(items, 1)
  end,
  map = function(record)
    through = true
    return record
  end,
  sink = P.sink or "out.jsonl", mode = P.mode,
}
"""


def unread(pipe):
    """How many bytes wait in it."""
    return struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))[0]


class Signals(Case):
    def setUp(self):
        super().setUp()
        self.server = self.enterContext(
            RawServer({"/silent": silence, "/one": answer_json('{"a":1}'), "/": answer("hello")})
        )

    def begin(self, source, *args, **options):
        self.write("script.lua", PRELUDE + source)
        return self.start("script.lua", f"base={self.server.base}", *args, **options)

    def until_silent(self, count):
        self.server.until(lambda: self.server.targets().count("/silent") == count)

    def test_once_stops_and_sums_up(self):
        for signum, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            with self.subTest(signum):
                self.server.forget()
                self.write("out.jsonl", "old\n")
                process = self.begin(SILENT, "--summary", "summary.json")
                self.until_silent(2)
                process.send_signal(signum)
                run = self.finish(process)
                self.assertEqual(run.code, code)
                self.assertIn("job: interrupted after", run.err)
                self.assertEqual(run.out, "")
                # What was there is as it was, and what is through beside it.
                self.assertEqual(self.files(), ["out.jsonl", "out.jsonl.part", "summary.json"])
                self.assertEqual(self.read("out.jsonl"), "old\n")
                self.assertEqual(self.read("out.jsonl.part"), '{"a":1}\n')
                (summary,) = self.records("summary.json")
                self.assertEqual(
                    (summary["interrupted"], summary["records"]["out"], summary["requests"]["ok"]),
                    (True, 1, 1),
                )
                self.server.until(lambda: self.server.in_flight == 0)

    def test_what_was_appended_stays(self):
        self.write("out.jsonl", '{"a":0}\n')
        process = self.begin(SILENT, "mode=append")
        self.until_silent(2)
        process.send_signal(signal.SIGINT)
        self.assertEqual(self.finish(process).code, 130)
        self.assertEqual(self.records("out.jsonl"), [{"a": 0}, {"a": 1}])

    def test_what_went_to_stdout_stays(self):
        process = self.begin(SILENT, "sink=-")
        self.until_silent(2)
        process.send_signal(signal.SIGTERM)
        run = self.finish(process)
        self.assertEqual((run.code, run.values), (143, [{"a": 1}]))

    def test_a_reader_that_does_not_read_is_not_waited_for(self):
        source = """
            return orc.pipeline { name = "job", client = { base_url = P.base },
              source = { "/one" },
              map = function(r) return { a = r.a, text = ("x"):rep(1000000) } end }
            """
        process = self.begin(source)
        deadline = time.monotonic() + PATIENCE
        while unread(process.stdout) < 65536 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        code = process.wait(timeout=PATIENCE)  # without reading
        run = self.finish(process)
        self.assertEqual(code, 130)
        self.assertRegex(run.err, r"job: interrupted after .*, fetched 0 of 1 begun")
        self.assertIn("could not be written down", run.err)
        run = self.finish(self.begin(source, "--resume"))
        self.assertEqual((run.code, [value["a"] for value in run.values]), (0, [1]))

    def test_a_receiver_that_does_not_answer_is_not_waited_for(self):
        for routes in ({"/in": silence}, {"/in": silence}, {}):
            with self.subTest(routes):
                self.server.routes.update({"/in": answer(), **routes})
                self.server.forget()
                process = self.begin(
                    """
                    return orc.pipeline { name = "job", client = { base_url = P.base },
                      source = { "/one" }, sink = P.base .. "/in", resume = true }
                    """
                )
                self.server.until(lambda: "/in" in self.server.targets())
                if routes:
                    process.send_signal(signal.SIGINT)
                self.assertEqual(process.wait(timeout=PATIENCE), 130 if routes else 0)
                self.finish(process)

    def test_in_the_middle_of_a_busy_run(self):
        process = self.begin(
            """
            local n = 0
            return orc.pipeline { client = { base_url = P.base }, sink = "out.jsonl",
              source = function()
                n = n + 1
                return "/one?" .. n
              end }
            """
        )
        self.server.until(lambda: len(self.server.requests) > 500)
        process.send_signal(signal.SIGINT)
        run = self.finish(process)
        self.assertEqual(run.code, 130)
        self.assertIn("interrupted after", run.err)
        self.assertEqual(self.files(), ["out.jsonl.part"])

    def test_a_script_without_a_pipeline(self):
        process = self.begin(
            """
            local ok, err = pcall(orc.fetch, P.base .. "/silent")
            emit { ok, err.kind }
            emit((pcall(orc.sleep, 60)))
            """
        )
        self.until_silent(1)
        process.send_signal(signal.SIGINT)
        run = self.finish(process)
        self.assertEqual(run.code, 130)
        self.assertEqual(run.values, [[False, "cancelled"], False])  # every further wait raises too

    def test_a_waiting_retry_a_sleep_and_a_full_channel(self):
        self.server.routes["/503"] = answer(status="503 No", retry_after="60")
        for source in (
            "orc.fetch(P.base .. '/503')",
            "orc.fetch(P.base .. '/503/ready') orc.sleep '1h'",
            "orc.fetch(P.base .. '/503') orc.channel():send(1)",
            "orc.gather { function() orc.fetch(P.base .. '/503') end,"
            " function() orc.channel():recv() end }",
        ):
            with self.subTest(source):
                self.server.forget()
                process = self.begin(source)
                self.server.until(lambda: self.server.requests)
                process.send_signal(signal.SIGINT)
                self.assertEqual(self.finish(process).code, 130)

    def test_twice_stops_at_once(self):
        # The pipeline's own code does not give way, so the first one cannot take effect.
        self.interrupt_twice(
            """
            return orc.pipeline { source = { P.base .. "/one" }, sink = "out.jsonl",
              map = function()
                ready()
                while true do end
              end }
            """
        )

    def test_twice_stops_a_compiled_endless_loop(self):
        self.interrupt_twice(
            """
            ready()
            local x = 0
            while true do x = (x + 1) % 1000 end
            """
        )

    def interrupt_twice(self, source):
        ready = "local function ready() io.stdout:write('ready\\n') io.stdout:flush() end "
        process = self.begin(ready + source)
        self.assertEqual(process.stdout.readline(), b"ready\n")
        time.sleep(0.1)  # let the loop be compiled
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)  # two that wait at once are one
        self.assertIsNone(process.poll())
        process.send_signal(signal.SIGINT)
        self.assertEqual(self.finish(process).code, 130)

    def test_a_closed_stdout_is_an_error_and_no_signal(self):
        for source in (
            "return orc.pipeline { source = { P.base .. '/one', P.base .. '/' } }",
            "return orc.pipeline { source = { P.base .. '/one' } }",
        ):
            reader, writer = os.pipe()
            os.close(reader)
            process = self.begin(source, "-q", stdout=writer)
            os.close(writer)
            run = self.finish(process)
            self.assertEqual(run.code, 1)
            self.assertRegex(run.err, "cannot write stdout")


if __name__ == "__main__":
    unittest.main()
