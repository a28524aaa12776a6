"""orc.step: what a program remembers when it is killed."""

import contextlib
import signal
import sqlite3

from program import PRELUDE
from runs import PIPELINE, Runs


class Steps(Runs):
    def program(self, source, *args, code=0):
        self.write("steps.lua", PRELUDE + source)
        run = self.orchestrate("steps.lua", f"base={self.server.base}", *args)
        self.assertEqual(run.code, code, run.err)
        return run

    THREE = """
        for i = 1, 3 do
          local value = orc.step("step " .. i, function()
            assert(orc.fetch(P.base .. "/echo?id=" .. i))
            return { n = i, list = { "a", orc.null }, text = "é" }
          end)
          emit(value)
          io.stdout:flush()
          if tonumber(P.die) == i then os.execute "kill -9 $PPID" end
        end
        """

    def test_are_remembered_with_resume(self):
        values = [{"n": i, "list": ["a", None], "text": "é"} for i in (1, 2, 3)]
        run = self.program(self.THREE, "die=2", code=-9)
        self.assertEqual(run.values, values[:2])
        run = self.program(self.THREE, "--resume", "die=2", code=-9)
        self.assertEqual(run.values, values[:2])
        run = self.program(self.THREE, "--resume")
        self.assertEqual(run.values, values)
        self.assertEqual(self.asked(), {1: 1, 2: 1, 3: 1})
        # It has ended well: the next one begins anew.
        self.program(self.THREE, "--resume")
        self.assertEqual(self.asked(), {1: 1, 2: 1, 3: 1})

    def test_that_stopped_say_how_to_go_on(self):
        run = self.program("orc.step('one', function() return 1 end) error('no')", code=1)
        self.assertIn("what its steps have done is remembered: --resume goes on with it", run.err)
        run = self.program("orc.step('one', function() return 1 end)", "--resume")
        self.assertNotIn("remembered", run.err)

    def test_are_not_without(self):
        self.program(self.THREE, "die=2", code=-9)
        run = self.program(self.THREE)
        self.assertIn("unfinished", run.err)
        self.assertEqual(self.asked(), {1: 2, 2: 2, 3: 1})

    def test_of_one_key_at_once_are_done_once(self):
        run = self.program("""
            local times = 0
            local results = orc.map({ 1, 2, 3, 4, 5 }, function()
              return orc.step("same", function()
                times = times + 1
                orc.sleep(0.02)
                return times
              end)
            end)
            emit { times, results[1], results[5] }
            """)
        self.assertEqual(run.value, [1, 1, 1])

    def test_what_they_may_return(self):
        source = """
            local times = tonumber(P.times or 0)
            local function twice(key, value, err)
              local out = {}
              for i = 1, 2 do
                local got, problem = orc.step(key, function()
                  times = times + 1
                  return value, err
                end)
                out[i] = { value = got, err = problem and tostring(problem) }
              end
              out[3] = times
              times = 0
              emit(out)
            end
            twice("nil")
            twice("false", false)
            twice("null", orc.null)
            twice("err", nil, "not yet")
            twice("empty", {})
            """
        run = self.program(source)
        self.assertEqual(
            run.values,
            [
                [{}, {}, 1],
                [{"value": False}, {"value": False}, 1],
                [{}, {}, 1],
                [{"err": "not yet"}, {"err": "not yet"}, 2],
                [{"value": {}}, {"value": {}}, 1],
            ],
        )

    def test_that_raise_are_done_again(self):
        source = """
            local times = 0
            local function once()
              return orc.step("raises", function()
                times = times + 1
                if times == 1 then error "a bug" end
                return times
              end)
            end
            local ok, problem = pcall(once)
            emit { ok, tostring(problem):find("a bug", 1, true) ~= nil, once(), once() }
            """
        self.assertEqual(self.program(source).value, [False, True, 2, 2])

    def test_that_cannot_be_kept_name_themselves(self):
        run = self.program('orc.step("users/7", function() return { print } end)', code=2)
        self.assertRegex(run.err, r'steps\.lua:\d+: step: "users/7" returned what JSON cannot hold')
        for call in ("orc.step('', print)", "orc.step(('x'):rep(501), print)", "orc.step('x')"):
            run = self.program(call, code=2)
            self.assertIn("step: expects a", run.err)

    def test_leave_nothing_behind(self):
        self.program(self.THREE)
        with contextlib.closing(sqlite3.connect(self.path(".orchestrator/state.db"))) as database:
            self.assertEqual(database.execute("SELECT count(*) FROM steps").fetchone(), (0,))
            ((status, name),) = database.execute("SELECT status, pipeline FROM runs")
        self.assertEqual((status, name), ("finished", "steps (program)"))

    def test_go_on_after_an_interruption(self):
        source = """
            emit(orc.step("first", function()
              return (assert(orc.fetch(P.base .. "/echo?id=1"))).status
            end))
            io.stdout:flush()
            if P.wait then orc.sleep(100) end
            """
        self.write("steps.lua", PRELUDE + source)
        process = self.start("steps.lua", f"base={self.server.base}", "wait=1")
        self.assertEqual(process.stdout.readline(), b"200\n")
        process.send_signal(signal.SIGINT)
        self.assertEqual(self.finish(process).code, 130)
        self.assertEqual(self.program(source, "--resume").value, 200)
        self.assertEqual(self.asked(), {1: 1})

    def test_beside_pipelines(self):
        source = PIPELINE + """
            local prefix = orc.step("prefix", function()
              return (assert(orc.fetch(P.base .. "/echo?id=0"))).status
            end)
            return pipeline { map = function(_, _, id)
              dies()
              return { id = id, prefix = prefix }
            end }
            """
        self.program(source, "die=150", code=-9)
        self.program(source, "--resume")
        self.assert_whole()
        self.assertEqual({record["prefix"] for record in self.records("out.jsonl")}, {200})
        self.assertEqual(self.asked()[0], 1)
