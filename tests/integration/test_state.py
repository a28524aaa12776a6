"""Limits that outlive the process: what they let through, by a server's ledger; and the state
directory they are kept in."""

import contextlib
import os
import selectors
import shutil
import signal
import socket
import sqlite3
import stat
import struct
import threading
import time

from program import BINARY, PRELUDE, ROOT, SANITIZED, Case
from servers import PATIENCE, answer

WALL_CLOCK = os.environ.get("WALL_CLOCK_LIB", os.path.join(ROOT, "build", "tests", "wall_clock.so"))
SO_TIMESTAMPNS = 35
# What the way from a start to the server may differ by, from the first to the last of a window.
JITTER = 0.2 if SANITIZED else 0.06

# Starts as many as it may, for so long or so many, and says when it begins.
FETCH = """
local limit = { limit = tonumber(P.limit or 20), per = tonumber(P.per or 2), name = P.name or "api",
  window = P.window }
assert(orc.fetch(P.base .. "/warm")) -- so that no start has to wait for a lookup
local api = orc.client { base_url = P.base, rate_limit = limit, retry = false }
emit "go"
io.stdout:flush()
local left = tonumber(P.count or 1e9)
local function next_path()
  left = left - 1
  if left >= 0 then return P.path or "/" .. (P.name or "api") end
end
orc.deadline(tonumber(P.seconds or 20), function()
  orc.map(next_path, function(path) assert(api:fetch(path)) end,
    { concurrency = tonumber(P.tasks or 25) })
end)
"""


class Ledger:
    """A server that writes down when each request arrived, by the kernel's clock, however late it
    comes to read it. `refusals`: path → what it answers to the first request there."""

    def __init__(self, refusals=None):
        self.arrivals = {}  # path → times
        self.refusals = dict(refusals or {})
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._listener.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.base = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._waker, self._wake = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._wake.close()
        self._thread.join()

    def _serve(self):
        with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
            for source in (self._listener, self._waker):
                stack.enter_context(source)
                selector.register(source, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._waker:
                        return
                    if key.fileobj is self._listener:
                        connection, _ = self._listener.accept()
                        connection.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
                        stack.enter_context(connection)
                        selector.register(connection, selectors.EVENT_READ)
                    elif not self._answer(key.fileobj):
                        selector.unregister(key.fileobj)
                        key.fileobj.close()

    def _answer(self, connection):
        try:
            data, extra, _, _ = connection.recvmsg(65536, 64)
            if not data:
                return False
            ((_, _, stamp),) = extra
            seconds, nanoseconds = struct.unpack("qq", stamp)
            path = data.split(b" ", 2)[1].decode()
            self.arrivals.setdefault(path, []).append(seconds + nanoseconds * 1e-9)
            connection.sendall(self.refusals.pop(path, None) or answer("ok"))
        except OSError:
            return False  # it was killed
        return True

    def times(self, path="/api"):
        return sorted(self.arrivals.get(path, ()))

    def wait_for(self, path="/api", after=0):
        """Waits for a request after that time."""
        end = time.monotonic() + PATIENCE
        while self.arrivals.get(path, [0])[-1] <= after:
            if time.monotonic() > end:
                raise TimeoutError(path)
            time.sleep(0.005)


def most_within(times, seconds):
    """The most of them within any time so long."""
    most = first = 0
    for i, at in enumerate(times):
        while times[first] <= at - seconds:
            first += 1
        most = max(most, i + 1 - first)
    return most


class Punctuality(threading.Thread):
    """Finds out whether this machine wakes up who sleeps when it should."""

    def __init__(self):
        super().__init__(daemon=True)
        self.sleeps = self.late = 0
        self.ended = False

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.ended = True
        self.join()

    def run(self):
        while not self.ended:
            began = time.monotonic()
            time.sleep(0.01)
            self.sleeps += 1
            self.late += time.monotonic() - began > 0.015

    def is_given(self):
        return self.late <= self.sleeps * 0.02


class StateCase(Case):
    def setUp(self):
        super().setUp()
        self.server = self.enterContext(Ledger())
        self.write("fetch.lua", PRELUDE + FETCH)

    def begin(self, *params, wall=None, **options):
        """Starts a process that fetches."""
        if wall:
            sanitizer = os.environ.get("ASAN_OPTIONS", "")
            options["env"] = {
                "LD_PRELOAD": WALL_CLOCK,
                "WALL_CLOCK": wall,
                "ASAN_OPTIONS": f"{sanitizer}:verify_asan_link_order=0",
            }
        return self.start("fetch.lua", "-q", f"base={self.server.base}", *params, **options)

    def fetch(self, *params):
        run = self.finish(self.begin(*params))
        self.assertEqual((run.code, run.err), (0, ""))

    def database(self, path=".orchestrator/state.db"):
        return contextlib.closing(sqlite3.connect(self.path(path), isolation_level=None))


class Limits(StateCase):
    def run_processes(self, kinds):
        """Processes that are killed, then two at once, then another one. Returns for each kind how
        many starts there were to be made and were made while there were two."""
        self.server.arrivals.clear()
        killed = [self.begin(*kind) for kind in kinds.values()]
        for process in killed:
            self.assertEqual(process.stdout.readline(), b'"go"\n')
        time.sleep(0.6)
        for process in killed:
            process.kill()
        # One of each has a wall clock that jumps.
        wall = "0:0 0.6:3600 1.2:-7200 1.8:1000000000"
        together = [self.begin(*kind, "seconds=2.6") for kind in kinds.values()]
        together += [self.begin(*kind, "seconds=2.6", wall=wall) for kind in kinds.values()]
        for process in together:
            self.assertEqual(process.stdout.readline(), b'"go"\n')
        began = time.time()
        for process in together:
            self.assertEqual(self.finish(process).code, 0)
        for process in [self.begin(*kind, "seconds=0.2") for kind in kinds.values()]:
            self.assertEqual(self.finish(process).code, 0)
        used = {}
        for kind in kinds:
            times = self.server.times(f"/{kind}")
            self.assertLessEqual(most_within(times, 2 - JITTER), 20, kind)
            used[kind] = sum(0.2 < at - began <= 2.4 for at in times)
        return used

    def test_hold_for_processes_at_once_and_one_after_the_other_and_killed_ones(self):
        kinds = {"bucket": ("name=bucket",), "window": ("name=window", "window=sliding")}
        with Punctuality() as punctuality:
            used = self.run_processes(kinds)
        self.assertGreaterEqual(used["window"], 19)  # of 20
        if punctuality.is_given():  # a start that comes too late is lost
            self.assertGreaterEqual(used["bucket"], 20)  # of 21 or 22

    def test_wait_no_longer_than_a_window_when_the_system_was_started_anew(self):
        limit = ("limit=10", "per=1", "window=sliding")
        self.fetch(*limit, "count=10")
        (before, *_) = self.server.times()
        # A wall clock that was set back, one that was set ahead, and one that is right.
        walls = {"back": "0:-3600", "ahead": "0:3600", "right": "0:0"}
        for name in walls:
            shutil.copytree(self.path(".orchestrator"), self.path(name))
            with self.database(f"{name}/state.db") as database:
                database.execute("UPDATE limits SET document = json_set(document, '$.boot', 'x')")
        began = time.time()
        processes = [
            self.begin(*limit, f"path=/{name}", "count=10", "--state-dir", name, wall=wall)
            for name, wall in walls.items()
        ]
        for process in processes:
            self.assertEqual(self.finish(process).code, 0)
        for name in walls:
            times = self.server.times(f"/{name}")
            self.assertLessEqual(most_within(times, 1 - JITTER), 10, name)
        first = {name: self.server.times(f"/{name}")[0] for name in walls}
        self.assertLess(first["ahead"], began + 0.7)
        self.assertGreater(first["right"], before + 1 - JITTER)
        self.assertGreater(first["back"], began + 0.7)
        self.assertLess(first["back"], began + 1.3 + JITTER)

    def test_pause_for_all_processes(self):
        self.server.refusals["/api"] = answer("", "429 Too Many Requests", retry_after=1)
        other = self.begin("path=/other", "tasks=1")
        self.server.wait_for("/other")
        run = self.finish(self.begin("count=1"))
        self.assertEqual(run.code, 0, run.err)
        self.fetch("path=/later", "count=1")
        ((refused,), (later,)) = self.server.times(), self.server.times("/later")
        self.assertGreater(later, refused + 1 - JITTER)
        # Who has taken its next start before still makes it.
        self.server.wait_for("/other", refused + 0.25 + JITTER)
        self.assertGreater(self.server.times("/other")[-1], refused + 1 - JITTER)
        other.send_signal(signal.SIGTERM)
        self.assertEqual(self.finish(other).code, 143)


class Directory(StateCase):
    """The state directory."""

    def refused(self, *words, params=(), **options):
        run = self.finish(self.begin(*params, **options))
        self.assertEqual(run.code, 2, run.err)
        self.assertEqual(self.server.times(), [])
        self.assertRegex(run.err, r"^orchestrator: fetch\.lua:\d+: client\.rate_limit: ")
        for word in words:
            self.assertIn(word, run.err)

    def test_is_made_when_a_limit_needs_it(self):
        self.lua(
            """
            local api = orc.client { base_url = P.base, rate_limit = "100/s" }
            assert(api:fetch("/"))
            """,
            f"base={self.server.base}",
            "--state-dir=deep/state",
        )
        self.assertEqual(self.files(state=True), [])
        umask = os.umask(0)
        try:
            self.fetch("count=1", "--state-dir=deep/state")
        finally:
            os.umask(umask)
        self.assertEqual(self.files(), ["deep/state/state.db"])
        self.assertEqual(stat.S_IMODE(os.stat(self.path("deep/state")).st_mode), 0o700)
        self.assertEqual(stat.S_IMODE(os.stat(self.path("deep/state/state.db")).st_mode), 0o600)
        self.assertEqual(len(self.server.times()), 1)
        with self.database("deep/state/state.db") as database:
            ((name, version),) = database.execute("SELECT name, version FROM limits")
            self.assertEqual(name, "api")
            self.assertGreaterEqual(version, 1)

    def test_that_is_no_good_is_refused(self):
        self.fetch("count=1")
        self.server.arrivals.clear()
        path = self.path(".orchestrator", "state.db")
        with open(path, "rb") as file:
            good = file.read()
        move = ("move it away", "--state-dir")
        damages = {
            good[:4096]: ("database disk image is malformed", "move it away to start anew"),
            good[:20]: ("it was cut off: there are 20 bytes", "move it away to start anew"),
            b"": ("it was cut off: there are 0 bytes", "move it away to start anew"),
            b"no database" * 1000: ("file is not a database", *move),
            good[:4096] + b"\xff" * 16 + good[4112:]: (
                ".orchestrator/state.db: Page 2: ",
                "move it away to start anew",
            ),
        }
        for content, words in damages.items():
            with self.subTest(words[0]):
                self.write(".orchestrator/state.db", content)
                self.refused(".orchestrator/state.db: ", *words)
                with open(path, "rb") as file:
                    self.assertEqual(file.read(), content)
        self.write(".orchestrator/state.db", good)
        changes = {
            "PRAGMA application_id = 7": ("belongs to another program", "--state-dir"),
            "PRAGMA user_version = 99": ("its version is 99", "the version of orchestrator that"),
            "UPDATE limits SET document = '{'": ('the limit "api" makes no sense', "delete the file"),
        }
        for change, words in changes.items():
            with self.subTest(change):
                self.write(".orchestrator/state.db", good)
                with self.database() as database:
                    database.execute(change)
                self.refused(*words)
        os.rename(path, self.path("real.db"))
        os.symlink(self.path("real.db"), path)
        self.refused("it is a symbolic link")
        self.refused("cannot be made: Not a directory", params=("--state-dir", "fetch.lua"))
        self.refused("cannot be made", "--state-dir", params=("--state-dir", "/proc/none"))

    def test_that_cannot_be_written_to_is_refused(self):
        os.mkdir(self.path(".orchestrator"))
        self.fetch("count=1")
        self.server.arrivals.clear()
        options = {}
        if os.geteuid() == 0:  # who may write to everything
            shutil.copy(BINARY, self.path("program"))
            options = {"executable": self.path("program"), "user": 65534, "group": 65534}
            for place in (self.dir, self.path(".orchestrator"), self.path("fetch.lua")):
                os.chmod(place, 0o755)
        os.chmod(self.path(".orchestrator", "state.db"), 0o444)
        os.chmod(self.path(".orchestrator"), 0o555)
        try:
            self.refused("make the directory and the files in it writable", **options)
        finally:
            os.chmod(self.path(".orchestrator"), 0o755)

    def test_that_fails_later_ends_the_run(self):
        process = self.begin()
        self.assertEqual(process.stdout.readline(), b'"go"\n')
        with self.database() as database:
            database.execute("ALTER TABLE limits RENAME TO gone")
        began = time.monotonic()
        run = self.finish(process)
        self.assertLess(time.monotonic() - began, 10)
        self.assertEqual(run.code, 1)
        self.assertIn(".orchestrator/state.db: no such table: limits", run.err)
        self.assertEqual(run.err.count("\n"), 1, run.err)

    def test_is_left_in_order_when_interrupted(self):
        process = self.begin("limit=1", "per=1000")
        self.server.wait_for()
        process.send_signal(signal.SIGINT)
        self.assertEqual(self.finish(process).code, 130)
        self.assertEqual(self.files(state=True), [".orchestrator/state.db"])
        self.assertEqual(len(self.server.times()), 1)
        # The second one was not taken yet.
        with self.database() as database:
            ((ahead,),) = database.execute(
                "SELECT json_extract(document, '$.free_at') - json_extract(document, '$.at')"
                " FROM limits"
            )
        self.assertLess(ahead, 1001)


if __name__ == "__main__":
    import unittest

    unittest.main()
