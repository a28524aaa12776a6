"""Tables: records in SQLite and PostgreSQL, each of them once, whatever happens meanwhile."""

import contextlib
import fcntl
import json
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import threading
import time
import unittest

from postgres import PASSWORD, Postgres
from program import PRELUDE, Case
from servers import PATIENCE, RawServer, answer_json

COUNT = 300  # items of a long run, a record each


class Tables(Case):
    def setUp(self):
        super().setUp()
        self.server = self.enterContext(RawServer({"/many": self.many}))
        self.slow = 0  # seconds, for each answer

    def many(self, connection, request):
        if self.slow and not connection.wait(self.slow):
            return None
        number = int(request.target.partition("=")[2])
        return answer_json(json.dumps({"id": number, "name": f"n{number}", "half": number / 2}))

    def serve(self, *records):
        """An answer for each of them, a list; the items that ask for them."""
        paths = []
        for number, text in enumerate(records):
            path = f"/given{number}"
            text = text if isinstance(text, str) else json.dumps(text)
            self.server.routes[path] = answer_json(text)
            paths.append(f"'{path}'")
        return "{" + ", ".join(paths) + "}"

    def job(self, source, sink, *args, more="", name="job.lua", **options):
        """Runs a pipeline called `job` over paths of the server, one after another."""
        fields = (f"client = {{ base_url = P.base, concurrency = 1, retry = false }}, "
                  f"ordered = true, source = {source}, sink = {sink}, {more}")
        return self.pipeline(fields, f"base={self.server.base}", *args, name=name, **options)

    @staticmethod
    def long_script(sink, more):
        return PRELUDE + f"""local source = {{}}
            for i = 1, {COUNT} do source[i] = '/many?id=' .. i end
            return orc.pipeline {{ name = 'long', source = source, sink = {sink}, {more}
              client = {{ base_url = P.base, concurrency = 8 }} }}"""

    def long(self, sink, *args, more="", **options):
        """Runs the pipeline of COUNT items."""
        more += "," if more else ""
        return self.script(self.long_script(sink, more), f"base={self.server.base}", *args,
                           name="long.lua", **options)

    def start_long(self, sink, more=""):
        self.write("long.lua", self.long_script(sink, more + "," if more else ""))
        return self.start("long.lua", f"base={self.server.base}")


class Sqlite(Tables):
    def query(self, sql, path="out.sqlite"):
        database = sqlite3.connect(self.path(path))
        try:
            return database.execute(sql).fetchall()
        finally:
            database.close()

    def assert_whole(self, path="out.sqlite", table="long"):
        self.assertEqual(self.query(f"SELECT id, name, half FROM {table} ORDER BY id", path),
                         [(i, f"n{i}", i / 2) for i in range(1, COUNT + 1)])
        self.assertEqual(self.query("PRAGMA integrity_check", path), [("ok",)])

    def test_columns_come_from_the_records(self):
        source = self.serve([{"id": 1, "ok": True}, {"id": 2, "tags": ["a"], "none": None}],
                            {"id": 9007199254740993, "price": 1.5})
        self.job(source, "'out.sqlite'")
        self.assertEqual(self.query("SELECT * FROM job"),
                         [("1", 1, None, None), ("2", None, '["a"]', None),
                          ("9007199254740993", None, None, 1.5)])
        self.assertEqual(
            self.query("SELECT name, type FROM pragma_table_info('job')"),
            [("id", "TEXT"), ("ok", "BOOLEAN"), ("tags", "TEXT"), ("price", "REAL")])
        self.assertEqual([name for name in self.files() if "orchestrator" not in name],
                         ["out.sqlite"])

    def test_options_of_a_table(self):
        sink = "{ 'dir/{name}.db', table = 't', mode = 'merge', primary_key = 'id' }"
        self.job(self.serve([{"id": 1, "v": 1}, {"id": 1, "v": 2}]), sink)
        self.job(self.serve([{"id": 2, "v": 3}]), sink)
        self.assertEqual(self.query("SELECT id, v FROM t", "dir/job.db"), [(1, 2), (2, 3)])
        run = self.job("{ '/x' }", "{ 'x.db', tabel = 't' }", code=2)
        self.assertIn('unknown option "tabel" (did you mean "table"?)', run.err)
        run = self.job("{ '/x' }", "'x.db'", code=2, more="mode = 'merge'")
        self.assertIn('"primary_key" must say what tells rows apart', run.err)
        run = self.job("{ '/x' }", "'x.jsonl'", code=2, more="mode = 'merge'")
        self.assertIn('"mode" is "merge", which files do not have', run.err)
        run = self.job("{ '/x' }", "{ 'x.db', primary_key = 'id' }", code=2, more="mode = 'append'")
        self.assertIn('"primary_key" is for the modes "merge" and "replace"', run.err)

    def test_modes(self):
        for mode, rows in (("append", [(1,), (2,), (2,)]), ("replace", [(2,)])):
            path = f"{mode}.sqlite"
            for given in ([{"id": 1}, {"id": 2}], [{"id": 2}]):
                self.job(self.serve(given), f"'{path}'", more=f"mode = '{mode}'")
            self.assertEqual(self.query("SELECT id FROM job", path), rows)

    def test_bad_records_are_dead_letters_and_the_others_are_written(self):
        source = self.serve('[{"id":1},{"v":2},{"id":3,"v":"x\\u0000y"},7]')
        self.job(source, "{ 'out.sqlite', mode = 'merge', primary_key = 'id' }")
        self.assertEqual(self.query("SELECT id, v FROM job"), [(1, None), (3, "x\0y")])
        reasons = [letter["error"]["message"] for letter in self.records("job.dead.jsonl")]
        self.assertEqual(len(reasons), 2)
        self.assertIn('the key "id" is missing', reasons[0])
        self.assertIn("the record is a number", reasons[1])

    def test_a_frozen_schema_fails_the_run(self):
        self.job(self.serve([{"id": 1}]), "'out.sqlite'", more="mode = 'append'")
        run = self.job(self.serve([{"id": 2, "new": 1}]), "'out.sqlite'", code=1,
                       more="mode = 'append', schema = { contract = 'freeze' }")
        self.assertIn('the table "job" has no column "new"', run.err)
        self.assertEqual(self.query("SELECT * FROM job"), [(1,)])

    def test_readers_see_the_old_rows_until_all_the_new_ones_are_there(self):
        self.job(self.serve([{"id": 1}]), "'out.sqlite'")
        reader = sqlite3.connect(self.path("out.sqlite"), isolation_level=None)
        self.addCleanup(reader.close)
        reader.execute("PRAGMA journal_mode=WAL")
        reader.execute("BEGIN")
        self.assertEqual(reader.execute("SELECT id FROM job").fetchall(), [(1,)])
        self.job(self.serve([{"id": 2}], [{"id": 3}]), "'out.sqlite'")
        self.assertEqual(reader.execute("SELECT id FROM job").fetchall(), [(1,)])
        reader.execute("COMMIT")
        self.assertEqual(reader.execute("SELECT id FROM job").fetchall(), [(2,), (3,)])

    def test_killed_and_gone_on_with(self):
        for mode in ("replace", "append"):
            sink = f"'{mode}.sqlite'"
            self.slow = 0.005
            process = self.start_long(sink, more=f"mode = '{mode}'")
            asked = len(self.server.requests) + COUNT / 2
            self.server.until(lambda asked=asked: len(self.server.requests) >= asked)
            process.kill()
            process.wait()
            self.slow = 0
            self.long(sink, "--resume", more=f"mode = '{mode}'")
            self.assert_whole(f"{mode}.sqlite")

    def test_another_writer_is_waited_for(self):
        self.job(self.serve([{"id": 1}]), "'out.sqlite'", more="mode = 'append'")
        other = sqlite3.connect(self.path("out.sqlite"), isolation_level=None,
                                check_same_thread=False)
        self.addCleanup(other.close)
        other.execute("PRAGMA journal_mode=WAL")
        other.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(1, other.execute, ["COMMIT"])
        timer.start()
        began = time.monotonic()
        self.job(self.serve([{"id": 2}]), "'out.sqlite'", more="mode = 'append'")
        timer.join()
        self.assertGreater(time.monotonic() - began, 0.7)
        self.assertEqual(self.query("SELECT id FROM job"), [(1,), (2,)])

    def test_a_table_has_one_run_at_a_time(self):
        self.slow = 0.01
        files = "{ '%s.jsonl', 'out.sqlite' }"
        first = self.start_long(files % "a")
        self.server.until(lambda: len(self.server.requests) >= 100)
        other = self.job("{ '/many?id=1' }", files % "b", "--state-dir", "other",
                         more="name = 'long'", code=None)
        self.assertRegex(other.err, r'another run is writing to the table "long": process '
                         rf"{first.pid} since .* UTC; wait for it")
        named = self.job("{ '/many?id=1' }", "{ 'out.sqlite', table = 'Long' }", code=None)
        self.assertIn('another run is writing to the table "Long"', named.err)
        self.assertEqual((other.code, named.code), (1, 1))
        self.job("{ '/many?id=1' }", "'out.sqlite'")  # another table
        self.slow = 0
        self.assertEqual(self.finish(first).code, 0)
        self.assert_whole()
        self.assertEqual([name for name in self.files() if "sqlite-" in name], [])

    def test_a_table_is_not_taken_over_when_a_file_is_refused(self):
        self.job("{ '/many?id=1' }", "{ 'a.jsonl', 'out.sqlite' }")
        with open(self.path("a.jsonl.part"), "wb") as part:
            fcntl.flock(part, fcntl.LOCK_EX)
            run = self.job("{ '/many?id=2' }", "{ 'a.jsonl', 'out.sqlite' }", "--state-dir",
                           "other", code=None)
        self.assertIn("another run is writing it", run.err)
        self.assertEqual(self.query("SELECT state FROM _orchestrator"), [("finished",)])

    def test_how_a_table_is_named(self):
        run = self.job("{ '/many?id=1', '/gone' }", "'out.sqlite'", more="dead_letters = 'out.db',")
        self.assertRegex(run.err, r"  output +1 record to out\.sqlite, table job\n")
        self.assertRegex(run.err, r"  dead +1 item kept in out\.db, table job_dead\n")

    def test_a_full_disk_is_told_and_the_run_gone_on_with(self):
        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (60000, resource.RLIM_INFINITY))

        run = self.long("'out.sqlite'", code=1, preexec_fn=limit)
        self.assertRegex(run.err, r"out\.sqlite: .*--resume")
        self.long("'out.sqlite'", "--resume")
        self.assert_whole()

    def test_a_file_that_is_gone_is_no_new_start(self):
        self.slow = 0.005
        process = self.start_long("'out.sqlite'")
        self.server.until(lambda: len(self.server.requests) >= COUNT / 2)
        process.kill()
        process.wait()
        self.slow = 0
        os.rename(self.path("out.sqlite"), self.path("kept"))
        for name in ("-wal", "-shm"):
            os.rename(self.path("out.sqlite" + name), self.path("kept" + name))
        run = self.long("'out.sqlite'", "--resume", code=1)
        self.assertIn("it is not there any more, and the run has written to it", run.err)
        self.assertNotIn("out.sqlite", self.files())
        for name in ("", "-wal", "-shm"):
            os.rename(self.path("kept" + name), self.path("out.sqlite" + name))
        self.long("'out.sqlite'", "--resume")
        self.assert_whole()

    def test_two_tables_of_one_file(self):
        self.long("{ 'out.sqlite', { 'out.sqlite', table = 'other' } }")
        self.assert_whole()
        self.assert_whole(table="other")

    def test_two_tables_killed_and_gone_on_with(self):
        sink = "{ 'a.sqlite', 'b.sqlite', 'c.jsonl' }"
        self.slow = 0.005
        process = self.start_long(sink)
        self.server.until(lambda: len(self.server.requests) >= COUNT / 2)
        process.kill()
        process.wait()
        self.slow = 0
        self.long(sink, "--resume")
        self.assert_whole("a.sqlite")
        self.assert_whole("b.sqlite")
        self.assertEqual(sorted(r["id"] for r in self.records("c.jsonl")),
                         list(range(1, COUNT + 1)))


    def test_a_database_that_is_kept_is_waited_for(self):
        """Which nobody else has to wait for, nor Ctrl-C."""
        source = self.serve([{"id": 1}])
        with contextlib.closing(sqlite3.connect(self.path("out.sqlite"))) as other:
            other.isolation_level = None
            other.execute("CREATE TABLE mine(x)")
            other.execute("BEGIN EXCLUSIVE")
            self.write("job.lua", f"""local orc = require "orchestrator"
                local function pipeline(name, sink) return orc.pipeline {{ name = name, sink = sink,
                  client = {{ base_url = orc.params.base }}, source = {source} }} end
                return {{ pipeline("job", "out.sqlite"), pipeline("free", "free.jsonl") }}""")
            process = self.start("job.lua", f"base={self.server.base}")
            deadline = time.monotonic() + 5
            while not os.path.exists(self.path("free.jsonl")):
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.01)
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            self.assertEqual(self.finish(process).code, 130)
            self.assertLess(time.monotonic() - began, 5)
            process = self.start("job.lua", f"base={self.server.base}")
            time.sleep(0.5)
            other.execute("COMMIT")
        run = self.finish(process)
        self.assertEqual(run.code, 0, run.err)
        self.assertEqual(self.query("SELECT id FROM job"), [(1,)])


class Cutter:
    """A proxy in front of a server that cuts connections where it is told to."""

    def __init__(self, port):
        self.target = port
        self.cut = None  # function(bytes from the client) -> "before", "after" or None
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._open:
            end(sock)
        for thread in self._threads:
            thread.join(PATIENCE)

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            server = socket.create_connection(("127.0.0.1", self.target))
            self._open += [client, server]
            for args in ((client, server, True), (server, client, False)):
                thread = threading.Thread(target=self._pump, args=args, daemon=True)
                self._threads.append(thread)
                thread.start()

    def _pump(self, source, sink, upwards):
        try:
            while data := source.recv(65536):
                how = self.cut(data) if upwards and self.cut else None
                if how == "after":  # the server has it, and its answer gets lost
                    end(source)
                    sink.sendall(data)
                    sink.recv(1)
                if how:
                    break
                sink.sendall(data)
        except OSError:
            pass
        end(source)
        end(sink)


def end(sock):
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    sock.close()


class Postgresql(Tables):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.postgres = Postgres()
        cls.addClassCleanup(cls.postgres.close)
        cls.number = 0

    def setUp(self):
        super().setUp()
        type(self).number += 1
        self.schema = f"s{self.number}"
        self.postgres.query(f"CREATE SCHEMA {self.schema}")
        self.path_option = f"options=-csearch_path%3D{self.schema}"
        self.url = f"{self.postgres.url()}&{self.path_option}"
        self.sink = f"'{self.url}'"

    def query(self, sql):
        return self.postgres.query(sql, search_path=self.schema)

    def assert_whole(self, table="long"):
        self.assertEqual(self.query(f"SELECT id, name, half FROM {table} ORDER BY id"),
                         [f"{i}|n{i}|{i / 2:g}" for i in range(1, COUNT + 1)])

    def test_columns_come_from_the_records(self):
        text = 'tab\there, "quotes", \\N, back\\slash, new\nline\rä€😀'
        source = self.serve(
            [{"id": 1, "ok": True, "t": text, "Case": 1, "doc": {"a": [1, "x\ty\\", None]}},
             {"id": 2, "ok": False, "t": "", "when": "2026-11-22", "none": None, "x": -0.0}],
            [{"id": 3, "price": 5, "big": 9007199254740993, "x": 5e-324},
             {"id": 4, "price": 1.5, "x": 1.7976931348623157e308}])
        largest = 17976931348623157 * 10**292  # a float to us, and numeric to jsonb
        self.job(source, self.sink)
        self.assertEqual(
            self.query("SELECT column_name, data_type FROM information_schema.columns WHERE "
                       "table_schema = current_schema() AND table_name = 'job' ORDER BY ordinal_position"),
            ["Case|bigint", "doc|jsonb", "id|bigint", "ok|boolean", "t|text", "when|text",
             "x|double precision", "big|text", "price|double precision"])
        rows = [json.loads(row) for row in self.query("SELECT to_jsonb(job) FROM job ORDER BY id")]
        none = dict.fromkeys(["Case", "doc", "ok", "t", "when", "x", "big", "price"])
        self.assertEqual(rows, [
            {**none, "id": 1, "ok": True, "t": text, "Case": 1,
             "doc": {"a": [1, "x\ty\\", None]}},
            {**none, "id": 2, "ok": False, "t": "", "when": "2026-11-22", "x": 0},
            {**none, "id": 3, "price": 5, "big": "9007199254740993", "x": 5e-324},
            {**none, "id": 4, "price": 1.5, "x": largest}])
        self.assertEqual(self.query("SELECT x FROM job WHERE id = 2"), ["-0"])

    def test_columns_become_wider(self):
        numbers = [0.1, 1e15, 1e-5, 123456.789, 1e22, 1.5, 999999999999999.9, 1e300, 5]
        first = [{"i": i, "n": 2**53, "b": True, "r": r, "j": {"k": 1}}
                 for i, r in enumerate(numbers)]
        second = [{"i": 100 + i, "n": "x", "b": "no", "r": "y", "j": "z"} for i in range(2)]
        third = [{"i": 200 + i, "n": 5, "b": False, "r": r, "j": [1]}
                 for i, r in enumerate(numbers)]
        self.job(self.serve(first, second, third), self.sink, more="mode = 'append'")
        self.assertEqual(
            set(self.query("SELECT data_type FROM information_schema.columns WHERE table_schema "
                           "= current_schema() AND table_name = 'job' AND column_name <> 'i'")), {"text"})
        rows = self.query("SELECT r, b FROM job WHERE i < 100 ORDER BY i")
        # Before or after: the text of a number is the same.
        self.assertEqual([row.replace("true", "false") for row in rows],
                         self.query("SELECT r, b FROM job WHERE i >= 200 ORDER BY i"))
        self.assertEqual([float(row.partition("|")[0]) for row in rows], numbers)

    def test_what_the_database_cannot_hold_is_a_dead_letter(self):
        source = self.serve('[{"id":1},{"id":2,"t":"a\\u0000b"},{"id":3,"j":["\\u0000"]},'
                            '{"id":4,"' + "n" * 64 + '":1},{"id":5,"' + "n" * 63 + '":1}]')
        self.job(source, self.sink)
        self.assertEqual(self.query("SELECT id FROM job"), ["1", "5"])
        reasons = [letter["error"]["message"] for letter in self.records("job.dead.jsonl")]
        self.assertEqual(len(reasons), 3)
        self.assertIn("NUL byte", reasons[0])
        self.assertIn("NUL byte", reasons[1])
        self.assertIn("has 64 bytes, and PostgreSQL takes 63", reasons[2])

    def test_names_are_only_names(self):
        name = 'x"; DROP TABLE t;--'
        self.query("CREATE TABLE t()")
        self.job(self.serve([{name: 1, "a b": 2, "A B": 3, "select": 4}]),
                 f"{{ {self.sink}, table = '{name}' }}")
        quoted = '"' + name.replace('"', '""') + '"'
        self.assertEqual(self.query(f'SELECT {quoted}, "a b", "A B", "select" FROM {quoted}'),
                         ["1|2|3|4"])
        self.query("SELECT FROM t")
        run = self.job("{ '/x' }", f"{{ {self.sink}, table = '{'t' * 64}' }}", code=1)
        self.assertIn("has 64 bytes, and PostgreSQL takes 63", run.err)

    def test_a_table_with_types_of_its_own(self):
        self.query("CREATE TABLE job(id serial PRIMARY KEY, at timestamptz, n numeric(6,2), "
                   "v varchar(5), made int DEFAULT 7, twice numeric GENERATED ALWAYS AS (n * 2) "
                   "STORED)")
        source = self.serve([{"at": "2026-11-22T05:30:15Z", "n": 1.25, "v": "abc"}, {"v": 5}])
        self.job(source, self.sink, more="mode = 'append'")
        self.assertEqual(self.query("SELECT id, at AT TIME ZONE 'UTC', n, v, made, twice FROM job"),
                         ["1|2026-11-22 05:30:15|1.25|abc|7|2.50", "2|||5|7|"])
        run = self.job(self.serve([{"v": "too long"}]), self.sink, more="mode = 'append'", code=1)
        self.assertIn("value too long", run.err)
        self.assertIn("--resume", run.err)

    def test_a_schema_says_what_the_columns_are(self):
        more = ("schema = { columns = { id = 'integer', at = 'timestamp', day = 'date', "
                "n = 'number', j = 'json' } }")
        self.job(self.serve('[{"id":9223372036854775807,"at":"2026-11-22T05:30:15+01:00",'
                            '"day":"2026-11-22","n":5,"j":"x"},{"id":1,"j":{"a":1}}]'),
                 self.sink, more=more)
        self.assertEqual(self.query("SELECT id, at AT TIME ZONE 'UTC', day, n, j FROM job"),
                         ['9223372036854775807|2026-11-22 04:30:15|2026-11-22|5|"x"',
                          '1||||{"a": 1}'])

    def test_merge(self):
        sink = f"{{ {self.sink}, mode = 'merge', primary_key = {{ 'a', 'b' }} }}"
        self.job(self.serve([{"a": 1, "b": "x", "v": 1, "w": 1}, {"a": 1, "b": "y", "v": 2},
                             {"a": 1, "b": "x", "v": 3}]), sink)
        self.job(self.serve([{"a": 1, "b": "y", "v": "text"}], [{"a": 2.5, "b": "x"}]), sink)
        self.assertEqual(self.query("SELECT a, b, v, w FROM job ORDER BY a, b"),
                         ["1|x|3|", "1|y|text|", "2.5|x||"])
        self.query("CREATE TABLE bare(id bigint)")
        run = self.job(self.serve([{"id": 1}]),
                       f"{{ {self.sink}, table = 'bare', mode = 'merge', primary_key = 'id' }}",
                       code=1)
        self.assertIn("give the table a unique index", run.err)

    def test_replace_is_atomic_and_keeps_all_but_the_rows(self):
        self.job(self.serve([{"id": 1}]), self.sink)
        self.query("CREATE INDEX by_id ON job(id); CREATE ROLE reader; GRANT SELECT ON job TO "
                   "reader; CREATE VIEW seen AS SELECT id FROM job")
        reader = self.start_reader()
        self.assertEqual(self.ask(reader, "SELECT id FROM job;"), "1")
        self.job(self.serve([{"id": 2}], [{"id": 3}]), self.sink)
        self.assertEqual(self.ask(reader, "SELECT id FROM job;"), "1")
        self.assertEqual(self.ask(reader, "COMMIT; SELECT string_agg(id::text, ' ') FROM job;"),
                         "2 3")
        self.assertEqual(self.query("SELECT id FROM seen"), ["2", "3"])
        self.assertEqual(self.query("SELECT has_table_privilege('reader', 'job', 'SELECT'), "
                                    "to_regclass('by_id') IS NOT NULL"), ["t|t"])
        self.assertEqual(self.query("SELECT relname FROM pg_class WHERE relname ~ '^_staging'"), [])

    def start_reader(self):
        """A session in a transaction that goes on."""
        reader = subprocess.Popen(
            [os.path.join(self.postgres.bin, "psql"), self.url, "-XAtq"], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True)
        self.addCleanup(lambda: (reader.stdin.close(), reader.wait(PATIENCE),
                                 reader.stdout.close()))
        reader.stdin.write("BEGIN ISOLATION LEVEL REPEATABLE READ;\n")
        return reader

    @staticmethod
    def ask(reader, sql):
        reader.stdin.write(sql + "\n")
        reader.stdin.flush()
        return reader.stdout.readline().strip()

    def test_killed_and_gone_on_with(self):
        for mode in ("replace", "append"):
            sink = f"{{ {self.sink}, table = '{mode}' }}"
            self.slow = 0.005
            process = self.start_long(sink, more=f"mode = '{mode}'")
            asked = len(self.server.requests) + COUNT / 2
            self.server.until(lambda asked=asked: len(self.server.requests) >= asked)
            process.kill()
            process.wait()
            self.slow = 0
            self.long(sink, "--resume", more=f"mode = '{mode}'")
            self.assert_whole(mode)

    def test_columns_that_are_changed_meanwhile(self):
        """Their bytes would be taken for other values."""
        for mode in ("mode = 'append'", "mode = 'merge', primary_key = 'id'"):
            with self.subTest(mode):
                self.query("DROP TABLE IF EXISTS long; CREATE TABLE long(id bigint PRIMARY KEY)")
                sink = f"{{ {self.sink}, {mode} }}"
                self.slow = 0.005
                asked = len(self.server.requests) + COUNT / 2
                process = self.start_long(sink)
                self.server.until(lambda asked=asked: len(self.server.requests) >= asked)
                self.query("ALTER TABLE long ALTER id TYPE double precision; SELECT "
                           "pg_terminate_backend(pid) FROM pg_stat_activity WHERE "
                           "application_name = 'orchestrator'")
                run = self.finish(process)
                self.assertEqual(run.code, 1)
                self.assertIn('the columns of "long" were changed meanwhile', run.err)
                self.slow = 0
                self.long(sink, "--resume")
                self.assert_whole()

    def test_a_commit_whose_answer_is_lost_is_looked_up(self):
        """Both ways: what was committed is not sent again, what was not is."""
        commits = []

        def cut(data):
            if b"COMMIT" not in data:
                return None
            commits.append(data)
            return {3: "after", 5: "before", 8: "after", 9: "before"}.get(len(commits))

        with Cutter(self.postgres.port) as cutter:
            cutter.cut = cut
            url = f"postgres://postgres:{PASSWORD}@127.0.0.1:{cutter.port}/postgres" \
                f"?sslmode=disable&{self.path_option}"
            run = self.long(f"'{url}'", more="mode = 'append'")
            self.assertGreater(cutter.connections, 3)
        self.assertGreater(len(commits), 9)
        self.assertIn("trying again", run.err)
        self.assertNotIn(PASSWORD, run.err)
        self.assert_whole()

    def test_rows_that_are_cut_off_are_sent_again(self):
        cuts = []

        def cut(data):
            if b"n150" in data and not cuts:
                cuts.append(data)
                return "before"
            return None

        with Cutter(self.postgres.port) as cutter:
            cutter.cut = cut
            url = f"postgres://postgres:{PASSWORD}@127.0.0.1:{cutter.port}/postgres" \
                f"?sslmode=disable&{self.path_option}"
            self.long(f"'{url}'", more="mode = 'append'")
        self.assertEqual(len(cuts), 1)
        self.assert_whole()

    def test_a_server_that_is_started_again_is_waited_for(self):
        self.slow = 0.005
        process = self.start_long(self.sink)
        self.server.until(lambda: len(self.server.requests) >= COUNT / 3)
        self.postgres.stop(signal.SIGQUIT)
        self.postgres.start()
        self.slow = 0
        run = self.finish(process)
        self.assertEqual(run.code, 0, run.err)
        self.assert_whole()

    def test_a_table_has_one_run_at_a_time(self):
        self.slow = 0.2
        first = self.start_long(f"'{self.url}'")
        self.server.until(lambda: len(self.server.requests) >= 20)
        other = self.job("{ '/many?id=1' }", f"{{ '{self.url}', table = 'long' }}", "--state-dir",
                         "other", code=1)
        self.assertRegex(other.err, r'another run is writing to the table "long": process \d+ of '
                         r"the server, connected since .* UTC; wait for it")
        held = "SELECT pid FROM pg_locks WHERE locktype = 'advisory'"
        before = self.query(held)
        self.query(f"SELECT pg_terminate_backend(pid) FROM ({held}) AS one")
        deadline = time.monotonic() + PATIENCE
        while self.query(held) in (before, type(before)()):
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.05)
        other = self.job("{ '/many?id=1' }", f"{{ '{self.url}', table = 'long' }}", "--state-dir",
                         "other", code=1)
        self.assertIn('another run is writing to the table "long"', other.err)
        self.slow = 0
        self.assertEqual(self.finish(first).code, 0)
        self.assert_whole()

    def test_a_server_that_is_not_there(self):
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
        process = self.start_long(f"'postgres://u@127.0.0.1:{port}/x'")
        line = process.stderr.readline().decode()
        process.terminate()
        self.finish(process)
        self.assertRegex(line, r"Connection refused Is the server .*; see that the server can be "
                         r"reached; trying again\n$")

    def test_who_may_not_in_is_told_so(self):
        url = self.postgres.tcp_url(password="wrong-password")
        began = time.monotonic()
        run = self.job("{ '/x' }", f"'{url}'", code=1)
        self.assertLess(time.monotonic() - began, 5)
        self.assertIn("password authentication failed", run.err)
        self.assertNotIn("wrong-password", run.err + run.out)
        run = self.job("{ '/x' }", f"'{self.postgres.url('none')}'", code=1)
        self.assertIn("make the database", run.err)

    def test_a_secret_url_is_not_shown(self):
        self.write("secret.lua", """local orc = require "orchestrator"
            return orc.pipeline { client = { base_url = orc.params.base }, source = { '/many?id=1' },
              sink = { { orc.secret.env "DB", table = "t" }, "x.jsonl" } }""")
        url = f"{self.postgres.tcp_url()}?{self.path_option}"
        run = self.orchestrate("secret.lua", f"base={self.server.base}", "--summary", "s.json",
                               env={"DB": url})
        self.assertEqual(run.code, 0, run.err)
        self.assertNotIn(PASSWORD, run.err + self.read("s.json"))
        self.assertEqual(self.query("SELECT id FROM t"), ["1"])
        for directory, _, names in os.walk(self.path(".orchestrator")):
            for name in names:
                with open(os.path.join(directory, name), "rb") as file:
                    self.assertNotIn(PASSWORD.encode(), file.read())

    def test_rights_that_are_missing_are_told(self):
        self.query(f"CREATE ROLE guest LOGIN; GRANT USAGE ON SCHEMA {self.schema} TO guest")
        run = self.job("{ '/x' }", f"'{self.url.replace('postgres@', 'guest@', 1)}'", code=1)
        self.assertIn("permission denied", run.err)
        self.assertIn("grant the user the right", run.err)

    def test_another_transaction_is_waited_for(self):
        self.job(self.serve([{"id": 1}]), self.sink, more="mode = 'append'")
        reader = self.start_reader()
        self.assertEqual(self.ask(reader, "LOCK TABLE job IN EXCLUSIVE MODE; SELECT 1;"), "1")
        timer = threading.Timer(0.7, self.ask, [reader, "COMMIT; SELECT 1;"])
        timer.start()
        self.job(self.serve([{"id": 2}]), self.sink, more="mode = 'append'")
        timer.join()
        self.assertEqual(self.query("SELECT id FROM job"), ["1", "2"])


if __name__ == "__main__":
    unittest.main()
