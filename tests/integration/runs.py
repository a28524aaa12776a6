"""A pipeline that can be killed at any item, and what its runs leave: for the tests of resuming."""

import collections
import contextlib
import json
import re
import signal
import sqlite3
import time

from mockapi import MockApi
from program import PRELUDE, Case
from servers import PATIENCE

ITEMS = 300
CONCURRENCY = 20
WINDOW = 100  # items that may not be committed

# A pipeline over numbers. die=N kills the program when the N-th item is done; fields come last.
PIPELINE = """
local die, done = tonumber(P.die), 0
local function dies()
  done = done + 1
  if done == die then os.execute "kill -9 $PPID" end
end
local ids = {}
for i = 1, tonumber(P.count or %d) do ids[i] = i end
local api = orc.client { base_url = P.base, retry = false, concurrency = %d }
local given = {
  name = "job", client = api, source = ids, sink = "out.jsonl", mode = P.mode,
  request = function(id) return { url = "/echo?id=" .. id } end,
  map = function(_, _, id)
    dies()
    return { id = id }
  end,
}
local function pipeline(fields)
  for name, value in pairs(fields) do given[name] = value end
  return orc.pipeline(given)
end
""" % (
    ITEMS,
    CONCURRENCY,
)


class Runs(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server = cls.enterClassContext(MockApi())

    def setUp(self):
        super().setUp()
        self.server.request("/ledger/reset")

    def begin(self, fields, *args, **options):
        self.write("job.lua", PRELUDE + PIPELINE + f"return pipeline {{ {fields} }}")
        return self.start("job.lua", f"base={self.server.base}", *args, **options)

    def job(self, fields, *args, code=0, **options):
        run = self.finish(self.begin(fields, *args, **options))
        self.assertEqual(run.code, code, run.err)
        return run

    def killed(self, fields, *args, die=100, **options):
        """A run that kills itself when so many items are done."""
        return self.job(fields, *args, f"die={die}", code=-signal.SIGKILL, **options)

    def resumed(self, fields, *args, **options):
        return self.job(fields, "--resume", *args, **options)

    def ids(self, name="out.jsonl"):
        return [record["id"] for record in self.records(name)]

    def asked(self):
        """How often each id was asked for since the last call."""
        counts = collections.Counter()
        for key, count in self.server.ledger()["keys"].items():
            counts[int(re.search(r"id=(\d+)", key)[1])] += count
        self.server.request("/ledger/reset")
        return counts

    def assert_whole(self, name="out.jsonl", count=ITEMS):
        self.assertEqual(sorted(self.ids(name)), list(range(1, count + 1)))

    def statuses(self):
        """By pipeline, what became of its last run."""
        name = "file:" + self.path(".orchestrator/state.db") + "?mode=ro"  # it may not be there yet
        try:
            with contextlib.closing(sqlite3.connect(name, uri=True)) as state:
                return dict(state.execute("SELECT pipeline, status FROM runs ORDER BY seq"))
        except sqlite3.OperationalError:
            return {}

    def until(self, condition):
        deadline = time.monotonic() + PATIENCE
        while not condition():
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.01)

    def committed(self):
        """What the journal says is done."""
        with contextlib.closing(sqlite3.connect(self.path(".orchestrator/state.db"))) as database:
            query = "SELECT totals FROM windows ORDER BY at DESC LIMIT 1"
            rows = database.execute(query).fetchall()
        return json.loads(rows[0][0])["items"] if rows else 0
