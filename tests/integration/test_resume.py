"""Runs that are killed or stopped, and gone on with: what is in the output, what was asked of the
server by its ledger, and what is said."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import time

from program import PRELUDE
from runs import CONCURRENCY, ITEMS, PIPELINE, WINDOW, Runs


class Killed(Runs):
    def test_at_several_moments(self):
        for mode in ("replace", "append"):
            with self.subTest(mode):
                self.write("out.jsonl", '{"id":0}\n')
                self.killed("", f"mode={mode}", die=1)
                dies = (51, 60, 101)
                for die in dies:
                    self.killed("", f"mode={mode}", "--resume", die=die)
                run = self.resumed("", f"mode={mode}", "--summary", "summary.json")
                got = self.ids()
                if mode == "append":
                    self.assertEqual(got.pop(0), 0)
                self.assertEqual(sorted(got), list(range(1, ITEMS + 1)))
                (summary,) = self.records("summary.json")
                self.assertEqual(summary["records"]["out"], ITEMS)
                self.assertEqual(summary["resumed"]["sessions"], 5)
                self.assertIn(f"output    {ITEMS} records to out.jsonl\n", run.err)
                self.assertIn(" the 5th time; ", run.err)
                asked = self.asked()
                self.assertEqual(set(asked), set(range(1, ITEMS + 1)))
                again = sum(asked.values()) - ITEMS
                self.assertGreater(again, 0)
                self.assertLessEqual(again, (len(dies) + 1) * (CONCURRENCY + WINDOW))
                self.assertFalse(os.path.exists(self.path("out.jsonl.part")))

    def test_what_is_done_is_not_asked_for(self):
        self.killed("", die=250)
        self.asked()
        done = self.committed()
        self.assertGreaterEqual(done, 250 - WINDOW)
        run = self.resumed("")
        asked = self.asked()
        self.assertEqual(sum(asked.values()), ITEMS - done)
        self.assertEqual(set(asked.values()), {1})
        self.assertIn(f"{done} items passed over that were done", run.err)
        self.assertRegex(run.err, rf"going on with run \S+ of .* UTC: {done} items are done")
        self.assert_whole()

    def test_without_resume_a_new_run_says_that_there_is_an_unfinished_one(self):
        self.killed("", die=250)
        done = self.committed()
        run = self.job("")
        self.assertRegex(
            run.err,
            rf"run \S+ of .* UTC is unfinished \({done} items are done\) and is given up: --resume"
            " would have gone on with it",
        )
        self.assert_whole()
        self.asked()
        # Nor is there any left.
        run = self.resumed("")
        self.assertNotIn("going on", run.err)
        self.assertNotIn("resumed", run.err)
        self.assertEqual(sum(self.asked().values()), ITEMS)

    def test_nothing_is_unfinished(self):
        run = self.resumed("", "--summary", "summary.json")
        self.assertNotIn("unfinished", run.err)
        self.assertNotIn("resumed", self.records("summary.json")[0])
        self.assert_whole()

    def test_the_pipeline_itself_says_resume(self):
        self.killed("resume = true", die=150)
        self.assertIn("going on with run", self.job("resume = true").err)
        self.assert_whole()

    def test_failed_items_are_done_too(self):
        fields = """
            request = function(id)
              return id % 10 == 0 and "/status/404?id=" .. id or "/echo?id=" .. id
            end
            """
        self.killed(fields, die=150)
        dead = len(self.records("job.dead.jsonl.part"))
        self.assertGreater(dead, 0)
        self.killed(fields, "--resume", die=80)
        self.resumed(fields, "--summary", "summary.json")
        good = [i for i in range(1, ITEMS + 1) if i % 10]
        self.assertEqual(sorted(self.ids()), good)
        letters = self.records("job.dead.jsonl")
        self.assertEqual(
            sorted(letter["item"] for letter in letters), list(range(10, ITEMS + 1, 10))
        )
        (summary,) = self.records("summary.json")
        self.assertEqual(summary["records"]["dead"], ITEMS // 10)
        self.assertEqual(summary["records"]["out"], len(good))
        self.assertEqual(summary["errors"], {"http": ITEMS // 10})

    def test_order_is_kept(self):
        self.killed("ordered = true", die=110)
        self.killed("ordered = true", "--resume", die=60)
        self.resumed("ordered = true")
        self.assertEqual(self.ids(), list(range(1, ITEMS + 1)))

    def test_several_sinks_at_once(self):
        fields = "sink = { 'a.jsonl', 'b.csv', 'c.sqlite', 'd.json.gz' }, ordered = true"
        for args in ((), ("--resume",), ("--resume",)):
            self.killed(fields, *args, die=80)
        self.resumed(fields)
        want = list(range(1, ITEMS + 1))
        self.assertEqual(self.ids("a.jsonl"), want)
        self.assertEqual(self.read("b.csv").split(), ["id"] + [str(i) for i in want])
        with contextlib.closing(sqlite3.connect(self.path("c.sqlite"))) as database:
            self.assertEqual([i for (i,) in database.execute("SELECT id FROM job")], want)
        unpacked = subprocess.check_output(["gzip", "-dc", self.path("d.json.gz")])
        self.assertEqual([record["id"] for record in json.loads(unpacked)], want)

    def test_a_pipeline_that_had_ended_is_not_run_again_with_the_others(self):
        source = """
            local function one(name, count, fields)
              local own = {}
              for key, value in pairs(given) do own[key] = value end
              for key, value in pairs(fields) do own[key] = value end
              own.name, own.sink, own.source = name, name .. ".jsonl", {}
              for i = 1, count do own.source[i] = ids[i] end
              return orc.pipeline(own)
            end
            local function other(id) return { url = "/echo?id=" .. 1000 + id } end
            local function waits(_, _, id)
              if id == 150 and P.wait then orc.sleep "1h" end
              return { id = id }
            end
            return { one("short", 20, { request = other }), one("long", 300, { map = waits }) }
            """
        self.write("jobs.lua", PRELUDE + PIPELINE + source)
        args = ("jobs.lua", f"base={self.server.base}", "mode=append")
        first = self.start(*args, "wait=1")
        self.until(lambda: self.statuses() == {"short": "finished", "long": "running"})
        first.kill()
        first.wait()
        self.asked()
        run = self.orchestrate(*args, "--resume", "--summary", "summary.json")
        self.assertEqual(run.code, 0, run.err)
        self.assertEqual(sorted(self.ids("short.jsonl")), list(range(1, 21)))
        self.assert_whole("long.jsonl")
        self.assertLess(max(self.asked()), 1000)
        short, long = self.records("summary.json")[0]
        self.assertEqual((short["records"]["out"], long["records"]["out"]), (20, ITEMS))
        self.assertIn("short: fetched 20 of 20", run.err)
        self.assertRegex(run.err, r"20 items passed over that were done")
        # Now all have ended: they begin anew.
        run = self.orchestrate(*args, "--resume")
        self.assertEqual(len(self.ids("short.jsonl")), 40)

    def test_several_pipelines_of_a_script(self):
        source = """
            local list = {}
            for i = 1, 3 do
              local one = {}
              for name, value in pairs(given) do one[name] = value end
              one.name, one.sink = "job" .. i, "out" .. i .. ".jsonl"
              list[i] = orc.pipeline(one)
            end
            return list
            """
        self.write("jobs.lua", PRELUDE + PIPELINE + source)
        for args, code in (
            (("die=200",), -9),
            (("--resume", "die=300"), -9),
            (("--resume", "--summary", "summary.json"), 0),
        ):
            run = self.orchestrate("jobs.lua", f"base={self.server.base}", *args)
            self.assertEqual(run.code, code, run.err)
        for i in (1, 2, 3):
            self.assert_whole(f"out{i}.jsonl")
        for summary in self.records("summary.json")[0]:
            self.assertEqual(summary["records"]["out"], ITEMS)


class Sources(Runs):
    def test_that_grew_are_gone_on_with(self):
        self.killed("", "count=200", die=150)
        run = self.resumed("", "count=300")
        self.assertNotIn("changed", run.err)
        self.assert_whole()
        self.assertLessEqual(sum(self.asked().values()), 300 + CONCURRENCY + WINDOW)

    def test_that_changed_are_told(self):
        self.killed("", "count=1300", die=1200)
        self.asked()
        done = self.committed()
        run = self.resumed(
            "request = function(id) return { url = '/echo?id=' .. (id == 3 and 9999 or id) } end",
            "count=1300",
        )
        self.assertIn(
            "the source has changed since: it is another one after item 0, before which it is "
            "the same; the items done are looked up one by one",
            run.err,
        )
        self.assertIn("1 item done before is not in the source any more", run.err)
        asked = self.asked()
        self.assertEqual(sum(asked.values()), 1300 - done + 1)
        self.assertEqual(asked[9999], 1)
        # 3 is there twice: as what it was, and as what it is.
        self.assertEqual(sorted(self.ids()), sorted([*range(1, 1301), 3]))

    def test_that_grow_at_their_front_are_told_too(self):
        fields = """source = (function()
              local list = {}
              for i = tonumber(P.new), 1, -1 do list[#list + 1] = 1500 + i end
              for i = 1, 1500 do list[#list + 1] = i end
              return list
            end)()"""
        self.killed(fields, "new=0", die=950)
        run = self.killed(fields, "new=500", "--resume", die=750)
        self.assertIn("the source has changed since: it is another one after item 0,", run.err)
        run = self.resumed(fields, "new=500")
        self.assertNotIn("the source has changed", run.err)
        self.assert_whole(count=2000)

    def test_that_are_in_another_order_are_looked_up(self):
        self.killed("", "count=1200", die=1100)
        self.asked()
        done = self.committed()
        self.resumed("source = (function() table.sort(ids, function(a, b) return a > b end) "
                     "return ids end)()", "count=1200")  # fmt: skip
        self.assertEqual(sum(self.asked().values()), 1200 - done)
        self.assert_whole(count=1200)

    def test_that_have_an_item_more_than_once_keep_it_so(self):
        fields = """source = (function()
              local list = {}
              for i = 1, 300 do list[i] = i % 7 end
              return list
            end)()"""
        for args in ((), ("--resume",)):
            self.killed(fields, *args, die=120)
        self.resumed(fields)
        self.assertEqual(sorted(self.ids()), sorted(i % 7 for i in range(1, 301)))

    def test_a_key_tells_items_apart(self):
        fields = """
            request = function(id) return { url = "/echo?id=" .. id .. "&token=" .. P.token } end,
            """
        for key in ("", "key = function(id) return id end"):
            with self.subTest(key):
                self.killed(fields + key, "token=a", die=250)
                done = self.committed()
                self.asked()
                self.resumed(fields + key, "token=b")
                left = ITEMS - done if key else ITEMS
                self.assertEqual(sum(self.asked().values()), left)
                os.remove(self.path("out.jsonl"))
        run = self.job("key = function() return {} end", code=1)
        self.assertIn(
            "key must return a text or a number that tells items apart, got a table", run.err
        )

    def test_what_is_sent_tells_items_apart(self):
        fields = """
            request = function(id)
              return { url = "/echo?id=0", method = "POST", json = { id = id } }
            end
            """
        for args in ((), ("--resume",)):
            self.killed(fields, *args, die=120)
        self.resumed(fields)
        self.assert_whole()

    def test_lines_that_cannot_be_read_are_done_too(self):
        self.write("ids.csv", b"id,name\n" + b"".join(
            b"%d,%s\n" % (i, b"\xff" if i % 50 == 0 else b"x") for i in range(1, ITEMS + 1)
        ))  # fmt: skip
        fields = """
            source = orc.source.csv "ids.csv", key = function(row) return row.id end,
            request = function(row) return { url = "/echo?id=" .. row.id } end,
            map = function(_, _, row)
              dies()
              return { id = tonumber(row.id) }
            end,
            """
        self.killed(fields, die=200)
        self.resumed(fields, "--summary", "summary.json")
        self.assertEqual(sorted(self.ids()), [i for i in range(1, ITEMS + 1) if i % 50])
        self.assertEqual(len(self.records("job.dead.jsonl")), ITEMS // 50)
        self.assertEqual(self.records("summary.json")[0]["records"]["dead"], ITEMS // 50)


class Stopped(Runs):
    def test_by_a_failure_that_is_mended(self):
        fields = """
            on_error = "fail", ordered = true,
            request = function(id)
              return { url = "/echo?id=" .. id .. (id == 200 and P.bad or "") }
            end,
            key = function(id) return id end
            """
        self.write("out.jsonl", "old\n")
        run = self.job(fields, "bad=&fail=-1", "--summary", "summary.json", code=1)
        (summary,) = self.records("summary.json")
        self.assertRegex(run.err, r"run \S+ goes on with --resume")
        self.assertIs(summary["resumable"], True)
        self.assertEqual(self.read("out.jsonl"), "old\n")
        # What was through is committed.
        done = self.ids("out.jsonl.part")
        self.assertIn(len(done), range(1, 200))
        self.assertEqual(done, list(range(1, len(done) + 1)))
        self.assertEqual(summary["records"]["out"], len(done))
        self.assertIn(f"out.jsonl is as it was; {len(done)} records wait for --resume", run.err)
        self.asked()
        self.resumed(fields, "bad=", "--summary", "summary.json")
        self.assertEqual(self.ids(), list(range(1, ITEMS + 1)))
        self.assertEqual(sum(self.asked().values()), ITEMS - len(done))
        (summary,) = self.records("summary.json")
        self.assertEqual(summary["records"]["out"], ITEMS)
        self.assertNotIn("resumable", summary)

    def test_by_a_bug_that_is_mended(self):
        fields = "map = function(_, _, id) if id == 150 and P.bug then error 'a bug' end "
        fields += "return { id = id } end"
        run = self.job(fields, "bug=1", code=1)
        self.assertIn("a bug", run.err)
        self.resumed(fields)
        self.assert_whole()

    def test_by_signals(self):
        fields = """
            request = function(id)
              return { url = "/echo?id=" .. id .. (P.slow and id > 100 and "&delay=60000" or "") }
            end,
            key = function(id) return id end
            """
        for signum, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            with self.subTest(signum):
                process = self.begin(fields, "slow=1", "--summary", "summary.json")
                while self.server.ledger()["total"] < 100 + CONCURRENCY:
                    time.sleep(0.01)
                process.send_signal(signum)
                run = self.finish(process)
                self.assertEqual(run.code, code)
                self.assertRegex(run.err, r"job: interrupted after .*\n.*goes on with --resume")
                self.assertNotIn("error", run.err)
                # What was through is committed.
                self.assertEqual(sorted(self.ids("out.jsonl.part")), list(range(1, 101)))
                (summary,) = self.records("summary.json")
                self.assertEqual(
                    (summary["interrupted"], summary["resumable"], summary["records"]["out"]),
                    (True, True, 100),
                )
                self.asked()
                run = self.resumed(fields)
                self.assertIn("100 items passed over that were done", run.err)
                self.assertEqual(sum(self.asked().values()), ITEMS - 100)
                self.assert_whole()

    def test_twice_at_once(self):
        fields = "request = function(id) return { url = '/echo?delay=60000&id=' .. id } end"
        process = self.begin(fields)
        while self.server.ledger()["total"] < CONCURRENCY:
            time.sleep(0.01)
        for _ in range(2):
            process.send_signal(signal.SIGINT)
        self.assertIn(self.finish(process).code, (130, -signal.SIGINT))
        self.resumed("")
        self.assert_whole()

    def test_without_a_journal_there_is_no_going_on(self):
        run = self.killed("journal = false", die=200)
        self.assertFalse(os.path.exists(self.path(".orchestrator")))
        run = self.resumed("journal = false")
        self.assertNotIn("going on", run.err)
        self.assert_whole()
        self.assertFalse(os.path.exists(self.path(".orchestrator")))
        run = self.job("journal = false, resume = true", code=2)
        self.assertIn('"resume" needs the journal, which "journal" = false leaves out', run.err)

    def test_a_sample_leaves_no_state(self):
        run = self.job("", "--sample", "5")
        self.assertEqual(len(run.values), 5)
        self.assertEqual(self.files(state=True), [])
        # Nor does it touch the state that is there.
        self.killed("", die=200)
        done = self.committed()
        self.job("", "--sample", "5", "--resume")
        self.assertEqual(self.committed(), done)
        self.resumed("")
        self.assert_whole()
