"""The command line, and what a person gets to read when something is wrong."""

import fcntl
import json
import os
import pty
import re
import shutil
import struct
import termios
import unittest

from program import ROOT, Case
from servers import RawServer, answer, answer_json, closed_port

ONE = "return orc.pipeline { name = 'job', client = { base_url = P.base, retry = false }, %s }"


class Served(Case):
    def setUp(self):
        super().setUp()
        self.server = self.enterContext(
            RawServer(
                {
                    "/one": answer_json('{"id":7}'),
                    "/items": answer_json('[{"id":1},{"id":2},{"id":3}]'),
                    "/404": answer(status="404 Not Found"),
                }
            )
        )

    def job(self, fields, *args, **options):
        return self.lua(ONE % fields, f"base={self.server.base}", *args, **options)


class Usage(Case):
    def test_help_and_version(self):
        for args in (["-h"], ["--help"], ["run", "-h"]):
            run = self.orchestrate(*args)
            self.assertEqual((run.code, run.err), (0, ""))
            self.assertRegex(run.out, r"^Usage: orchestrator \[run\] SCRIPT")
            for word in ("--sample", "--summary", "-j", "-q", "--log-level", "--log-format", "130"):
                self.assertIn(word, run.out)
        self.assertRegex(self.orchestrate("--version").out, r"^orchestrator \d+\.\d+\.\d+\n$")

    def test_what_cannot_start(self):
        self.write("ok.lua", "")
        for args, message in (
            ([], "missing argument 'script'"),
            (["run"], "missing argument 'script'"),
            (["ok.lua", "--nope"], "unknown option '--nope'"),
            (["ok.lua", "--sumary", "x"], "--summary"),
            (["ok.lua", "-j"], "argument"),
            (["ok.lua", "-j", "0"], "'0' is not a whole number"),
            (["ok.lua", "-j", "many"], "'many' is not a whole number"),
            (["ok.lua", "--sample", "1.5"], "'1.5' is not a whole number"),
            (["ok.lua", "--log-level", "loud"], "--log-level' must be one of"),
            (["ok.lua", "--log-format", "xml"], "--log-format' must be one of"),
            (["ok.lua", "--cache", "maybe"], "--cache' must be one of 'default', 'no-store'"),
            (["cache"], "a command is required"),
            (["cache", "lst"], "unknown command 'lst'\nDid you mean 'list'"),
            (["cache", "list", "-j", "3"], "unknown option '-j'"),
            (["ok.lua", "word"], "'word' is no parameter: expected key=value"),
            (["ok.lua", "a=1", "a=2"], "'a' is given twice"),
            (["missing.lua"], "cannot open missing.lua"),
            (["."], r"cannot (open|read) \."),
            (["ok.lua", "--sample", "1"], "--sample needs a script that returns a pipeline"),
            (["ok.lua", "--summary", "x"], "--summary needs a script that returns a pipeline"),
        ):
            with self.subTest(args):
                run = self.orchestrate(*args)
                self.assertEqual((run.code, run.out), (2, ""))
                self.assertRegex(run.err, "^orchestrator: ")
                self.assertRegex(run.err, message)
        self.assertEqual(self.files(), [])

    def test_parameters(self):
        for args in (["run"], []):
            self.write(
                "script.lua",
                'local p = require("orchestrator").params print(p.a, p["b-c"], p.d, p.x)',
            )
            run = self.orchestrate(*args, "script.lua", "a=1=2", "-q", "b-c=", "d=ü")
            self.assertEqual((run.code, run.out, run.err), (0, "1=2\t\tü\tnil\n", ""))

    def test_a_script_that_is_called_as_a_verb(self):
        self.write("cache", "print 'a script'")
        for args in (["./cache"], ["run", "cache"], ["--", "cache"]):
            self.assertEqual(self.orchestrate(*args).out, "a script\n")
        self.assertEqual(self.orchestrate("cache", "-h").out[:25], "Usage: orchestrator cache")

    def test_a_parameter_that_nothing_reads(self):
        self.write("script.lua", 'local orc = require "orchestrator" print(orc.params.base)')
        run = self.orchestrate("script.lua", "bse=1")
        self.assertRegex(
            run.err, r'warn script\.lua reads no parameter "bse" \(did you mean "base"'
        )
        self.assertEqual(self.orchestrate("script.lua", "base=1").err, "")


class Scripts(Case):
    """What is wrong with a script, in one line that names the place."""

    def refused(self, source, message, code=2):
        run = self.script(source, code=code)
        self.assertEqual(run.out, "")
        self.assertRegex(run.err, message)
        self.assertNotIn("orchestrator/", run.err)  # our own frames say nothing to its author
        return run.err

    def test_syntax(self):
        for source, line in (("local x = = 1", 1), ("\n\nif x then\n", 4), ("return {", 1)):
            self.refused(source, rf"^orchestrator: script\.lua:{line}: ")

    def test_options(self):
        head = 'local orc = require "orchestrator"\n'
        for source, message in (
            ('orc.client { retires = 1 }', r'unknown option "retires" \(did you mean "retry"\?\)'),
            ('orc.client { timeout = "ten" }', '"timeout" must be a duration.*got "ten"'),
            ('orc.client { timeout = { atempt = 1 } }', r'client.timeout.*did you mean "attempt"'),
            ('orc.client { timeout = -1 }', '"timeout" must be a duration'),
            ('orc.client { retry = { attempts = 0 } }', '"attempts" must be at least 1'),
            ('orc.client { retry = { jiter = false } }', 'did you mean "jitter"'),
            ('orc.client { retry = true }', '"retry" must be'),
            ('orc.client { rate_limit = "fast" }', '"rate_limit" must be a rate such as "100/1m"'),
            ('orc.client { rate_limit = { limt = 1, per = "1s" } }', 'did you mean "limit"'),
            ('orc.client { concurrency = 0 }', '"total" must be at least 1'),
            ('orc.client { concurrency = { per_hosts = 1 } }', 'did you mean "per_host"'),
            ('orc.client { base_url = "ftp://a" }', '"base_url" is not a URL.*ftp'),
            ('orc.client { max_body = "64 megs" }', '"max_body" must be a size'),
            ('orc.client { max_headers = "1MB" }', '"max_headers" must be at most'),
            ('orc.client { accept = { "200" } }', '"accept" must list statuses'),
            ('orc.client { headers = "a: b" }', '"headers" must be a table'),
            ('orc.client { headers = { ["a b"] = "c" } }', '"a b" is no header name'),
            ('orc.client { auth = { type = "beerer" } }', 'did you mean "bearer"'),
            ('orc.client { auth = { type = "bearer" } }', '"token" is missing'),
            ('orc.client { cache = "default" }', '"cache" must be true or false or a table'),
            ('orc.client { follow = -1 }', '"follow" must be at least 0'),
            ('orc.client { response_action = "retry" }', '"response_action" must be a function'),
            ('orc.client(12)', 'must be a table of options'),
            ('orc.fetch {}', '"url" is missing'),
            ('orc.fetch { url = "http://a/", mehtod = "GET" }', 'did you mean "method"'),
            ('orc.fetch { url = "http://a/", query = "a=1" }', '"query" must be a table'),
            ('orc.fetch { url = "http://a/", json = 1, form = {} }', 'form exclude each other'),
            ('orc.fetch(12)', 'expects a URL or a request table'),
            ('orc.pipeline {}', '"source" is missing'),
            ('orc.pipeline { source = {}, sinks = "-" }', 'did you mean "sink"'),
            ('orc.pipeline { source = {}, sink = "out.xml" }', r'no known format.*\.jsonl'),
            ('orc.pipeline { source = {}, sink = { "a.jsonl", "./a.jsonl" } }', 'twice'),
            ('orc.pipeline { source = {}, mode = "overwrite" }', '"mode" must be "replace", "append" or'),
            ('orc.pipeline { source = {}, on_error = "ignore" }', '"on_error" must be'),
            ('orc.pipeline { source = 12 }', '"source" must be'),
            ('orc.pipeline { source = {}, name = "a/b" }', '"name" must be a plain name'),
            ('orc.pipeline { source = {}, data_selector = "a..b" }', '"data_selector"'),
            ('orc.pipeline { source = {}, thresholds = { http_req_fialed = "rate<1" } }',
             'did you mean "http_req_failed"'),
            ('orc.pipeline { source = {}, thresholds = { records = "median<1" } }', 'no "median"'),
            ('orc.pipeline { source = {}, filter = true }', '"filter" must be a function'),
            ('orc.pipeline { source = orc.source.lines "missing.txt" }', 'read.*missing.txt'),
            ('orc.map({}, print, { concurency = 1 })', 'did you mean "concurrency"'),
            ('orc.sleep "soon"', 'sleep.*must be a duration'),
            ('orc.semaphore(0)', 'semaphore'),
            ('orc.fecth "http://a/"', 'did you mean "fetch"'),
        ):  # fmt: skip
            with self.subTest(source):
                err = self.refused(head + source, message)
                self.assertRegex(err, r"^orchestrator: script\.lua:2: ")
                self.assertEqual(err.count("\n"), 1)

    def test_errors_with_their_traceback(self):
        source = """local function inner(t)
              return t.a.b
            end
            local function outer()
              local value = inner {}
              return value
            end
            outer()
            """
        err = self.refused(source, r"^orchestrator: script\.lua:2: attempt to index field 'a'", 1)
        self.assertRegex(err, r"script\.lua:2: in function 'inner'\n.*script\.lua:5: in function")
        self.refused("error { code = 1 }", "orchestrator: ", 1)
        self.refused("error()", "orchestrator: ", 1)
        self.refused('assert(nil, "no luck")', "no luck", 1)
        self.refused('assert(require("orchestrator").fetch "nowhere")', "invalid: .*nowhere", 1)
        self.refused(
            "local t = setmetatable({}, { __tostring = error }) error(t)", "orchestrator: ", 1
        )

    def test_undefined_globals(self):
        self.refused("print(undefind)", r'script\.lua:1: undefined global "undefind"', 1)
        self.refused("requrie 'x'", r'did you mean "require"', 1)
        self.refused(
            "local function f() return itms end\nf()", r'script\.lua:1: undefined global "itms"', 1
        )
        self.script("x = 1 y = nil assert(x == 1 and rawget(_G, 'y') == nil)")

    def test_what_a_script_may_return(self):
        self.script("")
        self.script("return nil")
        self.refused("return 12", "the script returned a number")
        self.refused("return { 1 }", "element 1 of the returned list is a number")
        self.refused("return {}", "returned a table")
        self.refused(
            'local orc = require "orchestrator"\norc.pipeline { source = {} }',
            "script.lua: made a pipeline but did not return it",
        )

    def test_where_files_are_looked_for(self):
        # Modules stand beside the script; outputs are named from where one is.
        self.write("sub/helper.lua", "return { path = 'out.jsonl' }")
        self.script(
            "local orc = require 'orchestrator'\n"
            "return orc.pipeline { source = {}, sink = require('helper').path }",
            name="sub/script.lua",
        )
        self.assertEqual(self.files(), ["out.jsonl"])

    def test_a_script_that_ends_the_program(self):
        for source, code in (("os.exit(7)", 7), ("os.exit()", 0), ("os.exit(false)", 1)):
            run = self.script("io.stdout:write 'said' " + source, code=code)
            self.assertEqual((run.out, run.err), ("said", ""))
        self.script(
            "return require('orchestrator').pipeline { sink = { 'a.jsonl', 'b.jsonl' },"
            " source = function() os.exit(7) end }",
            code=7,
        )
        self.assertEqual(self.files(), ["a.jsonl.part", "b.jsonl.part"])  # to be gone on with

    def test_a_script_that_ends_the_program_and_is_not_remembered(self):
        self.script(
            "return require('orchestrator').pipeline { sink = { 'a.jsonl', 'b.jsonl' },"
            " journal = false, source = function() os.exit(7) end }",
            code=7,
        )
        self.assertEqual(self.files(), [])


class Options(Served):
    def test_concurrency(self):
        self.server.routes["/"] = lambda c, r: c.wait(0.05) and answer_json("{}")
        paths = "source = { '/', '/', '/', '/', '/', '/', '/', '/' }, sink = 'out.jsonl'"
        for args, most in (([], 8), (["-j", "2"], 2), (["-j3"], 3)):
            self.server.forget()
            self.job(paths, *args)
            self.assertEqual(self.server.most_in_flight, most)
        self.server.forget()
        self.lua(
            "orc.map({ '/', '/', '/', '/' }, function(path) return orc.fetch(P.base .. path) end)",
            f"base={self.server.base}", "-j", "1",
        )  # fmt: skip
        self.assertEqual(self.server.most_in_flight, 1)

    def test_sample(self):
        self.write("out.jsonl", "old\n")
        pulled = (
            "source = (function() local n = 0"
            " return function() n = n + 1 return '/items?' .. n end end)()"
        )
        run = self.job(pulled + ", sink = 'out.jsonl'", "--sample", "5")
        self.assertEqual([value["id"] for value in run.values], [1, 2, 3, 1, 2])
        self.assertEqual(self.files(), ["out.jsonl"])
        self.assertEqual(self.read("out.jsonl"), "old\n")
        self.assertLess(len(self.server.requests), 200)
        run = self.job(
            "source = { '/404', '/one' }, thresholds = { records = 'count>10' }", "--sample", "3"
        )
        self.assertEqual(run.values, [{"id": 7}])
        self.assertEqual(self.files(), ["out.jsonl"])

    def test_summary(self):
        self.server.routes["/flaky"] = iter_answers(
            answer(status="503 No"), answer_json('{"id":1}')
        )
        self.job(
            "source = { '/one', '/404', '/flaky', '/items' }, sink = 'out.jsonl',"
            " client = { base_url = P.base, retry = { wait_initial = 0 } },"
            " filter = function(r) return r.id ~= 2 end,"
            " thresholds = { records = 'count>=4', http_req_duration = 'p(95)<60000' }",
            "--summary", "deep/summary.json", code=None,
        )  # fmt: skip
        summary = json.loads(self.read("deep/summary.json"))
        self.assertEqual(
            sorted(summary),
            ["attempts", "bytes", "cache", "elapsed_s", "errors", "hedges", "hosts", "latency_ms",
             "limits", "pipeline", "records", "requests", "run_id", "slowest", "started_at", "statuses",
             "thresholds"],
        )  # fmt: skip
        self.assertEqual(
            summary["requests"],
            {"total": 4, "ok": 3, "failed": 1, "retried": 1, "from_cache": 0, "fallback": 0},
        )
        self.assertEqual(summary["records"], {"in": 5, "out": 4, "filtered": 1, "dead": 1})
        self.assertEqual(summary["statuses"], {"200": 3, "404": 1, "503": 1})
        self.assertEqual(summary["errors"], {"http": 1})
        self.assertEqual((summary["attempts"], summary["pipeline"]), (5, "job"))
        self.assertGreater(summary["bytes"], 30)
        self.assertEqual(sorted(summary["latency_ms"]), ["max", "p50", "p90", "p95", "p99"])
        (host,) = summary["hosts"].items()
        self.assertEqual((host[0], host[1]["attempts"]), (self.server.base, 5))
        self.assertEqual(len(summary["slowest"]), 4)
        self.assertTrue(summary["thresholds"]["records"]["count>=4"]["ok"])
        self.assertRegex(summary["started_at"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")

    def test_a_summary_that_cannot_be_written(self):
        os.mkdir(self.path("directory"))
        run = self.job("source = { '/one' }", "--summary", "directory", code=1)
        self.assertIn("--summary", run.err)

    def test_a_callback_that_ends_the_program(self):
        run = self.job(
            "source = { '/one' }, sink = 'out.jsonl', map = function() os.exit(7) end", code=7
        )
        self.assertEqual((run.out, run.err, self.files()), ("", "", ["out.jsonl.part"]))

    def test_quiet(self):
        run = self.job("source = { '/one', '/404' }, sink = 'out.jsonl'", "-q")
        self.assertEqual((run.out, run.err), ("", ""))
        run = self.job(
            "source = { '/one', '/404' }, sink = 'out.jsonl', on_error = 'fail'", "-q", code=1
        )
        self.assertRegex(run.err, r"^orchestrator: http: status 404 .*\n$")

    def test_log(self):
        torn = "sink = 'torn.jsonl', mode = 'append', source = { '/one', '/404' }"
        for args, pattern in (
            ([], r"(?m)^\d\d:\d\d:\d\d warn .*torn last line"),
            (
                ["--log-format", "json"],
                r'(?m)^\{"at":"20.*"level":"warn","message":".*torn last line',
            ),
        ):
            self.write("torn.jsonl", '{"id":')
            self.assertRegex(self.job(torn, *args).err, pattern)
        self.write("torn.jsonl", '{"id":')
        self.assertNotIn("torn last", self.job(torn, "--log-level", "error").err)
        self.assertNotIn("debug", self.job(torn).err)
        run = self.job(torn, "--log-level", "debug", "-q")
        self.assertRegex(run.err, "(?m)^.* debug item failed error=.*404")

    def test_records_go_to_stdout_and_everything_else_to_stderr(self):
        run = self.job("source = { '/one', '/404' }, thresholds = { records = 'count>9' }", code=3)
        self.assertEqual(run.out, '{"id":7}\n')
        for word in ("job: fetched 1 of 2", "404", "records", "count>9"):
            self.assertIn(word, run.err)
        self.assertNotIn("\x1b", run.err)
        self.assertNotIn("\r", run.err)

    def test_the_lua_half_may_come_from_a_directory(self):
        shutil.copytree(os.path.join(ROOT, "lua"), self.path("half"))
        path = self.path("half", "orchestrator", "summary.lua")
        with open(path, encoding="utf-8") as file:
            text = file.read()
        self.assertIn("fetched %s of", text)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text.replace("fetched %s of", "brought %s of"))
        run = self.job("source = { '/one' }", env={"ORCHESTRATOR_LUA": self.path("half")})
        self.assertIn("job: brought 1 of 1", run.err)
        self.assertIn("job: fetched 1 of 1", self.job("source = { '/one' }").err)


def iter_answers(*answers):
    left = iter(answers)
    return lambda connection, request: next(left)


class People(Served):
    """Errors a person can act on."""

    def test_an_unreachable_host(self):
        with closed_port() as port:
            run = self.job(
                f"source = {{ 'http://127.0.0.1:{port}/x' }}, sink = 'out.jsonl'", code=1
            )
        self.assertRegex(run.err, rf"1 connect at http://127\.0\.0\.1:{port}: .*(item 1 /x)")

    def test_a_host_that_does_not_exist(self):
        run = self.job("source = { 'http://nowhere.invalid/x' }, sink = 'out.jsonl'", code=1)
        self.assertRegex(run.err, r"nowhere\.invalid: no such host")

    def test_what_comes_from_the_network_cannot_speak_to_the_terminal(self):
        evil = "\x1b]0;owned\x07\x1b[2J\u202e\x9b31m"
        raw = evil.encode()
        self.server.routes.update(
            {
                "/status": b"HTTP/1.1 500 " + raw + b"\r\nContent-Length: 0\r\n\r\n",
                "/body": answer(raw, status="404 No"),
                "/location": b"HTTP/1.1 302 X\r\nLocation: "
                + raw
                + b"\r\nContent-Length: 0\r\n\r\n",
                "/retry": answer(status="429 X", retry_after=f"999999999{evil}"),
                "/coding": answer(raw, content_encoding=evil),
                "/json": answer(b'{"a":' + raw),
                "/keys": answer_json(b'{"a":1}'),
            }
        )
        self.write("urls.txt", f"{self.server.base}/x{evil}\nhttp://{evil}/\n".encode())
        run = self.job(
            "source = (function() local lines = io.lines 'urls.txt'"
            " local more = { '/status', '/body', '/location', '/retry', '/coding', '/json' }"
            " return function() return lines and (table.remove(more) or lines()) end end)(),"
            " sink = 'out.jsonl'",
            "--log-level", "debug", code=1,
        )  # fmt: skip
        run.err += self.job(
            "source = { '/keys' }, map = function() error('\\27]0;owned\\7') end", code=1
        ).err
        run.err += self.lua(f"error('{evil}')", code=1).err
        run.err += self.lua(f"return orc.client {{ ['{evil}'] = 1 }}", code=2).err
        for text in (run.err, run.out):
            for line in text.splitlines():
                self.assertTrue(line.isprintable(), line)
        self.assertIn("\\x1b", run.err)

    def test_credentials_in_a_url_are_not_shown(self):
        url = self.server.base.replace("//", "//user:passw0rd@")
        run = self.job(
            f"source = {{ '{url}/404', '{url}/one' }}, sink = 'out.jsonl'",
            "--log-level", "debug", "--summary", "s.json",
        )  # fmt: skip
        written = run.err + self.read("job.dead.jsonl") + self.read("s.json")
        self.assertNotIn("passw0rd", written)
        self.assertIn("404", written)


class Terminal(Served):
    """What stderr shows when somebody looks at it."""

    def watch(self, fields, *args, columns=60, env=None):
        """Runs a job on a terminal; gives what came to it."""
        master, slave = pty.openpty()
        self.addCleanup(os.close, master)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.write(
            "script.lua", "local orc = require 'orchestrator' local P = orc.params " + ONE % fields
        )
        process = self.start(
            "script.lua", f"base={self.server.base}", *args,
            stderr=slave, env={"TERM": "xterm", **(env or {})},
        )  # fmt: skip
        os.close(slave)
        shown = b""
        while True:
            try:
                data = os.read(master, 65536)
            except OSError:  # the other end is closed
                break
            if not data:
                break
            shown += data
        process.stdout.read()
        self.assertEqual(process.wait(), 0, shown)
        return shown.decode()

    SLOW = "source = { '/slow', '/slow', '/slow', '/404' }, sink = 'out.jsonl'"

    def setUp(self):
        super().setUp()
        self.server.routes["/slow"] = lambda c, r: c.wait(0.4) and answer_json('{"id":1}')

    def test_one_line_of_progress(self):
        shown = self.watch(self.SLOW, env={"NO_COLOR": "1"})
        progress = shown.partition("\r\x1b[Kjob: ")[0]
        lines = [line for line in re.split(r"\r\x1b\[K|\r", shown) if "in flight" in line]
        self.assertGreater(len(lines), 1, shown)
        for line in lines:
            self.assertNotIn("\n", line)
            self.assertRegex(line, r"^job  \d/4  ")
            self.assertLess(len(line.removesuffix("\x1b[K")), 60)
        self.assertRegex(lines[-1], "1 failed")
        self.assertNotIn("\n", progress)
        self.assertIn("fetched 3 of 4", shown)

    def test_it_fits_the_width(self):
        shown = self.watch(self.SLOW, columns=20)
        lines = [line for line in shown.split("\r") if line.startswith("job  ")]
        self.assertGreater(len(lines), 1)
        for line in lines:
            self.assertLess(len(line.removesuffix("\x1b[K")), 20)

    def test_messages_stand_above_it(self):
        shown = self.watch(self.SLOW + ", data_selector = 'none'")
        self.assertRegex(shown, r"\r\x1b\[K[^\r\n]* warn [^\r\n]*none[^\r\n]*\r\n")

    def test_quiet(self):
        self.assertEqual(self.watch(self.SLOW, "-q"), "")

    def test_colour(self):
        plain = r"\x1b\[[0-9;]*m"
        self.assertRegex(self.watch("source = { '/one' }, sink = 'out.jsonl'"), plain)
        for env in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
            shown = self.watch("source = { '/one' }, sink = 'out.jsonl'", env=env)
            self.assertNotRegex(shown, plain)
            self.assertIn("fetched 1 of 1", shown)


if __name__ == "__main__":
    unittest.main()
