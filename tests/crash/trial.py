"""One pipeline that is run, killed and resumed, and what is asked of it."""

import collections
import contextlib
import dataclasses
import glob
import itertools
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time

import world
from sinks import Damaged

HERE = os.path.dirname(os.path.abspath(__file__))
WINDOW = 100  # items at most that are done and not committed
CONCURRENCY = 20
IN_FLIGHT = CONCURRENCY + 10  # there are some that wait for another try
PATIENCE = 60  # seconds after which a run hangs

# What no run may ever say, however it ends.
BROKEN = re.compile(
    r"AddressSanitizer|LeakSanitizer|runtime error:|handle was left open|PANIC|"
    r"attempt to (index|call|perform|compare|concatenate|get)|bad argument|stack traceback|"
    r"assertion failed"
)

STATE = "state/state.db"


@dataclasses.dataclass
class Lab:
    """What all trials share."""

    server: object
    directory: str
    binary: str
    postgres: object = None
    numbers: object = dataclasses.field(default_factory=lambda: itertools.count(1))


@dataclasses.dataclass
class Run:
    code: int  # that of a signal is negative
    out: str
    err: str
    seconds: float

    def story(self):
        lines = [line for line in self.err.splitlines() if line.strip()]
        return f"exit status {self.code}: " + " | ".join(lines[-4:])[:600]


class Trial:
    """A directory in which a pipeline runs, with a ledger of its own at the server. `lua` is a
    tree of Lua to use instead of the program's own."""

    def __init__(self, lab, shape, count, lua=None):
        self.lab, self.shape, self.count, self.lua = lab, shape, count, lua
        self.key = f"t{next(lab.numbers)}-"
        self.directory = os.path.join(lab.directory, self.key)
        self.base = lab.server.base(self.key)
        self.outputs = []  # what each run wrote to stdout
        self.runs = []
        self.kills = 0
        self.stops = 0  # runs that ended by an error
        os.mkdir(self.directory)
        self.later = False  # the dead letters are run again
        self.before = {}  # what the files had then
        self.seq = 0  # of the last run in the journal then
        for sink in shape.sinks:
            sink.before(self)
        name = "steps.lua.in" if shape.program else "crash.lua.in"
        with open(os.path.join(HERE, name), encoding="utf-8") as file:
            script = file.read()
        for name, text in (
            ("COUNT", count), ("CONCURRENCY", CONCURRENCY), ("OPTIONS", shape.lua(self)),
        ):  # fmt: skip
            script = script.replace(f"@{name}@", str(text))
        with open(self.path("crash.lua"), "w", encoding="utf-8") as file:
            file.write(script)

        if shape.later:
            self._turn()

    def _turn(self):
        """Runs the pipeline to its end; from here on its dead letters are run again."""
        run = self.run()
        wrong = self.judge(run) if run.code == 0 else [run.story()]
        if wrong:
            raise Hang(f"undisturbed: {wrong}")
        self.seq = self._last()[0]
        self.before = {
            sink: sink.bytes(self) for sink in self.shape.sinks if hasattr(sink, "bytes")
        }
        self.later = self.ledger.later = True
        self.ledger.requests.clear()
        self.runs = []

    @property
    def expected(self):
        """The rows and the dead letters that there must be at the end."""
        return world.outcome(self.count, self.shape.validates, self.later)

    @property
    def ledger(self):
        return self.lab.server.ledgers[self.key]

    def path(self, *names):
        return os.path.join(self.directory, *names)

    def drop(self):
        for path in glob.glob(self.directory + "*"):
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
        self.lab.server.ledgers.pop(self.key, None)

    # Running

    def start(self, strace=()):
        """Starts the program as it is told to go on, whether it has anything to go on with."""
        environment = {**os.environ, "LC_ALL": "C.UTF-8"}
        if self.lua:
            environment["ORCHESTRATOR_LUA"] = self.lua
        # A summary that is found is this run's.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path("..", self.key + ".summary"))
        command = [self.lab.binary, "crash.lua", f"base={self.base}", "-q"]
        command.append("--retry-dead" if self.later else "--resume")
        command += ["--state-dir", "state"]
        if not self.shape.program:
            command += ["--summary", f"../{self.key}.summary"]
        if strace:
            command = ["strace", *strace, "--", *command]
        out = tempfile.TemporaryFile()  # a pipe would make the program wait for us
        process = subprocess.Popen(
            command, cwd=self.directory, env=environment, stdin=subprocess.DEVNULL, stdout=out,
            stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        process.records, process.began = out, time.monotonic()
        return process

    def end(self, process, kill_after=None):
        """Waits for the end of a run, or ends it."""
        killed = False
        try:
            _, err = process.communicate(timeout=kill_after or PATIENCE)
        except subprocess.TimeoutExpired:
            killed = kill_after is not None
            os.killpg(process.pid, signal.SIGKILL)  # strace does not take the program with it
            _, err = process.communicate()
            if not killed:
                raise Hang(f"no end after {PATIENCE} s: {err.decode()[-300:]}") from None
        process.records.seek(0)
        out = process.records.read().decode("utf-8", "replace")
        process.records.close()
        err = "\n".join(
            line for line in err.decode("utf-8", "backslashreplace").splitlines()
            if not line.startswith("strace: ")
        )  # fmt: skip
        run = Run(process.returncode, out, err, time.monotonic() - process.began)
        self.kills += run.code == -signal.SIGKILL
        self.outputs.append(out)
        self.runs.append(run)
        return run

    def run(self, strace=(), kill_after=None):
        return self.end(self.start(strace), kill_after)

    @contextlib.contextmanager
    def copied(self, name):
        """A copy of a database as it is found, since to open one mends it."""
        with tempfile.TemporaryDirectory(dir=self.lab.directory) as directory:
            for suffix in ("", "-wal", "-journal"):
                if os.path.exists(self.path(name + suffix)):
                    shutil.copy(self.path(name + suffix), os.path.join(directory, "db" + suffix))
            yield os.path.join(directory, "db")

    def status(self):
        """That of the trial's run in the journal; None when there is none."""
        seq, status = self._last()
        return status if seq > self.seq else None

    def _last(self):
        if not os.path.exists(self.path(STATE)):
            return 0, None
        with self.copied(STATE) as path, contextlib.closing(sqlite3.connect(path)) as db:
            try:
                row = db.execute("SELECT seq, status FROM runs ORDER BY seq DESC").fetchone()
            except sqlite3.DatabaseError as problem:
                if "no such table" not in str(problem):
                    return self.seq + 1, f"unreadable: {problem}"
                row = None
            return row or (0, None)

    def ended(self):
        """Whether the last run had ended in all but its process: to run the command again would
        begin anew."""
        return self.status() == "finished"

    # Going back

    def snapshot(self):
        kept = f"{self.directory}.kept{next(self.lab.numbers)}"
        shutil.copytree(self.directory, kept, symlinks=True)
        others = [sink.snapshot(self) for sink in self.shape.sinks]
        ends = self.kills, self.stops
        return kept, others, self.ledger.copy(), list(self.outputs), list(self.runs), ends

    def restore(self, snapshot):
        kept, others, ledger, outputs, runs, (self.kills, self.stops) = snapshot
        shutil.rmtree(self.directory)
        shutil.copytree(kept, self.directory, symlinks=True)
        for sink, other in zip(self.shape.sinks, others):
            sink.restore(self, other)
        self.lab.server.ledgers[self.key] = ledger.copy()
        self.outputs, self.runs = list(outputs), list(runs)

    # Judging

    def between(self):
        """What is wrong while the run has not ended."""
        return [text for sink in self.shape.sinks for text in sink.between(self)]

    def complete(self):
        """Runs it to its end, undisturbed. Returns what is wrong."""
        if self.ended():
            return self.judge(None)
        run = self.run()
        if run.code != 0:
            return [f"the last run: {run.story()}", *self.spoken()]
        return self.judge(run)

    def spoken(self):
        return [
            f"a run says: {run.story()}" for run in self.runs if BROKEN.search(run.err)
        ] + [f"a run died: {run.story()}" for run in self.runs if run.code < 0 and run.code != -9]

    def judge(self, run):
        """What is wrong at the end. `run` is the last one, if it could say how it went."""
        wrong = self.spoken()
        for sink in self.shape.sinks:
            wrong += self._compare(sink)
        wrong += self._leftovers()
        if not self.shape.program:
            wrong += self._dead()
        excess, most = self.ledger.excess(), (self.kills + self.stops) * (IN_FLIGHT + WINDOW)
        if excess > most:
            wrong.append(f"{excess} requests were made again after "
                         f"{self.kills + self.stops} ends")
        if run and not self.shape.program:
            wrong += self._summary()
        if self.status() != "finished":
            wrong.append(f"the journal says {self.status()}")
        return wrong

    def _compare(self, sink):
        try:
            found = sink.rows(self)
        except (Damaged, OSError, subprocess.SubprocessError) as problem:
            return [f"{sink.name}: {problem}"]
        expected = collections.Counter(sink.expected(self))
        have = collections.Counter(found)
        lost, more = expected - have, have - expected
        if sink.again:
            more = collections.Counter({row: n for row, n in more.items() if row not in expected})
        wrong = []
        if lost:
            wrong.append(f"{sink.name}: {lost.total()} records are lost, {sorted(lost)[:3]}")
        if more:
            wrong.append(f"{sink.name}: {more.total()} records too many, {sorted(more)[:3]}")
        return wrong

    def letters(self):
        """The dead letters, as they are found."""
        if self.shape.letters:
            with contextlib.closing(sqlite3.connect(self.path(self.shape.letters))) as db:
                return [json.loads(text) for (text,) in db.execute("SELECT letter FROM letters")]
        found = []
        for directory, _, names in os.walk(self.directory):
            for name in names:
                if name.endswith(".dead.jsonl"):
                    with open(os.path.join(directory, name), encoding="utf-8") as file:
                        found += [json.loads(line) for line in file]
        return found

    def _dead(self):
        try:
            letters = self.letters()
            have = [(letter["item"], (letter.get("record") or {}).get("id")) for letter in letters]
            odd = [
                letter for letter in letters
                if not letter.get("record") and letter["error"].get("status") != 404
            ]  # fmt: skip
        except (ValueError, KeyError, TypeError, sqlite3.Error) as problem:
            return [f"the dead letters are damaged: {problem!r}"]
        lost = collections.Counter(self.expected[1]) - collections.Counter(have)
        more = collections.Counter(have) - collections.Counter(self.expected[1])
        wrong = [f"a dead letter: {odd[0]}"] if odd else []
        if lost:
            wrong.append(f"dead letters: {lost.total()} are lost, {sorted(lost, key=str)[:5]}")
        if more:
            wrong.append(f"dead letters: {more.total()} too many, {sorted(more, key=str)[:5]}")
        return wrong

    def _leftovers(self):
        return [
            f"{name} is left over"
            for _, _, names in os.walk(self.directory)
            for name in names
            if ".part" in name
        ]

    def _summary(self):
        try:
            with open(self.path("..", self.key + ".summary"), encoding="utf-8") as file:
                records = json.load(file)["records"]
        except (OSError, ValueError, KeyError) as problem:
            return [f"the summary: {problem!r}"]
        rows, letters = self.expected
        bad = sum(1 for _, record in letters if record is not None)
        true = {"in": len(rows) + bad, "out": len(rows), "dead": len(letters)}
        if self.later:  # those that were there before do not count
            done = len(world.outcome(self.count, self.shape.validates)[0])
            true["in"], true["out"] = true["in"] - done, true["out"] - done
        told = {name: records[name] for name in true}
        return [] if told == true else [f"the summary says {told}, true is {true}"]


class Hang(Exception):
    pass
