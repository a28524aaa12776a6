"""`orchestrator runs`: what the journal says of runs."""

import json
import os
import unittest

from mockapi import MockApi
from program import Case


class RunsCommand(Case):
    @classmethod
    def setUpClass(cls):
        cls.api = cls.enterClassContext(MockApi())

    def job(self, count, broken=False, code=0):
        end = 'return nil, "the source is broken"' if broken else "return nil"
        return self.script(
            f"""
            local n = 0
            return require("orchestrator").pipeline {{
              client = {{ base_url = "{self.api.base}", retry = false, concurrency = 1 }},
              source = function()
                n = n + 1
                if n <= {count} then return "/json?n=2&key=" .. n end
                if n == {count} + 1 then return "/status/404" end
                {end}
              end,
              data_selector = "items",
              sink = "out.jsonl",
            }}
            """,
            name="job.lua",
            code=code,
        )

    def runs(self, *args, code=0):
        run = self.orchestrate("runs", *args)
        self.assertEqual(run.code, code, run.err)
        return run

    def test_nothing_is_known(self):
        run = self.runs()
        self.assertEqual(run.out, "")
        self.assertIn("no run is known in .orchestrator", run.err)
        self.assertIn("there is no run x", self.runs("show", "x", code=1).err)
        self.assertEqual(self.runs("--json").out, "")
        self.assertFalse(os.path.exists(self.path(".orchestrator")))

    def test_lists_and_explains_them(self):
        self.job(3, broken=True, code=1)
        (unfinished,) = self.runs("--json").values
        self.assertEqual(
            [unfinished[name] for name in ("pipeline", "status", "items", "failed")],
            ["job", "unfinished", 4, 1],
        )
        self.assertIn("the source is broken", unfinished["reason"])
        shown = self.runs("show", unfinished["id"][:16]).out
        self.assertIn("orchestrator job.lua --resume goes on with it", shown)
        self.assertIn("items      4 done, 1 of them failed (1 http)", shown)

        self.job(5)
        lines = self.runs().out.splitlines()
        self.assertEqual(len(lines), 3)
        self.assertRegex(lines[1], r" finished +job +6 items, 1 failed$")
        self.assertRegex(lines[2], r" given up +job +4 items, 1 failed$")
        self.assertIn("more than one run begins with 2", self.runs("show", "2", code=1).err)
        finished = json.loads(self.runs("show", "--json", lines[1].split()[0]).out)
        self.assertEqual((finished["records"]["out"], finished["sessions"]), (10, 1))
        self.assertEqual(finished["outputs"][0], "out.jsonl")

    def test_what_is_wrong_is_told(self):
        run = self.runs("hide", code=2)
        self.assertIn("Usage: orchestrator runs", run.err)
        self.write(".orchestrator/state.db", "not a database, but long enough" * 50)
        self.assertIn(".orchestrator/state.db", self.runs(code=2).err)


if __name__ == "__main__":
    unittest.main()
