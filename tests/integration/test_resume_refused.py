"""What keeps a run from beginning or going on: another process, other sinks, files and a state that
are not as they were, full disks. Nothing is lost by it, and it says what to do."""

import contextlib
import os
import resource
import shutil
import sqlite3
import subprocess
import time
import unittest

from program import BINARY
from runs import CONCURRENCY, ITEMS, Runs


class Refused(Runs):
    def test_a_second_process_on_the_same_pipeline(self):
        slow = "request = function(id) return { url = '/echo?delay=60000&id=' .. id } end"
        first = self.begin(slow)
        while self.server.ledger()["total"] < CONCURRENCY:
            time.sleep(0.01)
        for args in ((), ("--resume",)):
            second = self.job("", *args, code=1)
            self.assertRegex(
                second.err,
                rf'the pipeline "job" is being run already, by process {first.pid} since '
                r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC; wait for it\n$",
            )
            self.assertNotIn("records", second.err)  # nothing was begun
            self.assertIsNone(first.poll())
        # Another pipeline, and another state directory, are not its business.
        self.job("name = 'other', sink = 'other.jsonl'")
        self.job("sink = 'elsewhere.jsonl'", "--state-dir", "elsewhere")
        first.kill()
        first.wait()
        # The lock went with the process.
        self.assertIn("going on with run", self.resumed("").err)
        self.assert_whole()

    def test_without_a_journal(self):
        run = self.job("journal = false", "--resume")
        self.assertIn('"job" has "journal" = false: there is nothing that --resume could go on with',
                      run.err)

    def test_with_other_sinks(self):
        self.write("old.jsonl", '{"id":"old"}\n' * 1000)
        self.write("out.jsonl", '{"id":"old"}\n' * 1000)
        self.killed("", die=200)
        for other in (
            "sink = 'old.jsonl'",
            "sink = { 'out.jsonl', 'more.jsonl' }",
            "mode = 'append'",
            "sink = { 'out.jsonl', mode = 'append' }",
            "dead_letters = 'old.jsonl'",
        ):
            with self.subTest(other):
                run = self.resumed(other, code=1)
                self.assertRegex(
                    run.err,
                    r"run \S+ wrote to out\.jsonl.*: it cannot go on with other sinks or modes; "
                    "put them back, or start anew without --resume",
                )
                for name in ("old.jsonl", "out.jsonl"):
                    self.assertEqual(len(self.records(name)), 1000)
        self.resumed("")
        self.assert_whole()

    def test_files_that_are_not_as_they_were(self):
        self.killed("", die=200)
        part = self.path("out.jsonl.part")
        with open(part, "rb") as file:
            good = file.read()
        os.rename(part, self.path("elsewhere"))
        run = self.resumed("", code=1)
        self.assertIn("out.jsonl.part, where the run was to go on, is gone: put it back", run.err)
        self.write("out.jsonl.part", good[:10])
        run = self.resumed("", code=1)
        self.assertIn("out.jsonl.part is shorter than what was committed to it", run.err)
        self.assertEqual(self.read("out.jsonl.part"), good[:10].decode())
        os.remove(part)
        os.symlink("elsewhere", part)
        run = self.resumed("", code=1)
        self.assertRegex(run.err, r"out\.jsonl.*: ")
        self.assertEqual(self.read("elsewhere"), good.decode())
        os.remove(part)
        os.rename(self.path("elsewhere"), part)
        self.resumed("")
        self.assert_whole()

    def test_a_state_that_is_no_good(self):
        self.killed("", die=200)
        path = self.path(".orchestrator", "state.db")
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with open(path, "rb") as file:
            good = file.read()
        part = self.read("out.jsonl.part")
        half = len(good) // 2
        damages = {
            "cut off": (good[:half], "state.db: ", "move it away to start anew"),
            "empty": (b"", "state.db: ", "move it away to start anew"),
            "flipped": (
                good[:4096] + bytes(byte ^ 0xFF for byte in good[4096:4112]) + good[4112:],
                "state.db: ",
                "move it away to start anew",
            ),
            "newer": (
                good[:60] + (99).to_bytes(4, "big") + good[64:],
                "its version is 99",
                "use the version of orchestrator that",
            ),
        }
        for name, (content, *words) in damages.items():
            with self.subTest(name):
                for suffix in ("-wal", "-shm"):
                    with contextlib.suppress(FileNotFoundError):
                        os.remove(path + suffix)
                self.write(".orchestrator/state.db", content)
                run = self.finish(self.begin("", "--resume"))
                self.assertIn(run.code, (1, 2))
                for word in words:
                    self.assertIn(word, run.err)
                # Nothing was begun, and nothing is lost.
                self.assertEqual(self.read("out.jsonl.part"), part)
        self.write(".orchestrator/state.db", good)
        self.asked()
        done = self.committed()
        self.resumed("")
        self.assertEqual(sum(self.asked().values()), ITEMS - done)
        self.assert_whole()

    def test_a_state_that_cannot_be_written_to(self):
        self.killed("", die=200)
        part = self.read("out.jsonl.part")
        options = {}
        if os.geteuid() == 0:  # who may write to everything
            shutil.copy(BINARY, self.path("program"))
            options = {"executable": self.path("program"), "user": 65534, "group": 65534}
            for place in (self.dir, self.path(".orchestrator"), self.path("job.lua")):
                os.chmod(place, 0o755)
        for place, mode in (("state.db", 0o444), ("", 0o555)):
            os.chmod(self.path(".orchestrator", place), mode)
        try:
            run = self.resumed("", code=2, **options)
            self.assertIn(".orchestrator", run.err)
            self.assertNotIn("records", run.err)
            self.assertRegex(run.err, "make (it|the directory) and|writable")
        finally:
            os.chmod(self.path(".orchestrator"), 0o755)
            os.chmod(self.path(".orchestrator", "state.db"), 0o644)
        self.assertEqual(self.read("out.jsonl.part"), part)
        self.resumed("")
        self.assert_whole()

    def test_a_full_disk_below_the_output(self):
        with self.disk("out", "100k"):
            fields = "sink = 'out/x.jsonl', map = function(_, _, id) "
            fields += "return { id = id, text = ('x'):rep(1000) } end"
            run = self.job(fields, code=1)
            self.assertIn(
                "cannot write out/x.jsonl: No space left on device; make room on the disk, then "
                "run it again with --resume",
                run.err,
            )
            done = self.committed()
            self.assertLess(0, done)
            subprocess.check_call(["mount", "-o", "remount,size=10m", self.path("out")])
            self.asked()
            run = self.resumed(fields, "--summary", "summary.json")
            self.assertEqual(sum(self.asked().values()), ITEMS - done)
            self.assert_whole("out/x.jsonl")
            self.assertEqual(self.records("summary.json")[0]["records"]["out"], ITEMS)

    def test_a_full_disk_below_the_state(self):
        with self.disk("state", "200k"):
            args = ("--state-dir", "state", "count=1500")
            run = self.job("", *args, code=1)
            self.assertIn("the journal cannot be written: state/state.db: ", run.err)
            self.assertIn("make room on the disk", run.err)
            self.assertIn("--resume", run.err)
            subprocess.check_call(["mount", "-o", "remount,size=10m", self.path("state")])
            self.resumed("", *args, "--summary", "summary.json")
            self.assert_whole(count=1500)
            self.assertEqual(self.records("summary.json")[0]["records"]["out"], 1500)

    def test_a_state_that_may_not_grow(self):
        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, resource.RLIM_INFINITY))

        run = self.job("", "count=1500", code=1, preexec_fn=limit)
        self.assertIn("the journal cannot be written: .orchestrator/state.db: ", run.err)
        self.assertIn("--resume", run.err)
        self.resumed("", "count=1500")
        self.assert_whole(count=1500)

    @contextlib.contextmanager
    def disk(self, name, size):
        """A small disk at a place, where this machine lets us have one."""
        os.mkdir(self.path(name))
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", self.path(name)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            raise unittest.SkipTest("no disk can be mounted here")
        try:
            yield
        finally:
            subprocess.check_call(["umount", self.path(name)])
