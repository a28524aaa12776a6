"""Runs scripts in the real binary."""

import dataclasses
import json
import os
import re
import subprocess
import unittest

from servers import PATIENCE, scratch

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BINARY = os.environ.get("ORCHESTRATOR_BIN", os.path.join(ROOT, "build", "orchestrator"))

with open(BINARY, "rb") as program:
    SANITIZED = b"__asan_init" in program.read()

# A proxy that this machine needs is none of the tests'.
for variable in [name for name in os.environ if name.lower().endswith("_proxy")]:
    del os.environ[variable]

# What no run may ever say, however it ends.
BROKEN = re.compile(r"AddressSanitizer|LeakSanitizer|runtime error:|handle was left open|PANIC")

# On the first line of every script of `Case.lua`, so that lines keep their numbers.
PRELUDE = """local orc = require "orchestrator"; local P = orc.params; \
local function emit(v) io.stdout:write((assert(orc.json.encode(v))), "\\n") end; \
local function plain(err) return err and { kind = err.kind, message = err.message, \
url = err.url, status = err.status, attempts = err.attempts, text = tostring(err), \
body = err.response and err.response.body, traceback = err.traceback } end; \
local function outcome(res, err) return err and { err = plain(err) } or { status = res.status, \
body = res.body, url = res.url, attempts = res.attempts, framing = res.framing, \
hops = #res.hops, ignored = res.ignored } end; \
local function fetch(r) return outcome(orc.fetch(r)) end; """


@dataclasses.dataclass
class Run:
    code: int
    out: str
    err: str

    @property
    def values(self):
        """The JSON values written to stdout, one a line."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def value(self):
        (value,) = self.values
        return value


class Case(unittest.TestCase):
    """A test with a directory of its own, in which its scripts run."""

    def setUp(self):
        self.dir = self.enterContext(scratch())

    def path(self, *names):
        return os.path.join(self.dir, *names)

    def write(self, name, text):
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        with open(self.path(name), "wb") as file:
            file.write(text.encode() if isinstance(text, str) else text)

    def read(self, name):
        with open(self.path(name), encoding="utf-8", newline="") as file:
            return file.read()

    def records(self, name):
        return [json.loads(line) for line in self.read(name).splitlines()]

    def files(self, state=False):
        """Everything in the directory but scripts and, unless it is asked for, the state."""
        found = []
        for directory, _, names in os.walk(self.dir):
            found += [os.path.relpath(os.path.join(directory, name), self.dir) for name in names]
        if not state:
            found = [name for name in found if not name.startswith(".orchestrator/")]
        return sorted(name for name in found if not name.endswith(".lua"))

    def start(self, *args, env=None, prefix=(), **options):
        """Starts the program, by another one if there is a prefix; the caller, or the end of the
        test, ends it."""
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        process = subprocess.Popen(
            [*prefix, BINARY, *args],
            cwd=self.dir,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            **options,
        )
        self.addCleanup(end, process)
        return process

    def finish(self, process):
        """Waits for the end of a started program."""
        out, err = process.communicate(timeout=PATIENCE * 2)
        run = Run(process.returncode, (out or b"").decode(), (err or b"").decode())
        self.assertNotRegex(run.err, BROKEN)
        return run

    def orchestrate(self, *args, **options):
        """Runs the program to its end."""
        return self.finish(self.start(*args, **options))

    def script(self, source, *args, code=0, name="script.lua", **options):
        """Runs a script, which must end with that code; with any, if it is None."""
        self.write(name, source)
        run = self.orchestrate(name, *args, **options)
        self.assertIn(run.code, (code, run.code if code is None else code), run.err)
        return run

    def lua(self, source, *args, **options):
        """Runs a script that has emit(value), fetch(request) and P, the parameters."""
        return self.script(PRELUDE + source, *args, **options)

    def pipeline(self, fields, *args, **options):
        """Runs a script that is one pipeline."""
        return self.lua("return orc.pipeline { " + fields + " }", *args, **options)


def end(process):
    if process.poll() is None:
        process.kill()
    process.wait()
    for stream in (process.stdout, process.stderr):
        if stream:
            stream.close()
