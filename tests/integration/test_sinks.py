"""File sinks and stdout, end to end: formats, compression, resuming, errors of the disk."""

import csv
import gzip
import io
import json
import os
import re
import resource
import signal
import subprocess
import time
import unittest

from program import PRELUDE, SANITIZED, Case
from servers import PATIENCE, RawServer, answer_json

ITEMS = 200
FORMATS = [kind + codec for kind in ("jsonl", "csv", "json") for codec in ("", ".gz", ".zst")]


def unpack(name, data):
    if name.endswith(".gz"):
        return gzip.decompress(data)
    if name.endswith(".zst"):
        zstd = subprocess.run(["zstd", "-dcq"], input=data, stdout=subprocess.PIPE, check=True)
        return zstd.stdout
    return data


class Routes(dict):
    """A record for every path that is a number."""

    def get(self, path, default=None):
        if path[1:].isdigit():
            return answer_json(json.dumps({"id": int(path[1:]), "text": f'a "b",\r\n{path}'}))
        return super().get(path, default)


class Sinks(Case):
    def setUp(self):
        super().setUp()
        self.server = self.enterContext(RawServer())
        self.server.routes = Routes()

    def begin(self, fields, *args, **options):
        """Starts a pipeline, over all items unless it has a source of its own."""
        if "source =" not in fields:
            fields = "source = items, " + fields
        self.write(
            "job.lua",
            f"{PRELUDE} local items = {{}} for i = 0, {ITEMS - 1} do items[i + 1] = '/' .. i end"
            " return orc.pipeline { client = { base_url = P.base, retry = false, concurrency = 8 }, "
            + fields
            + " }",
        )
        return self.start("job.lua", f"base={self.server.base}", *args, **options)

    def job(self, fields, *args, code=0, **options):
        run = self.finish(self.begin(fields, *args, **options))
        self.assertEqual(run.code, code, run.err)
        return run

    def content(self, name):
        with open(self.path(name), "rb") as file:
            return unpack(name, file.read()).decode()

    def ids(self, name):
        """The ids in a file, each a number, in their order."""
        text = self.content(name)
        kind = re.search(r"\.(jsonl|csv|json)\b", name)[1]
        if kind == "csv":
            return [int(row["id"]) for row in csv.DictReader(io.StringIO(text, newline=""))]
        if kind == "json":
            return [record["id"] for record in json.loads(text)]
        return [json.loads(line)["id"] for line in text.splitlines()]


class Formats(Sinks):
    def test_the_extension_says_what_is_written(self):
        targets = ", ".join(f"'out/x.{name}'" for name in FORMATS)
        self.job(f"sink = {{ {targets} }}")
        for name in FORMATS:
            self.assertEqual(sorted(self.ids("out/x." + name)), list(range(ITEMS)), name)
        rows = list(csv.DictReader(io.StringIO(self.content("out/x.csv.zst"), newline="")))
        self.assertEqual(sorted(rows, key=lambda row: int(row["id"]))[7]["text"], 'a "b",\r\n/7')
        self.assertIn("\n]\n", self.content("out/x.json"))

    def test_append_goes_on_with_any_of_them(self):
        targets = ", ".join(f"'out/x.{name}'" for name in FORMATS)
        for i in (1, 2):
            self.job(f"source = {{ '/{i}' }}, mode = 'append', sink = {{ {targets} }}")
        for name in FORMATS:
            self.assertEqual(self.ids("out/x." + name), [1, 2], name)

    def test_a_sink_has_a_mode_of_its_own(self):
        for i in (1, 2):
            self.job(
                f"source = {{ '/{i}' }}, sink = {{ 'a.jsonl', {{ 'b.jsonl', mode = 'append' }} }}"
            )
        self.assertEqual(self.ids("a.jsonl"), [2])
        self.assertEqual(self.ids("b.jsonl"), [1, 2])

    def test_csv_has_options(self):
        self.job(
            """
            source = { '/1' },
            sink = { { 'a.csv', csv = { delimiter = ';', columns = { 'text', 'id' },
              formula_escape = true } }, 'b.csv' },
            map = function(r) return { id = r.id, text = '=1+1' } end
            """
        )
        self.assertEqual(self.content("a.csv"), "text;id\r\n'=1+1;1\r\n")
        self.assertEqual(self.content("b.csv"), "id,text\r\n1,=1+1\r\n")

    def test_csv_has_all_columns_also_those_that_come_late(self):
        self.job(
            """
            sink = { 'out.csv', 'out.csv.gz' }, ordered = true,
            map = function(r)
              if r.id >= 150 then r['late "' .. r.id % 2 .. '"'] = { r.id } end
              return r
            end
            """
        )
        for name in ("out.csv", "out.csv.gz"):
            rows = list(csv.reader(io.StringIO(self.content(name), newline=""), strict=True))
            self.assertEqual(rows[0], ["id", "text", 'late "0"', 'late "1"'])
            self.assertEqual({len(row) for row in rows}, {4})
            self.assertEqual(rows[1], ["0", 'a "b",\r\n/0', "", ""])
            self.assertEqual(rows[-1], ["199", 'a "b",\r\n/199', "", "[199]"])
        self.assertEqual([name for name in self.files() if "out.csv." in name], ["out.csv.gz"])

    def test_csv_names_the_late_column_when_it_cannot_be_added(self):
        self.write("out.csv", "id,text\r\n")
        self.job(
            """
            source = { '/1', '/2' }, sink = 'out.csv', mode = 'append',
            map = function(r) if r.id == 2 then r.more = 1 end return r end
            """
        )
        self.assertEqual(self.ids("out.csv"), [1])
        (letter,) = self.records("job.dead.jsonl")
        self.assertEqual(letter["item"], "/2")
        self.assertIn('"more" is not in the CSV file', letter["error"]["message"])

    def test_what_a_format_has_no_form_for_fails_the_item(self):
        self.job(
            """
            source = { '/1', '/2', '/3', '/4', '/5' }, sink = { 'out.csv', 'out.jsonl', 'out.json' },
            ordered = true,
            map = function(r)
              if r.id == 1 then r.text = 'x\\0y' end
              if r.id == 2 then r.text = 'x\\255y' end
              if r.id == 3 then r.text = 0 / 0 end
              if r.id == 4 then return { { id = 2 ^ 53, text = '12345678901234567890' } } end
              return r
            end
            """
        )
        for name in ("out.csv", "out.jsonl", "out.json"):
            self.assertEqual(self.ids(name), [2**53, 5])
        self.assertIn("12345678901234567890", self.content("out.csv"))
        problems = [letter["error"]["message"] for letter in self.records("job.dead.jsonl")]
        self.assertEqual(len(problems), 3)
        for problem, expected in zip(problems, ("NUL byte", "UTF-8", "nan"), strict=True):
            self.assertIn(expected, problem)
        # Without CSV a NUL byte is as good as any other.
        self.job(
            "source = { '/1' }, sink = 'n.jsonl', map = function(r) r.text = '\\0' return r end"
        )
        self.assertEqual(self.records("n.jsonl"), [{"id": 1, "text": "\0"}])

    def test_paths_have_places_for_values(self):
        run = self.job(
            "name = 'some job', source = { '/1' }, sink = 'out/{date}/{name}-{run_id}.jsonl'"
        )
        (name,) = [name for name in self.files() if name.startswith("out/")]
        self.assertRegex(name, r"^out/\d{4}-\d\d-\d\d/some job-\d{8}T\d{6}Z-[0-9a-f]+\.jsonl$")
        self.assertIn(f"1 record to {name}", run.err)
        run = self.job("source = { '/1' }, sink = 'out/{nam}.jsonl'", code=2)
        self.assertIn("did you mean {name}?", run.err)


class Resumed(Sinks):
    def test_a_killed_run_goes_on(self):
        names = ["jsonl", "csv.gz", "json", "jsonl.zst"]
        for mode in ("replace", "append"):
            with self.subTest(mode):
                targets = ", ".join(f"'{mode}/x.{name}'" for name in names)
                fields = f"sink = {{ {targets} }}, mode = '{mode}'"
                self.job(fields + ", source = { '/1000' }")
                for count in (60, 80):
                    self.server.forget()
                    process = self.begin(fields, "--resume")
                    self.server.until(lambda: len(self.server.requests) >= count)
                    process.kill()
                    process.wait()
                self.job(fields, "--resume")
                want = list(range(ITEMS)) + ([1000] if mode == "append" else [])
                for name in names:
                    self.assertEqual(sorted(self.ids(f"{mode}/x.{name}")), want, name)

    def test_a_file_that_is_not_as_it_was_is_never_begun_anew(self):
        fields = "sink = 'out.jsonl', on_error = 'fail', ordered = true"
        self.server.routes["/x"] = answer_json("{}", status="404 No")
        source = "source = { '/1', '/2', '/3', '/x' }, "
        self.job(source + fields, code=1)
        self.assertEqual(self.ids("out.jsonl.part"), [1, 2, 3])
        with open(self.path("out.jsonl.part"), "r+b") as file:
            file.truncate(5)
        run = self.job(source + fields, "--resume", code=1)
        self.assertRegex(
            run.err,
            r"out\.jsonl\.part is shorter than what was committed to it \(\d+ bytes\): put the whole"
            r" file back, or begin anew without --resume",
        )
        os.remove(self.path("out.jsonl.part"))
        run = self.job(source + fields, "--resume", code=1)
        self.assertIn("out.jsonl.part, where the run was to go on, is gone", run.err)
        self.assertEqual([name for name in self.files() if name.startswith("out")], [])


class Broken(Sinks):
    def test_a_file_that_may_not_grow(self):
        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))

        # More than a window, and more than the limit: what is committed before it counts.
        fields = """
            sink = 'out.jsonl', ordered = true,
            map = function(r) r.text = ('x'):rep(1000) return r end
            """
        run = self.job(fields, code=1, preexec_fn=limit)
        self.assertRegex(
            run.err,
            r"cannot write out\.jsonl: File too large; raise the limit of a file's size"
            r" \(ulimit -f\), then run it again with --resume",
        )
        before = len(self.ids("out.jsonl.part"))
        self.assertGreater(before, 0)
        self.server.forget()
        self.job(fields, "--resume")
        self.assertEqual(self.ids("out.jsonl"), list(range(ITEMS)))
        self.assertLessEqual(len(self.server.requests), ITEMS - before)

    def trace(self, fields, calls, inject, *args):
        """A run of which strace changes what becomes of calls on out.jsonl.part."""
        strace = [
            "strace",
            "-f",
            "-qq",
            "-o",
            self.path("trace"),
            "-P",
            self.path("out.jsonl.part"),
        ]
        strace += ["-P", "out.jsonl.part", "-e", f"trace={calls}", "-e", f"inject={calls}:{inject}"]
        env = {"ASAN_OPTIONS": "detect_leaks=0"}  # it cannot look for them while it is traced
        run = self.finish(self.begin(fields, *args, prefix=strace, env=env))
        self.assertRegex(self.read("trace"), "INJECTED|DELAYED")
        return run

    def test_errors_of_the_disk(self):
        fields = "sink = 'out.jsonl', ordered = true"
        full, failed = (
            "make room on the disk, then run it again",
            "see to the disk, then run it again",
        )
        for call, error, when, text in (
            ("pwrite64", "ENOSPC", 2, f"No space left on device; {full}"),
            ("pwrite64", "EDQUOT", 1, f"Disk quota exceeded; {full}"),
            ("pwrite64", "EIO", 2, f"Input/output error; {failed}"),
            ("fdatasync", "EIO", 2, f"Input/output error; {failed}"),
            ("openat", "EROFS", 1, "Read-only file system; make it and its directory writable"),
            ("fsync", "EIO", 1, f"Input/output error; {failed}"),
            ("rename", "ENOSPC", 1, f"No space left on device; {full}"),
        ):
            with self.subTest(f"{call} {error}"):
                self.job(fields + ", source = { '/0' }")
                run = self.trace(fields, call, f"error={error}:when={when}+")
                self.assertEqual(run.code, 1, run.err)
                self.assertIn("cannot write out.jsonl: " + text, run.err)
                self.assertIn("with --resume", run.err)
                self.assertEqual(self.ids("out.jsonl"), [0])
                self.job(fields, "--resume")
                self.assertEqual(self.ids("out.jsonl"), list(range(ITEMS)))

    def test_a_slow_disk_does_not_hold_up_what_is_fetched(self):
        run = self.trace("sink = 'out.jsonl'", "fdatasync", "delay_enter=300000", "--summary", "s")
        self.assertEqual(run.code, 0, run.err)
        self.assertEqual(sorted(self.ids("out.jsonl")), list(range(ITEMS)))
        with open(self.path("s"), encoding="utf-8") as file:
            summary = json.load(file)
        self.assertGreater(summary["elapsed_s"], 0.6)
        self.assertLess(summary["latency_ms"]["max"], 250)


class Stdout(Sinks):
    def test_a_reader_that_does_not_read_slows_the_run(self):
        # Far more than a pipe holds. At most 100 items are not yet written, and 8 in flight.
        process = self.begin("map = function(r) r.text = ('x'):rep(20000) return r end")
        self.server.until(lambda: len(self.server.requests) >= 50)
        time.sleep(0.5)
        self.assertLess(len(self.server.requests), 120)
        process.send_signal(signal.SIGINT)  # it would write what it has
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(PATIENCE), 130)

    def test_a_slow_reader_bounds_what_is_held_and_gets_it_all(self):
        # 200 MB in all.
        process = self.begin("map = function(r) r.text = ('x'):rep(1000000) return r end")
        ids, most = [], 0
        for line in process.stdout:
            ids.append(json.loads(line)["id"])
            with open(f"/proc/{process.pid}/status", encoding="ascii") as status:
                peak = re.search(r"VmHWM:\s+(\d+) kB", status.read())
            most = max(most, int(peak[1]) if peak else 0)
            time.sleep(0.005)
        self.assertEqual(self.finish(process).code, 0)
        self.assertEqual(sorted(ids), list(range(ITEMS)))
        if not SANITIZED:  # its memory is given back late
            self.assertLess(most, 150_000)  # kB

    def test_a_reader_that_goes_ends_the_run(self):
        process = self.begin("map = function(r) r.text = ('x'):rep(20000) return r end")
        process.stdout.close()
        process.stdout = None
        run = self.finish(process)
        self.assertEqual(run.code, 1)
        self.assertIn("cannot write stdout: its reader has gone", run.err)


if __name__ == "__main__":
    unittest.main()
