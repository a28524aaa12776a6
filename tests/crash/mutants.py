"""The program with a defect put in, which these tests have to find: a copy of its Lua half in which
one module ends with a few lines more."""

import os
import re
import shutil

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Mutant:
    """`shape` and `part` are what finds it. `code` is put before the module's `return`."""

    def __init__(self, name, shape, part, module, code):
        self.name, self.shape, self.part, self.module, self.code = name, shape, part, module, code

    def make(self, directory):
        """A tree of Lua with the defect. Returns where it is."""
        tree = os.path.join(directory, "lua-" + self.name)
        shutil.copytree(os.path.join(ROOT, "lua"), tree)
        path = os.path.join(tree, "orchestrator", self.module + ".lua")
        with open(path, encoding="utf-8") as file:
            text = file.read()
        ending = re.search(r"\nreturn \w+\n$", text)
        if not ending:
            raise LookupError(f"{self.module} does not end with a return")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text[: ending.start()] + self.code + ending.group())
        return tree


MUTANTS = [
    # The journal is told of a window before the sinks have it.
    Mutant("journal-first", "jsonl", "kills", "outputs", """
local commit = Outputs.commit
function Outputs:commit(jobs, kept, entry)
  if not kept then return commit(self, jobs, kept, entry) end
  assert(kept:commit(entry))
  local told = setmetatable({ commit = function() return true end }, { __index = kept })
  return commit(self, jobs, told, entry)
end
"""),
    # The same with a database, which otherwise has the journal's entry with the records.
    Mutant("not-carried", "sqlite-append", "kills", "sink_table", """
local commit = Sink.commit
function Sink:commit(window)
  window.entry = nil
  return commit(self, window)
end
"""),
    # A window is not synced before the journal is told of it.
    Mutant("not-synced", "jsonl", "power", "sink_file", """
local open = sink_file.open
function sink_file.open(spec, ctx)
  ctx.durable = false
  return open(spec, ctx)
end
"""),
    # Where a file that is appended to ended before the first window is not noted down.
    Mutant("not-placed", "jsonl-append", "kills", "journal", """
function Journal.place() return true end
"""),
    # What is sent to a receiver is not noted down before.
    Mutant("not-prepared", "http-hard", "kills", "journal", """
function Journal.prepare() return true end
"""),
    # A resumed run does everything again.
    Mutant("not-skipped", "jsonl", "kills", "resume", """
function resume.new(_, opts)
  return { next = function() return opts.take() end, ended = function() end, skipped = 0 }
end
"""),
]
