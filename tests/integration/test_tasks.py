"""Tasks, end to end: map, gather, group, deadline, semaphore, channel, and modules that fetch while
they load. The specs have the details; here they run over real transfers."""

import unittest

from program import Case
from servers import RawServer, answer, answer_json, silence


class Served(Case):
    def setUp(self):
        super().setUp()
        self.server = self.enterContext(
            RawServer(
                {
                    "/": answer("hello"),
                    "/silent": silence,
                    "/404": answer(status="404 No"),
                    "/slow": lambda c, r: c.wait(0.1) and answer("slow"),
                    "/config": answer_json('{"path":"/"}'),
                }
            )
        )

    def ask(self, source, *args, **options):
        client = "local api = orc.client { base_url = P.base, retry = false } "
        return self.lua(client + source, f"base={self.server.base}", *args, **options)


class Tasks(Served):
    def test_map_collects(self):
        run = self.ask(
            """
            local results, errors = orc.map({ "/", "/404", "/slow" }, function(path, i)
              local res, err = api:fetch(path)
              return res and i .. res.body, err
            end)
            emit { results[1], results[2] or orc.null, results[3], results.n }
            emit { errors[1] or orc.null, errors[2].status, errors[3] or orc.null, errors.n }
            """
        )
        self.assertEqual(run.values, [["1hello", None, "3slow", 3], [None, 404, None, 3]])

    def test_map_pulls_from_an_iterator_that_fetches(self):
        run = self.ask(
            """
            local page = 0
            local results = orc.map(function()
              page = page + 1
              return page <= 5 and api:fetch("/?" .. page) and page or nil
            end, function(n) return n * 10 end, { concurrency = 3 })
            emit { results.n, results[1], results[5] }
            """
        )
        self.assertEqual(run.value, [5, 10, 50])

    def test_map_keeps_to_its_concurrency(self):
        self.ask(
            "local urls = {} for i = 1, 12 do urls[i] = '/slow' end "
            "orc.map(urls, function(url) return api:fetch(url) end, { concurrency = 3 })"
        )
        self.assertEqual((len(self.server.requests), self.server.most_in_flight), (12, 3))

    def test_the_first_failure_cancels_the_rest(self):
        run = self.ask(
            """
            local function get(path) return function() return api:fetch(path) end end
            local results, err = orc.gather({ get "/silent", get "/404", get "/silent" },
              { on_error = "fail" })
            emit { results == nil, err.kind, err.status }
            local one, why = orc.group(function(g)
              g:spawn(get "/silent")
              g:spawn(get "/404")
              orc.sleep "1h"
            end)
            emit { one == nil, why.kind, why.status }
            """
        )
        self.assertEqual(run.values, [[True, "http", 404]] * 2)
        self.server.until(lambda: self.server.in_flight == 0)

    def test_a_group_waits_for_its_children(self):
        run = self.ask(
            """
            local order = {}
            local result = orc.group(function(g)
              local a = g:spawn(function()
                table.insert(order, api:fetch("/slow").body)
                return "a"
              end)
              g:spawn(function() table.insert(order, api:fetch("/").body) end)
              return a:await()
            end)
            emit { result, order }
            """
        )
        self.assertEqual(run.value, ["a", ["hello", "slow"]])

    def test_a_deadline_aborts_the_transfer(self):
        run = self.ask(
            """
            local res, err = orc.deadline("150ms", function() return api:fetch "/silent" end)
            emit { res == nil, err.kind }
            local res, err = orc.group(function(g)
              g:spawn(function() return api:fetch "/silent" end)
            end, { deadline = "150ms" })
            emit { res == nil, err.kind }
            emit(orc.deadline(30, function() return api:fetch("/").body end))
            """
        )
        self.assertEqual(run.values, [[True, "timeout"], [True, "timeout"], "hello"])
        self.server.until(lambda: self.server.hung_up["/silent"] == 2)

    def test_a_deadline_in_the_middle_of_a_busy_run(self):
        run = self.ask(
            """
            local n = 0
            local _, err = orc.deadline("200ms", function()
              orc.map(function() return true end, function()
                assert(api:fetch "/")
                n = n + 1
              end, { concurrency = 30 })
            end)
            emit { err.kind, n > 30 }
            """
        )
        self.assertEqual(run.value, ["timeout", True])

    def test_cancelling_one_task(self):
        run = self.ask(
            """
            orc.group(function(g)
              local task = g:spawn(function()
                local ok, err = pcall(api.fetch, api, "/silent")
                emit { ok, err.kind }
                local again, why = pcall(orc.sleep, 0)
                emit { again, why.kind }
                return "swallowed"
              end)
              orc.sleep "50ms"
              task:cancel()
              local value, err = task:await()
              emit { value == nil, err.kind }
            end)
            emit "alive"
            """
        )
        self.assertEqual(
            run.values, [[False, "cancelled"], [False, "cancelled"], [True, "cancelled"], "alive"]
        )

    def test_an_error_knows_the_task_it_came_from(self):
        run = self.ask(
            """
            local function broken(path)
              local res = assert(api:fetch(path))
              return res.body.nothing.at_all
            end
            local _, errors = orc.map({ "/", "/404" }, broken)
            emit(plain(errors[1]))
            emit(plain(errors[2]))
            """
        )
        indexed, raised = run.values
        self.assertEqual(indexed["kind"], "script")
        self.assertIn("script.lua:4: attempt to index", indexed["message"])
        self.assertRegex(indexed["traceback"], r"script\.lua:4: in function")
        self.assertEqual((raised["kind"], raised["status"]), ("http", 404))
        self.assertRegex(raised["traceback"], r"script\.lua:3: in function")

    def test_semaphore_and_channel(self):
        run = self.ask(
            """
            local gate, lines, most, inside = orc.semaphore(2), orc.channel(1), 0, 0
            orc.group(function(g)
              g:spawn(function()
                orc.map({ 1, 2, 3, 4, 5, 6 }, function(i)
                  gate:with(function()
                    inside = inside + 1
                    most = math.max(most, inside)
                    lines:send(i .. api:fetch("/slow").body)
                    inside = inside - 1
                  end)
                end)
                lines:close()
              end)
              local got = {}
              for line in lines:iter() do got[#got + 1] = line end
              table.sort(got)
              emit { most, got }
            end)
            """
        )
        self.assertEqual(run.value, [2, [f"{i}slow" for i in range(1, 7)]])

    def test_a_sleep_lasts_and_now_goes_forward(self):
        run = self.ask(
            "local a = orc.now() orc.sleep '60ms' local b = orc.now() orc.sleep(0.05) "
            "emit { b - a >= 0.06, orc.now() - b >= 0.05 }"
        )
        self.assertEqual(run.value, [True, True])

    def test_coroutines_of_the_script_may_fetch(self):
        run = self.ask(
            """
            local function pages()
              return coroutine.wrap(function()
                for i = 1, 3 do coroutine.yield(i .. assert(api:fetch "/").body) end
              end)
            end
            for body in pages() do emit(body) end
            local ok, err = pcall(table.sort, { 1, 2, 3 }, function(a, b)
              api:fetch "/"
              return a < b
            end)
            emit { ok, (tostring(err):match "table.sort") }
            """
        )
        self.assertEqual(run.values, ["1hello", "2hello", "3hello", [False, "table.sort"]])

    def test_tasks_that_wait_for_each_other_for_ever(self):
        run = self.ask("emit(1) orc.channel():recv()", code=1)
        self.assertEqual(run.value, 1)
        self.assertIn("deadlock", run.err)


class Modules(Served):
    """Modules that fetch while they load."""

    def test_require(self):
        self.write(
            "config.lua",
            """
            local orc = require "orchestrator"
            local res = assert(orc.fetch(orc.params.base .. "/config"))
            return res:json()
            """,
        )
        self.write("lib/deep/init.lua", "return { config = require 'config', name = ... }")
        run = self.ask(
            """
            local results = orc.map({ 1, 2, 3, 4 }, function() return require "config" end)
            emit { results[1] == results[4], results[2].path }
            local deep = require "lib.deep"
            emit { deep.config == require "config", deep.name }
            emit(api:fetch(deep.config.path).body)
            """
        )
        self.assertEqual(run.values, [[True, "/"], [True, "lib.deep"], "hello"])
        self.assertEqual(self.server.targets().count("/config"), 1)

    def test_what_cannot_be_loaded(self):
        self.write("broken.lua", "local x = = 1")
        self.write("raises.lua", "require('orchestrator').sleep(0.01) error 'no luck'")
        self.write("one.lua", "return require 'two'")
        self.write("two.lua", "return require 'one'")
        self.write("typo.lua", "return prnit")
        run = self.ask(
            """
            for _, name in ipairs { "broken", "raises", "raises", "one", "missing", "typo" } do
              local ok, err = pcall(require, name)
              emit { ok, tostring(err) }
            end
            """
        )
        patterns = (
            r"broken\.lua:1: unexpected symbol",
            r"raises\.lua:1: no luck",
            r"raises\.lua:1: no luck",
            r"module 'one' requires itself",
            r"module 'missing' not found:\n\tno file '\./missing\.lua'",
            r'typo\.lua:1: undefined global "prnit" \(did you mean "print"\?\)',
        )  # fmt: skip
        for (ok, message), pattern in zip(run.values, patterns, strict=True):
            self.assertFalse(ok)
            self.assertRegex(message, pattern)


if __name__ == "__main__":
    unittest.main()
