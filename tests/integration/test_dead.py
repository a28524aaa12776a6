"""Dead letters and --retry-dead, end to end: each there once, whatever happens to the run."""

import json
import os
import re
import sqlite3
import threading
import unittest

from postgres import Postgres
from program import PRELUDE, Case
from servers import RawServer, answer_json

ITEMS = 150


class Dead(Case):
    """A server whose items fail by `down`, {number: status}."""

    def setUp(self):
        super().setUp()
        self.down = {}
        self.held = threading.Event()  # set when /hold is asked for
        self.server = self.enterContext(RawServer())
        for i in range(1, ITEMS + 1):
            self.server.routes[f"/{i}"] = self.item(i)

    def item(self, number):
        def route(connection, _request):
            status = self.down.get(number)
            if status == "hold":
                self.held.set()
                connection.wait_closed()
                return None
            if status:
                return answer_json(f'{{"why":"{number} is down"}}', status=f"{status} No")
            return answer_json(json.dumps([{"id": number}]))

        return route

    def files(self):
        return [name for name in super().files() if not name.startswith(".orchestrator/")]

    def fields(self, n, more):
        source = "source = { " + ", ".join(f"'/{i}'" for i in range(1, n + 1)) + " }, "
        client = "client = { base_url = P.base, retry = { attempts = 2, wait_initial = 0 } }, "
        sink = "" if "sink =" in more else "sink = 'out/x.jsonl', "
        return client + ("" if "source =" in more else source) + sink + more

    def job(self, n, more, *args, **options):
        return self.pipeline(
            self.fields(n, more), f"base={self.server.base}", *args, name="job.lua", **options
        )

    def retry(self, *args, **options):
        """Runs the same script with --retry-dead."""
        code = options.pop("code", 0)
        run = self.orchestrate("job.lua", f"base={self.server.base}", "--retry-dead", *args,
                               **options)  # fmt: skip
        self.assertEqual(run.code, code, run.err)
        return run

    def ids(self, name="out/x.jsonl"):
        return sorted(record["id"] for record in self.records(name))

    def dead(self, name="out/job.dead.jsonl"):
        return sorted(self.records(name), key=lambda one: str(one["item"]))


class Letters(Dead):
    def test_what_a_letter_says(self):
        self.down = {2: 404, 3: 503}
        run = self.job(
            4, "request = function(item) return { url = item, query = { q = 1 } } end"
        )
        self.assertEqual(self.ids(), [1, 4])
        gone, busy = self.dead()
        at, run_id = gone.pop("at"), gone.pop("run_id")
        self.assertRegex(at, r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
        self.assertEqual(run_id, busy["run_id"])
        self.assertEqual(
            gone,
            {
                "item": "/2", "position": "item 2", "pipeline": "job", "attempts": 1,
                "url": self.server.base + "/2?q=1",
                "request": {"method": "GET", "url": "/2", "query": {"q": 1}},
                "error": {"kind": "http", "message": "status 404", "status": 404},
                "excerpt": '{"why":"2 is down"}',
            },
        )  # fmt: skip
        self.assertEqual((busy["item"], busy["attempts"]), ("/3", 2))
        self.assertIn("2 items kept in out/job.dead.jsonl", run.err)

    def test_where_they_go(self):
        self.down = {2: 404}
        self.job(2, "dead_letters = 'else/where.jsonl'")
        self.assertEqual(len(self.records("else/where.jsonl")), 1)
        self.assertEqual(self.files(), ["else/where.jsonl", "out/x.jsonl"])
        self.job(2, "dead_letters = 'dead.csv', name = 'other'")
        header, line = self.read("dead.csv").splitlines()
        self.assertEqual(
            sorted(header.split(",")),
            ["at", "attempts", "error", "excerpt", "final", "item", "pipeline", "position",
             "record", "request", "run_id", "url"],
        )  # fmt: skip
        self.assertIn('"{""kind"":""http""', line)

    def test_in_a_table(self):
        self.down = {2: 404, 5: 404}
        run = self.job(6, "dead_letters = 'state.sqlite'")
        self.assertRegex(run.err, "2 items kept in state.sqlite, table job_dead")
        with sqlite3.connect(self.path("state.sqlite")) as db:
            rows = db.execute("SELECT item, position, error FROM job_dead ORDER BY item").fetchall()
        db.close()
        self.assertEqual([row[:2] for row in rows], [("/2", "item 2"), ("/5", "item 5")])
        self.assertEqual(json.loads(rows[0][2])["status"], 404)

    def test_beside_the_records_in_one_database(self):
        self.down = {2: 404, 5: 404}
        fields = "sink = { 'x.sqlite', table = 'items' }, dead_letters = 'x.sqlite'"
        self.job(6, fields)
        with sqlite3.connect(self.path("x.sqlite")) as db:
            self.assertEqual(
                [row[0] for row in db.execute("SELECT id FROM items ORDER BY id")], [1, 3, 4, 6]
            )
            self.assertEqual(
                [row[0] for row in db.execute("SELECT item FROM job_dead ORDER BY 1")], ["/2", "/5"]
            )
        db.close()

    def test_misuse(self):
        for given, message in (
            ("'-'", "must be a file or a table"),
            ("'out/x.jsonl'", '"out/x.jsonl" is one of the sinks of the records'),
            ("'x.txt'", "no known format"),
            ("7", "must be"),
        ):
            run = self.job(1, "dead_letters = " + given, code=2)
            self.assertIn(message, run.err)
            self.assertIn("dead_letters", run.err)

    def test_each_once_in_a_run_that_was_killed(self):
        for mode in ("replace", "append"):
            with self.subTest(mode):
                self.down = {i: 404 for i in range(2, ITEMS, 3)}
                expected = sorted(f"/{i}" for i in self.down)
                self.down[ITEMS] = "hold"
                self.held.clear()
                fields = f"name = '{mode}', mode = '{mode}', sink = 'out/{mode}.jsonl'"
                script = f"return orc.pipeline {{ {self.fields(ITEMS, fields)} }}"
                self.write("job.lua", PRELUDE + script)
                arguments = ("job.lua", f"base={self.server.base}", "--resume")
                process = self.start(*arguments)
                self.assertTrue(self.held.wait(30))
                process.kill()
                process.wait()
                dead = f"out/{mode}.dead.jsonl"
                del self.down[ITEMS]
                # A letter that was written and not journaled: what a kill leaves there.
                torn = dead + ".part" if mode == "replace" else dead
                if os.path.exists(self.path(torn)):
                    with open(self.path(torn), "a", encoding="ascii") as file:
                        file.write('{"item":"/1","attempts":1}\n{"ite')
                self.assertEqual(self.orchestrate(*arguments).code, 0)
                self.assertEqual([one["item"] for one in self.dead(dead)], expected)
                self.assertFalse(os.path.exists(self.path(dead + ".part")))
                good = [i for i in range(1, ITEMS + 1) if f"/{i}" not in expected]
                self.assertEqual(self.ids(f"out/{mode}.jsonl"), good)


class Retry(Dead):
    def test_what_succeeds_is_removed_and_the_rest_kept(self):
        self.down = {2: 404, 4: 503, 5: 404}
        self.job(6, "map = function(r, _, item) r.from = item return r end")
        self.assertEqual(self.ids(), [1, 3, 6])
        self.down = {4: 503}
        self.server.forget()
        run = self.retry("--summary", "summary.json")
        self.assertEqual(self.ids(), [1, 2, 3, 5, 6])
        self.assertEqual(self.records("out/x.jsonl")[-1]["from"][0], "/")
        self.assertEqual(sorted(set(self.server.targets())), ["/2", "/4", "/5"])
        (letter,) = self.dead()
        self.assertEqual((letter["item"], letter["position"]), ("/4", "item 4"))
        self.assertEqual(letter["attempts"], 4)
        summary = json.loads(self.read("summary.json"))
        self.assertEqual(summary["records"]["out"], 2)
        self.assertEqual(summary["records"]["dead"], 1)
        self.assertRegex(run.err, "1 item kept in out/job.dead.jsonl")

        self.down = {}
        self.retry()
        self.assertEqual(self.ids(), [1, 2, 3, 4, 5, 6])
        self.assertEqual(self.files(), ["out/x.jsonl", "summary.json"])
        run = self.retry("--summary", "summary.json")
        self.assertIn("job: there are no dead letters in out/job.dead.jsonl", run.err)
        self.assertEqual(json.loads(self.read("summary.json"))["records"]["in"], 0)

    def test_all_that_fail_again(self):
        self.down = {2: 404, 4: 503}
        self.job(5, "")
        self.retry(code=1)
        self.assertEqual([one["attempts"] for one in self.dead()], [2, 4])
        self.assertEqual(self.ids(), [1, 3, 5])

    def test_letters_of_several_runs(self):
        self.down = {1: 404}
        self.job(2, "mode = 'append'")
        self.down = {2: 404}
        self.job(2, "mode = 'append'")
        self.assertEqual([one["item"] for one in self.dead()], ["/1", "/2"])
        self.down = {}
        self.retry()
        self.assertEqual(self.ids(), [1, 1, 2, 2])
        self.assertEqual(self.files(), ["out/x.jsonl"])

    def test_a_bad_record_is_judged_again_without_a_request(self):
        bad = "validate = function(r) return r.id ~= 2 and r.id ~= 3, 'not ' .. r.id end, "
        self.job(4, bad + "map = function(r) r.mapped = (r.mapped or 0) + 1 return r end")
        self.assertEqual([one["record"]["id"] for one in self.dead()], [2, 3])
        self.server.forget()
        self.write("job.lua", self.read("job.lua").replace("r.id ~= 2 and", ""))
        self.retry()
        self.assertEqual(self.server.requests, [])
        self.assertEqual(self.ids(), [1, 2, 4])
        self.assertEqual([one["mapped"] for one in self.records("out/x.jsonl")], [1, 1, 1])
        (letter,) = self.dead()
        self.assertEqual((letter["record"]["id"], letter["attempts"]), (3, 1))
        self.assertEqual(letter["error"]["message"], "not 3")

    def test_what_cannot_be_tried_again_is_said_and_kept(self):
        self.down = {2: 404, 3: 404}
        self.job(
            3,
            "source = { '/1', { url = '/2', t = orc.secret.value 'sesame' }, { url = '/3' } }",
        )
        before = next(one for one in self.records("out/job.dead.jsonl") if "final" in one)
        self.assertEqual(before["item"], {"t": "***", "url": "/2"})
        foreign = {"pipeline": "other", "item": "/1", "error": {"kind": "http"}, "position": "?"}
        with open(self.path("out/job.dead.jsonl"), "a", encoding="ascii") as file:
            file.write(json.dumps(foreign) + "\n")
        self.down = {}
        self.server.forget()
        run = self.retry()
        self.assertEqual(self.server.targets(), ["/3"])
        self.assertEqual(self.ids(), [1, 3])
        self.assertCountEqual(self.records("out/job.dead.jsonl"), [foreign, before])
        self.assertIn("it cannot be tried again: its item is not here as it was", run.err)
        self.assertIn("it is another pipeline's", run.err)

    def test_a_table_that_is_merged_into(self):
        self.down = {2: 404, 3: 404}
        self.job(4, "sink = { 'x.sqlite', table = 'items', primary_key = 'id' }")
        self.down = {3: 404}
        self.retry()
        with sqlite3.connect(self.path("x.sqlite")) as db:
            self.assertEqual(
                [row[0] for row in db.execute("SELECT id FROM items ORDER BY id")], [1, 2, 4]
            )
        db.close()
        self.assertEqual([one["item"] for one in self.dead("job.dead.jsonl")], ["/3"])

    def test_pipelines_of_one_script(self):
        self.down = {1: 404, 2: 404}
        self.write(
            "job.lua",
            PRELUDE + "local function job(name, path) return orc.pipeline { name = name,"
            " client = { base_url = P.base }, source = { path, '/3' }, sink = name .. '.jsonl' } end"
            " return { job('one', '/1'), job('two', '/2') }",
        )
        self.assertEqual(self.orchestrate("job.lua", f"base={self.server.base}").code, 0)
        self.assertEqual([one["item"] for one in self.dead("one.dead.jsonl")], ["/1"])
        self.assertEqual([one["item"] for one in self.dead("two.dead.jsonl")], ["/2"])
        self.down = {2: 404}
        self.retry(code=1)  # all letters of the second one fail again
        self.assertEqual((self.ids("one.jsonl"), self.ids("two.jsonl")), ([1, 3], [3]))
        self.assertEqual(self.files(), ["one.jsonl", "two.dead.jsonl", "two.jsonl"])

    def test_letters_in_a_table(self):
        def letters():
            with sqlite3.connect(self.path("d.sqlite")) as db:
                rows = db.execute("SELECT item, attempts FROM job_dead ORDER BY item").fetchall()
            db.close()
            return rows

        self.down = {2: 404, 3: 404}
        self.job(4, "source = { '/1', '/2', { url = '/3' }, '/4' }, dead_letters = 'd.sqlite'")
        self.down = {3: 404}
        self.retry()
        self.assertEqual(self.ids(), [1, 2, 4])
        self.assertEqual(letters(), [('{"url":"/3"}', 2)])
        self.down = {}
        self.retry()
        self.assertEqual(self.ids(), [1, 2, 3, 4])
        self.assertEqual(letters(), [])
        self.retry()
        self.assertEqual(self.ids(), [1, 2, 3, 4])
        with sqlite3.connect(self.path("d.sqlite")) as db:
            db.execute("DROP TABLE job_dead")
        db.close()
        self.retry()
        os.remove(self.path("d.sqlite"))
        self.retry()
        with sqlite3.connect(self.path("d.sqlite")) as db:
            db.execute("DROP TABLE IF EXISTS job_dead")
            db.execute("CREATE TABLE job_dead(x)")
        db.close()
        self.assertIn('the table "job_dead" has no column "letter"', self.retry(code=1).err)

    def test_letters_in_a_database(self):
        with Postgres() as postgres:
            postgres.create("letters")
            url = postgres.url("letters")
            self.down = {2: 404, 3: 404, 4: 404}
            # Neither text nor jsonb has a NUL byte in PostgreSQL.
            self.job(
                4,
                "source = { '/1', { url = '/2', note = 'a\\0b' }, '/3', '/4' },"
                " request = function(item) return type(item) == 'table' and item.url or item end,"
                " validate = function(r) return r.id ~= 1, 'one' end,"
                f" sink = {{ '{url}', table = 'records' }}, dead_letters = '{url}'",
                code=1,
            )
            self.assertEqual(self.dead_rows(postgres), ["item 1", "item 2", "item 3", "item 4"])
            self.down = {4: 404}
            self.server.forget()
            self.retry()
            self.assertEqual(sorted(self.server.targets()), ["/2", "/3", "/4"])
            ids = postgres.query("SELECT id FROM records ORDER BY id", "letters")
            self.assertEqual(ids, ["2", "3"])
            self.assertEqual(self.dead_rows(postgres), ["item 1", "item 4"])

    @staticmethod
    def dead_rows(postgres):
        return postgres.query("SELECT position FROM job_dead ORDER BY position", "letters")

    def test_what_is_final_is_not_asked_for(self):
        source = "source = { '/1', '/2', { url = '/3', key = orc.secret.value('s3cret-key') } }, "
        self.down = {2: 404, 3: 404}
        self.job(3, source + "request = function(item) io.stderr:write('<', "
                 "type(item) == 'table' and item.key and 'secret' or tostring(item), '>')"
                 " return type(item) == 'table' and item.url or item end")
        self.down = {}
        run = self.retry()
        self.assertIn("</2>", run.err)
        self.assertNotIn("<secret>", run.err)
        (letter,) = self.records("out/job.dead.jsonl")
        self.assertIn("masked", letter["final"])

    def test_what_fails_again_is_kept_whatever_on_error_says(self):
        self.down = {2: 404, 3: 404}
        self.job(3, "on_error = P.on_error")
        self.down = {3: 404}
        self.retry("on_error=skip")
        self.assertEqual([one["item"] for one in self.records("out/job.dead.jsonl")], ["/3"])

    def test_thresholds_are_for_whole_runs(self):
        self.down = {2: 404}
        self.job(3, "thresholds = { records = 'count>=2' }")
        self.down = {}
        self.retry()

    def test_what_is_no_letter_ends_it_before_anything_is_lost(self):
        self.down = {2: 404, 3: 404}
        self.job(3, "")
        text = self.read("out/job.dead.jsonl")
        for line in ('{"id":1}', '{"ite', "[]"):
            self.write("out/job.dead.jsonl", text + line + "\n")
            run = self.retry(code=1)
            self.assertIn("out/job.dead.jsonl:3 is no dead letter", run.err)
            self.assertEqual(self.read("out/job.dead.jsonl"), text + line + "\n")
        self.write("out/job.dead.jsonl", text)
        self.down = {}
        self.retry()
        self.assertEqual(self.ids(), [1, 2, 3])

    def test_where_they_cannot_be_read(self):
        for target, message in (
            ("d.csv", "reads .jsonl files and tables, and the dead letters of \"job\" are in d.csv"),
            ("d.jsonl.gz", "are in d.jsonl.gz"),
            ("{date}.jsonl", "cannot tell where"),
        ):
            self.job(1, f"dead_letters = '{target}'")
            self.assertIn(message, self.retry(code=2).err)
        self.assertIn("--sample", self.retry("--sample", "1", code=2).err)

    def test_beside_unfinished_runs(self):
        self.down = {2: 404, 3: "hold"}
        for mode in ("append", "replace"):
            with self.subTest(mode):
                name = f"name = '{mode}', mode = '{mode}', sink = 'out/{mode}.jsonl'"
                arguments = ("job.lua", f"base={self.server.base}")

                def killed(*more, arguments=arguments):
                    self.held.clear()
                    process = self.start(*arguments, *more)
                    self.assertTrue(self.held.wait(30))
                    process.kill()
                    process.wait()

                def run(*more, code=0, arguments=arguments):
                    run = self.orchestrate(*arguments, *more)
                    self.assertEqual(run.code, code, run.err)
                    return run

                script = f"return orc.pipeline {{ {self.fields(4, name)} }}"
                self.write("job.lua", PRELUDE + script)
                self.down = {2: 404, 3: "hold"}
                killed()
                self.assertIn("go on with it by --resume first", run("--retry-dead", code=1).err)
                self.down = {2: 404, 3: 404}
                run("--resume")
                self.down = {2: 404, 3: "hold"}
                killed("--retry-dead")
                self.down = {}
                if mode == "append":
                    for option in ((), ("--resume",)):
                        self.assertIn("go on with it by --retry-dead first", run(*option, code=1).err)
                    run("--retry-dead")
                    self.assertEqual(self.ids("out/append.jsonl"), [1, 2, 3, 4])
                else:
                    self.assertIn("--retry-dead would have gone on with it", run().err)
                    self.assertIn("there are no dead letters", run("--retry-dead").err)
                    self.assertEqual(self.ids("out/replace.jsonl"), [1, 2, 3, 4])

    def test_killed_at_any_time_and_run_again(self):
        # Letters of which a third fails again, with kills while the last ones are held.
        self.down = {i: 404 for i in range(1, ITEMS + 1) if i % 5}
        self.job(ITEMS, "client = { base_url = P.base, concurrency = 20, retry = false }")
        self.assertEqual(len(self.dead()), ITEMS * 4 // 5)
        failing = {i: 404 for i in range(1, ITEMS + 1) if i % 5 == 1}
        arguments = ("job.lua", f"base={self.server.base}", "--retry-dead")
        for last in (32, 97, 148):
            self.down = {**failing, last: "hold"}
            self.held.clear()
            process = self.start(*arguments)
            self.assertTrue(self.held.wait(30))
            process.kill()
            process.wait()
            self.assertEqual(len(self.dead()), ITEMS * 4 // 5)  # nothing is removed yet
        self.down = failing
        run = self.retry()
        self.assertTrue(re.search(r"going on with run|resumed", run.err), run.err)
        self.assertEqual(self.ids(), [i for i in range(1, ITEMS + 1) if i not in failing])
        self.assertEqual(
            [one["item"] for one in self.dead()], sorted(f"/{i}" for i in failing)
        )
        self.assertEqual({one["attempts"] for one in self.dead()}, {2})
        self.down = {}
        self.retry()
        self.assertEqual(self.ids(), list(range(1, ITEMS + 1)))
        self.assertEqual(self.files(), ["out/x.jsonl"])


if __name__ == "__main__":
    unittest.main()
