"""Pipelines, end to end: sources, sinks, what becomes of bad items, bounds on memory."""

import fcntl
import json
import os
import resource
import signal
import time
import unittest

from program import PRELUDE, SANITIZED, Case
from servers import RawServer, answer, answer_json, silence

MANY = int(os.environ.get("MANY_REQUESTS", "300" if SANITIZED else "3000"))


class Served(Case):
    def setUp(self):
        super().setUp()
        self.server = self.enterContext(
            RawServer(
                {
                    "/items": answer_json(
                        '[{"id":1,"ok":true},{"id":2,"ok":false},{"id":3,"ok":true}]'
                    ),
                    "/one": answer_json('{"id":7}'),
                    "/nested": answer_json('{"data":{"items":[{"id":1},{"id":2}],"none":null}}'),
                    "/empty": answer(status="204 No Content", content_length=None),
                    "/text": answer("no JSON"),
                    "/404": answer_json('{"why":"gone"}', status="404 Not Found"),
                    "/503": answer(status="503 No"),
                    "/silent": silence,
                }
            )
        )

    def job(self, fields, *args, **options):
        """Runs job.lua, a pipeline over paths of the server."""
        quick = "retry = { attempts = 2, wait_initial = 0 }"
        if "client =" not in fields:
            fields = f"client = {{ base_url = P.base, {quick} }}, " + fields
        return self.pipeline(fields, f"base={self.server.base}", *args, name="job.lua", **options)

    def ids(self, name="out.jsonl"):
        return [record["id"] for record in self.records(name)]

    def dead(self):
        return self.records("job.dead.jsonl")


class Sinks(Served):
    def test_records_of_a_list_one_a_line(self):
        run = self.job("source = { '/items', '/one' }, sink = 'out.jsonl', ordered = true")
        self.assertEqual(self.ids(), [1, 2, 3, 7])
        self.assertTrue(self.read("out.jsonl").endswith('{"id":7}\n'))
        self.assertEqual(run.out, "")
        self.assertEqual(self.files(), ["out.jsonl"])

    def test_stdout_is_the_default(self):
        run = self.job("source = { '/one' }")
        self.assertEqual(run.out, '{"id":7}\n')
        self.assertEqual(self.files(), [])

    def test_a_reader_of_stdout_may_be_slow(self):
        # Somebody else may have made the pipe one that does not block.
        self.server.routes["/many"] = answer_json(
            json.dumps([{"id": i, "x": "y" * 90} for i in range(5000)])
        )
        reader, writer = os.pipe()
        fcntl.fcntl(writer, fcntl.F_SETFL, os.O_NONBLOCK)
        self.write("job.lua", PRELUDE + "return orc.pipeline { source = { P.base .. '/many' } }")
        process = self.start("job.lua", f"base={self.server.base}", stdout=writer)
        os.close(writer)
        time.sleep(0.2)  # the pipe is full now
        with open(reader, encoding="ascii") as pipe:
            self.assertEqual([json.loads(line)["id"] for line in pipe], list(range(5000)))
        self.assertEqual(self.finish(process).code, 0)

    def test_several_at_once(self):
        run = self.job("source = { '/items' }, sink = { 'out.jsonl', '-', 'deep/er/two.jsonl' }")
        self.assertEqual(self.files(), ["deep/er/two.jsonl", "out.jsonl"])
        self.assertEqual({run.out, self.read("out.jsonl")}, {self.read("deep/er/two.jsonl")})
        self.assertEqual(len(run.values), 3)

    def test_replace(self):
        self.write("out.jsonl", "old\n")
        failing = "source = { '/items', '/404' }, sink = 'out.jsonl', on_error = 'fail'"
        self.job(failing, code=1)
        # What it has is beside it, to be gone on with, until another run begins anew.
        self.assertEqual(self.files(), ["out.jsonl", "out.jsonl.part"])
        self.assertEqual(self.read("out.jsonl"), "old\n")
        self.job("source = { '/one' }, sink = 'out.jsonl', mode = 'replace'")
        self.assertEqual(self.read("out.jsonl"), '{"id":7}\n')
        self.assertEqual(self.files(), ["out.jsonl"])
        # Without a journal nothing is gone on with.
        self.job(failing + ", journal = false", code=1)
        self.assertEqual(self.files(), ["out.jsonl"])

    def test_replace_is_invisible_until_the_end(self):
        self.write("out.jsonl", "old\n")
        run = self.job(
            "source = { '/one' }, sink = 'out.jsonl',"
            " map = function(r) r.seen = io.open('out.jsonl'):read 'a' return r end".replace(
                "'a'", "'*a'"
            )
        )
        self.assertEqual(run.code, 0)
        self.assertEqual(self.records("out.jsonl"), [{"id": 7, "seen": "old\n"}])

    def test_append(self):
        for _ in range(2):
            self.job("source = { '/one' }, sink = 'out.jsonl', mode = 'append'")
        self.assertEqual(self.ids(), [7, 7])
        # What a failing run could write stays, in whole lines.
        self.server.routes["/late"] = lambda c, r: c.wait(0.2) and answer(status="404 No")
        self.job(
            "source = { '/items', '/late' }, ordered = true, sink = 'out.jsonl', mode = 'append',"
            " on_error = 'fail'",
            code=1,
        )
        self.assertEqual(self.ids(), [7, 7, 1, 2, 3])

    def test_append_mends_a_torn_line(self):
        self.write("out.jsonl", '{"id":1}\n{"id":')
        run = self.job("source = { '/one' }, sink = 'out.jsonl', mode = 'append'")
        self.assertEqual(self.ids(), [1, 7])
        self.assertRegex(run.err, "torn last line")
        self.write("out.jsonl", '{"id":1}\n{"id":2}')
        self.job("source = { '/one' }, sink = 'out.jsonl', mode = 'append'")
        self.assertEqual(self.ids(), [1, 2, 7])

    def test_links_are_not_followed(self):
        self.write("precious", "precious")
        for mode in ("replace", "append"):
            os.symlink("precious", self.path("out.jsonl"))
            self.job(f"source = {{ '/one' }}, sink = 'out.jsonl', mode = '{mode}'", code=None)
            self.assertEqual(self.read("precious"), "precious")
            os.remove(self.path("out.jsonl"))

    def test_two_runs_on_one_output(self):
        for mode in ("replace", "append"):
            with self.subTest(mode):
                self.server.forget()
                fields = f"sink = 'out.jsonl', mode = '{mode}', client = {{ base_url = P.base }}"
                first = f"return orc.pipeline {{ source = {{ '/silent' }}, {fields} }}"
                self.write("first.lua", PRELUDE + first)
                process = self.start("first.lua", f"base={self.server.base}")
                self.server.until(lambda: self.server.requests)
                run = self.job(f"source = {{ '/one' }}, {fields}", code=1)
                self.assertRegex(run.err, "out.jsonl.*another run")
                process.send_signal(signal.SIGINT)
                self.assertEqual(self.finish(process).code, 130)

    def test_a_full_disk(self):
        self.write("out.jsonl", "old\n")

        def limit():  # a file that may not grow is as good as a full disk
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

        big = (
            "map = function(r) local t = {}"
            " for i = 1, 2000 do t[i] = { i = i, s = ('x'):rep(90) } end return t end"
        )
        for mode, left in (("replace", "old\n"), ("append", None)):
            with self.subTest(mode):
                run = self.job(
                    f"source = {{ '/one', '/one?2' }}, sink = 'out.jsonl', mode = '{mode}', {big}",
                    code=1,
                    preexec_fn=limit,
                )
                self.assertRegex(run.err, "(?i)cannot write out.jsonl")
                self.assertIn("goes on with --resume", run.err)
                if left:
                    self.assertEqual(self.read("out.jsonl"), left)
        lines = self.read("out.jsonl").splitlines(keepends=True)
        self.assertEqual(lines[0], "old\n")
        for line in lines[1:]:
            self.assertTrue(line.endswith('"}\n'))

    def test_what_cannot_be_written_is_told_before_anything_is_asked_for(self):
        self.write("file", "")
        os.mkdir(self.path("directory.jsonl"))
        for target in (
            "file/out.jsonl",
            "directory.jsonl",
            "/proc/out.jsonl",
            "x" * 300 + ".jsonl",
        ):
            with self.subTest(target):
                run = self.job(f"source = {{ '/one' }}, sink = '{target}'", code=1)
                self.assertIn("cannot write", run.err)
        self.assertEqual(self.server.requests, [])

    def test_ordered(self):
        for i in range(6):
            self.server.routes[f"/{i}"] = (
                lambda wait, body: lambda c, r: c.wait(wait) and answer_json(body)
            )((6 - i) * 0.05, json.dumps({"id": i}))
        source = "source = { '/0', '/1', '/2', '/3', '/4', '/5' }, sink = 'out.jsonl'"
        self.job(source + ", ordered = true")
        self.assertEqual(self.ids(), [0, 1, 2, 3, 4, 5])
        self.job(source + ", ordered = false")
        self.assertEqual(sorted(self.ids()), [0, 1, 2, 3, 4, 5])
        self.assertLess(self.ids().index(5), self.ids().index(0))


class Records(Served):
    def test_data_selector(self):
        for selector, ids in (
            ("data.items", [1, 2]),
            ("data.items[*]", [1, 2]),
            ("data.items[1]", [2]),
            ("data", [None]),
        ):
            with self.subTest(selector):
                self.job(
                    f"source = {{ '/nested' }}, sink = 'out.jsonl', data_selector = '{selector}'"
                )
                self.assertEqual([record.get("id") for record in self.records("out.jsonl")], ids)
        for selector in ("data.none", "data.missing.more"):
            run = self.job(
                f"source = {{ '/nested' }}, sink = 'out.jsonl', data_selector = '{selector}'"
            )
            self.assertEqual(self.read("out.jsonl"), "")
            self.assertIn(selector, run.err)

    def test_an_answer_without_a_body_has_no_records(self):
        self.job("source = { '/empty', '/one' }, sink = 'out.jsonl'")
        self.assertEqual(self.ids(), [7])

    def test_filter_and_map(self):
        self.job(
            """
            source = { '/items' }, sink = 'out.jsonl',
            filter = function(record, res, item) return record.ok and item == '/items' end,
            map = function(record, res, item)
              return { id = record.id * 10, status = res.status, item = item }
            end
            """
        )
        self.assertEqual(
            self.records("out.jsonl"),
            [
                {"id": 10, "status": 200, "item": "/items"},
                {"id": 30, "status": 200, "item": "/items"},
            ],
        )
        self.job(
            """
            source = { '/items' }, sink = 'out.jsonl',
            map = function(record)
              if record.id == 1 then return { { id = 1 }, { id = 11 } } end
              if record.id == 2 then return nil end
              return {}
            end
            """
        )
        self.assertEqual(self.ids(), [1, 11])

    def test_request(self):
        self.server.routes["/search"] = lambda c, r: answer_json(
            json.dumps({"method": r.method, "target": r.target, "body": r.body.decode()})
        )
        self.job(
            """
            source = { 'a', { q = 'b' }, 3, 'none' }, sink = 'out.jsonl', ordered = true,
            request = function(item)
              if item == 'a' then return '/search?q=a' end
              if item == 3 then return { url = '/search', json = { q = 3 } } end
              if item == 'none' then return nil, 'no such thing' end
              return { url = '/search', query = item }
            end
            """
        )
        self.assertEqual(
            [[r["method"], r["target"], r["body"]] for r in self.records("out.jsonl")],
            [
                ["GET", "/search?q=a", ""],
                ["GET", "/search?q=b", ""],
                ["POST", "/search", '{"q":3}'],
            ],
        )
        (dead,) = self.dead()
        self.assertEqual((dead["item"], dead["error"]["kind"]), ("none", "validation"))

    def test_items_are_requests_themselves(self):
        self.server.routes["/post"] = lambda c, r: answer_json(r.body)
        self.job(
            "source = { { url = '/post', json = { id = 5 } }, { nothing = 1 }, true,"
            " { url = '/one', bda = 1 } },"
            " sink = 'out.jsonl', ordered = true"
        )
        self.assertEqual(self.ids(), [5])
        errors = [line["error"] for line in self.dead()]
        self.assertEqual([error["kind"] for error in errors], ["invalid"] * 3)
        self.assertRegex(errors[2]["message"], 'unknown option "bda"')

    def test_an_ignored_answer_has_no_records(self):
        self.job(
            "source = { '/one', '/items' }, sink = 'out.jsonl', client = { base_url = P.base,"
            " response_action = function(res) return res.url:find 'one' and 'ignore' or nil end }"
        )
        self.assertEqual(self.ids(), [1, 2, 3])


class Sources(Served):
    def test_lines(self):
        self.write(
            "urls.txt", b"\xef\xbb\xbf/one\r\n\r\n/items\n\xff\xfe\n" + b"x" * 1_100_000 + b"\n/404"
        )
        self.job("source = orc.source.lines 'urls.txt', sink = 'out.jsonl', ordered = true")
        self.assertEqual(self.ids(), [7, 1, 2, 3])
        dead = {line["position"]: line["error"] for line in self.dead()}
        self.assertEqual(sorted(dead), ["urls.txt:4", "urls.txt:5", "urls.txt:6"])
        self.assertRegex(dead["urls.txt:4"]["message"], "not UTF-8")
        self.assertRegex(dead["urls.txt:5"]["message"], "longer than 1 MB")
        self.assertEqual(dead["urls.txt:6"]["status"], 404)

    def test_jsonl(self):
        self.write("items.jsonl", '{"url":"/one"}\n\n{"url":\n"/items"\n[]\n{"url":"/404"}\n')
        self.job("source = orc.source.jsonl 'items.jsonl', sink = 'out.jsonl', ordered = true")
        self.assertEqual(self.ids(), [7, 1, 2, 3])
        self.assertEqual(
            [line["position"] for line in self.dead()],
            ["items.jsonl:3", "items.jsonl:5", "items.jsonl:6"],
        )

    def test_csv(self):
        self.server.routes["/echo"] = lambda c, r: answer_json(json.dumps({"id": r.target}))
        self.write(
            "rows.csv", 'path,note\r\n/echo,plain\r\n"/echo","a ""quoted"",\r\nnote"\r\n/echo\r\n'
        )
        self.job(
            "source = orc.source.csv 'rows.csv', sink = 'out.jsonl', ordered = true,"
            " request = function(row) return { url = row.path, query = { n = row.note } } end"
        )
        self.assertEqual(self.ids(), ["/echo?n=plain", "/echo?n=a%20%22quoted%22%2C%0D%0Anote"])
        self.assertEqual([line["position"] for line in self.dead()], ["rows.csv:5"])

    def test_an_iterator_may_fetch(self):
        self.server.routes["/pages"] = answer_json('["/one","/items"]')
        self.job(
            """
            sink = 'out.jsonl', ordered = true,
            source = (function()
              local page
              return function()
                page = page or assert(orc.fetch(P.base .. '/pages')):json()
                return table.remove(page, 1)
              end
            end)()
            """
        )
        self.assertEqual(self.ids(), [7, 1, 2, 3])

    def test_an_iterator_that_fails(self):
        self.write("out.jsonl", "old\n")
        for source, message in (
            ("function() return nil, 'the list is gone' end", "the list is gone"),
            ("function() error 'broken' end", r"job.lua:1: broken"),
        ):
            run = self.job(f"source = {source}, sink = 'out.jsonl'", code=1)
            self.assertRegex(run.err, message)
            self.assertEqual(self.read("out.jsonl"), "old\n")

    def test_an_empty_source(self):
        self.job("source = {}, sink = 'out.jsonl'")
        self.assertEqual(self.read("out.jsonl"), "")


class Failures(Served):
    def test_dead_letters(self):
        self.job("source = { '/404', '/503', '/text', '/one' }, sink = 'deep/out.jsonl'")
        self.assertEqual(self.files(), ["deep/job.dead.jsonl", "deep/out.jsonl"])
        dead = {line["item"]: line for line in self.records("deep/job.dead.jsonl")}
        gone = dead["/404"]
        self.assertEqual((gone["error"]["kind"], gone["error"]["status"]), ("http", 404))
        self.assertEqual((gone["attempts"], gone["position"]), (1, "item 1"))
        self.assertEqual(gone["url"], f"{self.server.base}/404")
        self.assertIn("gone", gone["excerpt"])
        self.assertEqual((gone["pipeline"], dead["/503"]["attempts"]), ("job", 2))
        self.assertRegex(gone["at"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
        self.assertEqual(dead["/text"]["error"]["kind"], "decode")
        self.assertIn("no JSON", dead["/text"]["excerpt"])
        # The next run that completes without any leaves none.
        self.job("source = { '/one' }, sink = 'deep/out.jsonl'")
        self.assertEqual(self.files(), ["deep/out.jsonl"])

    def test_skip(self):
        self.job("source = { '/404', '/one' }, sink = 'out.jsonl', on_error = 'skip'")
        self.assertEqual(self.files(), ["out.jsonl"])

    def test_fail_cancels_the_rest(self):
        run = self.job(
            "source = { '/silent', '/silent', '/404' }, sink = 'out.jsonl', on_error = 'fail'",
            code=1,
        )
        self.assertIn("status 404", run.err)
        self.assertEqual(self.files(), ["out.jsonl.part"])
        self.server.until(lambda: self.server.in_flight == 0)

    def test_a_function_decides(self):
        decide = (
            "on_error = function(err, item)"
            " return err.status == 404 and 'skip' or item == '/503' and 'dead_letter' or 'fail' end"
        )
        self.job(f"source = {{ '/404', '/503', '/one' }}, sink = 'out.jsonl', {decide}")
        self.assertEqual([line["item"] for line in self.dead()], ["/503"])
        self.job(f"source = {{ '/text', '/one' }}, sink = 'out.jsonl', {decide}", code=1)
        run = self.job(
            "source = { '/404' }, sink = 'out.jsonl', on_error = function() return 'later' end",
            code=1,
        )
        self.assertIn("got later", run.err)

    def test_when_every_item_failed_the_run_has(self):
        self.write("out.jsonl", "old\n")
        for verdict in ("dead_letter", "skip"):
            run = self.job(
                f"source = {{ '/404', '/503' }}, sink = 'out.jsonl', on_error = '{verdict}'", code=1
            )
            self.assertIn("every item failed", run.err)
            self.assertEqual(self.read("out.jsonl"), "old\n")

    def test_a_bad_url_in_a_list_fails_alone_and_tells_where(self):
        run = self.job(
            "source = { P.base .. '/one', 'http://a b/', 'file:///etc/passwd',"
            " P.base .. '/items' }, sink = 'out.jsonl', client = {}, ordered = true"
        )
        self.assertEqual(self.ids(), [7, 1, 2, 3])
        dead = [(line["position"], line["error"]["kind"]) for line in self.dead()]
        self.assertEqual(dead, [("item 2", "invalid"), ("item 3", "invalid")])
        self.assertIn("item 2", run.err)
        self.assertIn("job.dead.jsonl", run.err)

    def test_an_error_in_a_callback_is_a_bug_and_no_bad_item(self):
        self.write("out.jsonl", "old\n")
        for where, callback in (
            ("request", "request = function(item)\n return item.no.such end"),
            ("filter", "filter = function(record)\n return record.no.such end"),
            ("map", "map = function(record)\n return record.no.such end"),
            ("on_error", "on_error = function(err)\n return err.no.such end"),
            ("response_action", "client = { base_url = P.base, response_action = function(res)\n"
             " return res.no.such end }"),
            ("accept", "client = { base_url = P.base, accept = function(res)\n"
             " return res.no.such end }"),
        ):  # fmt: skip
            with self.subTest(where):
                if where != "on_error":
                    callback += ", on_error = 'skip'"
                run = self.job(
                    f"source = {{ '/404', '/one', '/silent' }}, sink = 'out.jsonl', {callback}",
                    code=1,
                )
                self.assertIn("job.lua:2: attempt to index", run.err)
                self.assertRegex(run.err, r"job\.lua(:2)?: in function")
                self.assertNotIn("orchestrator/pipeline.lua", run.err)
                self.assertNotIn("orchestrator/run.lua", run.err)
                self.assertEqual(self.files(), ["out.jsonl", "out.jsonl.part"])
                self.assertEqual(self.read("out.jsonl"), "old\n")

    def test_thresholds(self):
        self.write("out.jsonl", "old\n")
        run = self.job(
            "source = { '/one', '/404' }, sink = 'out.jsonl',"
            " thresholds = { http_req_failed = 'rate<0.5', records = { 'count>0', 'count<2' } }",
            code=3,
        )
        self.assertRegex(run.err, r"http_req_failed.*rate<0\.5")
        self.assertNotIn("count>0", run.err)
        self.assertEqual(self.ids(), [7])  # it ran, so its output counts
        self.job(
            "source = { '/one', '/404' }, sink = 'out.jsonl',"
            " thresholds = { http_reqs = 'count==2', http_req_failed = 'rate<=0.5',"
            " http_req_duration = 'p(95)<60000', iterations = 'count==2',"
            " records = 'count==1', records_filtered = 'count<1', dead_letters = 'count==1' }"
        )


class Several(Served):
    SCRIPT = """
    local function job(name, paths)
      return orc.pipeline { name = name, client = { base_url = P.base, retry = false },
        source = paths, sink = name .. ".jsonl" }
    end
    return { job("a", { "/one" }), job("b", { "/items" }), job("c", { P.path }) }
    """

    def test_run_side_by_side(self):
        run = self.lua(self.SCRIPT, f"base={self.server.base}", "path=/one", "--summary", "s.json")
        self.assertEqual([len(self.records(f"{name}.jsonl")) for name in "abc"], [1, 3, 1])
        (summaries,) = self.records("s.json")
        self.assertEqual([summary["pipeline"] for summary in summaries], ["a", "b", "c"])
        for name in "abc":
            self.assertIn(f"{name}: fetched 1 of 1", run.err)

    def test_one_that_fails_leaves_the_others(self):
        self.lua(self.SCRIPT, f"base={self.server.base}", "path=/404", code=1)
        self.assertEqual(self.files(), ["a.jsonl", "b.jsonl", "c.dead.jsonl"])

    def test_names(self):
        run = self.lua(
            "return { orc.pipeline { source = {} }, orc.pipeline { source = {} } }", code=2
        )
        self.assertIn('two pipelines are named "script"', run.err)

    def test_two_with_one_output(self):
        for first, second, place in (
            ("'a.jsonl'", "{ '-', './a.jsonl' }", "./a.jsonl"),
            ("'b.jsonl'", "{ '{name}.jsonl' }", "{name}.jsonl"),
            ("{ 'a.db', table = 't' }", "{ 'a.db', table = 't' }", "a.db, table t"),
            ("'x.jsonl', dead_letters = 'd.jsonl'", "'d.jsonl'", "d.jsonl"),
        ):
            run = self.lua(
                f"return {{ orc.pipeline {{ name = 'a', source = {{}}, sink = {first} }},"
                f" orc.pipeline {{ name = 'b', source = {{}}, sink = {second} }} }}", code=2
            )
            self.assertIn(f'the pipelines "a" and "b" both write to {place}\n', run.err)
        self.lua("return { orc.pipeline { name = 'a', source = {}, sink = '{name}.jsonl' },"
                 " orc.pipeline { name = 'b', source = {}, sink = '{name}.jsonl' } }")

    def test_options_of_others(self):
        for given, message in (
            ("retry = false", '"retry" is an option of client: client = { retry = … }'),
            ("delimiter = ';'", '"delimiter" is an option of csv: sink = { "x.csv", csv = {'),
            ("dead_letters = 'http://a.example/'", '"dead_letters" must be a file or a table'),
        ):
            run = self.lua(f"return orc.pipeline {{ source = {{}}, {given} }}", code=2)
            self.assertIn(message, run.err)

    def test_a_client_may_be_shared(self):
        self.server.routes["/"] = lambda c, r: c.wait(0.02) and answer_json("{}")
        self.lua(
            """
            local api = orc.client { base_url = P.base, concurrency = 2 }
            local list = {}
            for i = 1, 3 do
              list[i] = orc.pipeline { name = "p" .. i, client = api, sink = "p" .. i .. ".jsonl",
                source = { "/", "/", "/", "/" } }
            end
            return list
            """,
            f"base={self.server.base}",
        )
        self.assertEqual(len(self.server.requests), 12)
        self.assertEqual(self.server.most_in_flight, 2)


class Bounds(Served):
    def test_a_million_items(self):
        # MANY of them are fetched; the others fail by themselves, which takes no time.
        self.server.routes["/"] = answer_json(json.dumps({f"key {i}": "x" * 20 for i in range(30)}))
        run = self.job(
            """
            sink = 'out.jsonl', on_error = 'skip',
            source = (function()
              local n = 0
              return function()
                n = n + 1
                if n > 1000000 then return nil end
                return n % P.every == 0 and '/?' .. n or { n }
              end
            end)()
            """,
            f"every={1_000_000 // MANY}",
            "--summary", "s.json",
        )  # fmt: skip
        fetched = 1_000_000 // (1_000_000 // MANY)
        (summary,) = self.records("s.json")
        self.assertEqual(summary["records"]["out"], fetched)
        self.assertEqual(summary["errors"], {"invalid": 1_000_000 - fetched})
        self.assertEqual(len(self.records("out.jsonl")), fetched)
        self.assertIn("1,000,000", run.err)
        if not SANITIZED:
            self.assertLess(self.peak(), 64_000)

    def peak(self):
        """The most memory that any child of this process has had, in kB."""
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss

    def test_open_items_are_bounded(self):
        self.server.routes["/busy"] = answer(status="503 No", retry_after=200)
        source = """
            local n = 0
            return orc.pipeline { client = { base_url = P.base, concurrency = tonumber(P.total),
                retry = { budget = 1 }, server_limits = false },
              sink = 'out.jsonl', journal = false,
              source = function()
                n = n + 1
                if n == tonumber(P.window) then io.stderr:write 'full\\n' end
                if n > tonumber(P.window) then io.stderr:write 'too many\\n' end
                return '/busy'
              end }
            """
        for total, window in ((50, 1000), (300, 1200)):
            with self.subTest(total):
                self.server.forget()
                self.write("script.lua", PRELUDE + source)
                process = self.start(
                    "script.lua", f"base={self.server.base}", f"total={total}", f"window={window}"
                )
                self.assertEqual(process.stderr.readline(), b"full\n")
                self.server.until(lambda: len(self.server.requests) == window)
                time.sleep(0.2)
                process.send_signal(signal.SIGINT)
                run = self.finish(process)
                self.assertNotIn("too many", run.err)
                self.assertEqual(len(self.server.requests), window)

    def test_an_item_that_waits_to_be_retried_holds_up_nobody(self):
        self.server.routes["/late"] = (
            lambda left: lambda c, r: next(left, answer_json('{"id":0}'))
        )(iter([answer(status="503 No")]))
        self.job(
            "source = { '/late', '/one', '/items' }, sink = 'out.jsonl',"
            " client = { base_url = P.base, concurrency = 1,"
            " retry = { wait_initial = 1, jitter = false } }"
        )
        self.assertEqual(self.ids(), [7, 1, 2, 3, 0])

    def test_big_bodies_do_not_add_up(self):
        self.server.routes["/big"] = answer_json(
            json.dumps([{"id": i, "x": "y" * 1000} for i in range(1000)])
        )
        before = self.peak()
        self.job(
            "source = (function() local n = 0 return function() n = n + 1"
            " return n <= 60 and '/big' or nil end end)(), sink = 'out.jsonl',"
            " client = { base_url = P.base, concurrency = 2 },"
            " map = function(r) return { id = r.id } end"
        )
        self.assertEqual(len(self.ids()), 60_000)
        if not SANITIZED:
            self.assertLess(self.peak(), max(before, 100_000))


class Hourly(Served):
    def test_the_main_job(self):
        # pipelines/hourly.lua against fifty APIs of the same kind.
        for k in range(1, 51):
            items = [{"id": i, "name": f"n{i}", "price": i + 0.5, "active": i % 2 == 0,
                      "stock": i % 3, "updated_at": "2026-01-01T00:00:00Z"}
                     for i in range(12)]  # fmt: skip
            self.server.routes[f"/api/{k}"] = answer_json(json.dumps({"api": k, "items": items}))
        self.server.routes["/api/27"] = answer(status="404 Gone")
        script = os.path.join(os.path.dirname(__file__), "..", "..", "pipelines", "hourly.lua")
        run = self.orchestrate(os.path.abspath(script), f"base={self.server.base}")
        self.assertEqual(run.code, 0, run.err)
        self.assertIn("hourly: fetched 49 of 50", run.err)
        self.assertEqual(self.files(), ["out/hourly.dead.jsonl", "out/hourly.jsonl"])
        self.assertEqual(len(self.records("out/hourly.jsonl")), 49 * 4)
        self.assertEqual(
            [line["item"] for line in self.records("out/hourly.dead.jsonl")], ["/api/27"]
        )


if __name__ == "__main__":
    unittest.main()
