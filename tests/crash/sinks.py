"""The kinds of sink under test: how a pipeline names them, what is there before, and how what they
hold is read, by tools that are not the program's."""

import contextlib
import csv
import glob
import gzip
import io
import json
import os
import re
import shutil
import sqlite3
import subprocess

import world

OLD = {"id": -1, "item": -1, "text": "old", "value": 0.5, "nested": {"list": [], "deep": {}}}
COLUMNS = ("id", "item", "text", "value", "nested")


TABLES = ('re"cords', "letters", "_orchestrator")


class Damaged(Exception):
    """What a sink holds is not whole."""


def rows_of(records):
    try:
        return sorted(world.row(record) for record in records)
    except (KeyError, TypeError, ValueError) as problem:
        raise Damaged(f"a record is not whole: {problem!r}") from problem


class Sink:
    """One target. `again` is whether records may be there more than once after a kill."""

    again = False
    ends = True  # holds records when the run has ended

    def __init__(self, name, target, mode="replace", options=""):
        self.name, self.target, self.mode = name, target, mode
        self.options = options  # of the target, in Lua

    def lua(self, trial):
        target = json.dumps(self.address(trial), ensure_ascii=False)
        return f"{{ {target}, {self.options} }}" if self.options else target

    def address(self, _trial):
        return self.target

    def before(self, trial):
        """What an earlier run has left."""

    def between(self, trial):
        """What is wrong while no run has ended: a list of texts."""
        return []

    def rows(self, trial):
        """What the sink holds; raises Damaged."""
        raise NotImplementedError

    def expected(self, trial):
        return trial.expected[0]

    def snapshot(self, trial):
        """What is not in the trial's directory and restore needs."""

    def restore(self, trial, snapshot):
        pass


# Files ------------------------------------------------------------------------------------------


class File(Sink):
    def __init__(self, target, mode="replace", options=""):
        super().__init__(f"{target} {mode}", "out/" + target, mode, options)
        self.old = self.encode([OLD])
        if "{" in target or (mode == "append" and target.endswith((".gz", ".zst"))):
            self.old = None

    def encode(self, records):
        return "".join(json.dumps(record) + "\n" for record in records).encode()

    def decode(self, data):
        if data and not data.endswith(b"\n"):
            raise Damaged("the last line has no end")
        return [json.loads(line) for line in data.decode().split("\n")[:-1]]

    def path(self, trial):
        if "{" not in self.target:
            return trial.path(self.target)
        found = glob.glob(trial.path(re.sub("{.*?}", "*", self.target)))
        if len(found) > 1:
            raise Damaged(f"there are {found}")
        return found[0] if found else trial.path("none")

    def bytes(self, trial):
        try:
            with open(self.path(trial), "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def before(self, trial):
        if self.old is not None:
            os.makedirs(os.path.dirname(self.path(trial)), exist_ok=True)
            with open(self.path(trial), "wb") as file:
                file.write(self.old)

    def between(self, trial):
        data = self.bytes(trial)
        if self.mode == "append" or trial.later:
            old = trial.before.get(self, self.old)
            if old and not (data or b"").startswith(old.rstrip(b"]\n")):
                return [f"{self.target}: what was there before is gone"]
        elif data != self.old:
            with contextlib.suppress(Damaged, ValueError, OSError, subprocess.SubprocessError):
                if self.rows(trial) == self.expected(trial):
                    return []
            return [f"{self.target}: was replaced before the run was complete"]
        return []

    def rows(self, trial):
        data = self.bytes(trial)
        if data is None:
            raise Damaged("there is no file")
        try:
            return rows_of(self.decode(self.unpack(data)))
        except (ValueError, EOFError, OSError, csv.Error) as problem:
            raise Damaged(repr(problem)[:300]) from problem

    def unpack(self, data):
        if self.target.endswith(".gz"):
            return gzip.decompress(data)
        if self.target.endswith(".zst"):
            zstd = subprocess.run(["zstd", "-dcq"], input=data, capture_output=True, check=False)
            if zstd.returncode != 0:
                raise Damaged(zstd.stderr.decode())
            return zstd.stdout
        return data

    def expected(self, trial):
        kept = [world.row(OLD)] if self.mode == "append" and self.old else []
        return kept + super().expected(trial)


class Json(File):
    def encode(self, records):
        return json.dumps(records).encode() + b"\n"

    def decode(self, data):
        return json.loads(data)


class Csv(File):
    def encode(self, records):
        out = io.StringIO(newline="")
        table = csv.DictWriter(out, sorted(COLUMNS))  # as the program orders them
        table.writeheader()
        for record in records:
            nested = json.dumps(record["nested"], separators=(",", ":"))
            table.writerow({**record, "nested": nested})
        return out.getvalue().encode()

    def decode(self, data):
        if data and not data.endswith(b"\n"):
            raise Damaged("the last line has no end")
        table = csv.reader(io.StringIO(data.decode(), newline=""), strict=True)
        head = next(table, [])
        if sorted(head) != sorted(COLUMNS):
            raise Damaged(f"the first line is {head}")
        records = []
        for line in table:
            if len(line) != len(head):
                raise Damaged(f"a line of {len(line)} columns")
            record = dict(zip(head, line))
            record["nested"] = json.loads(record["nested"])
            records.append(record)
        return records


class Stdout(Sink):
    """At least once: what was written and not yet journaled comes again."""

    again = True

    def __init__(self):
        super().__init__("stdout", "-")

    def rows(self, trial):
        records = []
        for i, text in enumerate(trial.outputs):
            *lines, rest = text.split("\n")
            if rest and i == len(trial.outputs) - 1:
                raise Damaged("the last line has no end")
            records += [json.loads(line) for line in lines]
        return rows_of(records)


class Printed(Sink):
    """What the program's last run wrote to stdout."""

    def __init__(self):
        super().__init__("printed", "-")

    def rows(self, trial):
        return rows_of(json.loads(line) for line in trial.outputs[-1].split("\n")[:-1])


# Tables -----------------------------------------------------------------------------------------


class Sqlite(Sink):
    def __init__(self, mode):
        key = 'primary_key = { "id" }, ' if mode == "merge" else ""
        super().__init__(
            f"sqlite {mode}", "out/records.sqlite", mode,
            f"table = 're\"cords', {key}mode = \"{mode}\"",
        )

    def query(self, trial, sql):
        with contextlib.closing(sqlite3.connect(trial.path(self.target))) as db:
            return db.execute(sql).fetchall()

    def before(self, trial):
        if self.mode == "replace":
            os.makedirs(trial.path("out"), exist_ok=True)
            with contextlib.closing(sqlite3.connect(trial.path(self.target))) as db:
                db.execute('CREATE TABLE "re""cords"(id INTEGER, text TEXT)')
                db.execute("INSERT INTO \"re\"\"cords\" VALUES(-1, 'old')")
                db.commit()

    def between(self, trial):
        if not os.path.exists(trial.path(self.target)):
            return [f"{self.target} is gone"] if self.mode == "replace" else []
        # A copy: to read it here would mend what the kill has left.
        with trial.copied(self.target) as path, contextlib.closing(sqlite3.connect(path)) as db:
            try:
                verdict = db.execute("PRAGMA integrity_check").fetchall()
                if verdict != [("ok",)]:
                    return [f"{self.target}: integrity_check says {verdict}"]
                if self.mode == "replace" and not trial.later:
                    ids = [row[0] for row in db.execute('SELECT id FROM "re""cords"')]
                    if ids != [-1] and sorted(ids) != [row[0] for row in trial.expected[0]]:
                        return [f"{self.target}: {len(ids)} rows are seen before the run's end"]
            except sqlite3.Error as problem:
                return [f"{self.target}: {problem}"]
        return []

    def rows(self, trial):
        if not os.path.exists(trial.path(self.target)):
            raise Damaged("there is no database")
        try:
            verdict = self.query(trial, "PRAGMA integrity_check")
            found = self.query(trial, 'SELECT id, item, text, value, nested FROM "re""cords"')
            tables = self.query(trial, "SELECT name FROM sqlite_schema WHERE type = 'table'")
        except sqlite3.Error as problem:
            raise Damaged(str(problem)) from problem
        if verdict != [("ok",)]:
            raise Damaged(f"integrity_check says {verdict}")
        left = [name for (name,) in tables if name not in TABLES]
        if left:
            raise Damaged(f"tables are left over: {left}")
        records = [dict(zip(COLUMNS, row)) for row in found]
        for record in records:
            record["nested"] = json.loads(record["nested"])
        return rows_of(records)


class Postgres(Sink):
    def __init__(self, mode):
        key = 'primary_key = { "id" }, ' if mode == "merge" else ""
        super().__init__(
            f"postgres {mode}", "", mode, f'table = "records", {key}mode = "{mode}"'
        )

    def address(self, trial):
        return trial.lab.postgres.url(self.database(trial))

    @staticmethod
    def database(trial):
        return "crash_" + trial.key.strip("-")

    def query(self, trial, sql):
        return trial.lab.postgres.rows(self.database(trial), sql)

    def before(self, trial):
        trial.lab.postgres.recreate(self.database(trial))
        if self.mode == "replace":
            self.query(trial, "CREATE TABLE records(id bigint, text text);"
                              "INSERT INTO records VALUES(-1, 'old')")

    def between(self, trial):
        if self.mode != "replace" or trial.later:
            return []
        ids = sorted(map(int, self.query(trial, "SELECT id FROM records")))
        if ids != [-1] and ids != [row[0] for row in trial.expected[0]]:
            return [f"postgres: {len(ids)} rows are seen before the run's end"]
        return []

    def rows(self, trial):
        found = self.query(trial, "SELECT json_build_object('id', id, 'item', item, 'text', text, "
                                  "'value', value, 'nested', nested::jsonb) FROM records")
        tables = self.query(trial, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        left = sorted(set(tables) - {"records", "_orchestrator"})
        if left:
            raise Damaged(f"tables are left over: {left}")
        return rows_of(json.loads(line) for line in found)

    def snapshot(self, trial):
        name = self.database(trial)
        kept = f"{name}_kept{next(trial.lab.numbers)}"
        trial.lab.postgres.recreate(kept, name)
        return kept

    def restore(self, trial, snapshot):
        trial.lab.postgres.recreate(self.database(trial), snapshot)


# Others -----------------------------------------------------------------------------------------


class Http(Sink):
    """A receiver that keeps a batch once for its key. With `hard` it loses answers, too."""

    def __init__(self, hard=False):
        super().__init__(
            "http" + (" hard" if hard else ""), "sink-hard" if hard else "sink",
            options='client = { retry = { wait_initial = "1ms", wait_max = "5ms", budget = 1 } }',
        )  # fmt: skip

    def address(self, trial):
        return f"{trial.base}/{self.target}"

    def rows(self, trial):
        ledger = trial.ledger
        if ledger.faults:
            raise Damaged("; ".join(ledger.faults[:3]))
        records = []
        for body in ledger.delivered():
            text = body.decode()
            if not text.endswith("\n"):
                raise Damaged("a batch's last line has no end")
            records += [json.loads(line) for line in text.split("\n")[:-1]]
        return rows_of(records)


# Shapes of a pipeline ---------------------------------------------------------------------------


VALIDATES = "validate = function(r) return r.id % 17 ~= 3, 'it is a seventeenth' end, "


class Shape:
    """The sinks of a pipeline, and its other options. `later`: the trial is to run the dead letters
    of a finished run again."""

    def __init__(self, name, *sinks, options="", validates=False, later=False, letters=None):
        self.name, self.sinks, self.options = name, sinks, options
        self.validates, self.later = validates, later
        self.letters = letters  # a SQLite file that has the dead letters
        self.program = False  # it is no pipeline, but a script that remembers its steps
        if validates:
            self.options += VALIDATES
        if letters:
            self.options += f'dead_letters = {{ "{letters}", table = "letters" }}, '

    def lua(self, trial):
        targets = ", ".join(sink.lua(trial) for sink in self.sinks)
        modes = {sink.mode for sink in self.sinks if not isinstance(sink, (Sqlite, Postgres))}
        (mode,) = modes or {"replace"}
        mode = mode if mode != "merge" else "append"
        return f'sink = {{ {targets} }}, mode = "{mode}", {self.options}'

    @property
    def powerless(self):
        """Whether all that its sinks hold is in the trial's directory."""
        return not any(isinstance(sink, (Postgres, Http, Stdout, Printed)) for sink in self.sinks)


def shapes():
    """Every shape, by its name."""
    found = [
        Shape("jsonl", File("records.jsonl")),
        Shape("jsonl-append", File("records.jsonl", "append")),
        Shape("jsonl-gz", File("records.jsonl.gz")),
        Shape("jsonl-zst-append", File("records.jsonl.zst", "append")),
        Shape("csv", Csv("records.csv")),
        Shape("csv-append", Csv("records.csv", "append")),
        Shape("csv-zst", Csv("records.csv.zst")),
        Shape("json", Json("records.json")),
        Shape("json-append", Json("records.json", "append")),
        Shape("json-gz", Json("records.json.gz")),
        Shape("stdout", Stdout()),
        Shape("sqlite", Sqlite("replace")),
        Shape("sqlite-append", Sqlite("append")),
        Shape("sqlite-merge", Sqlite("merge")),
        Shape("postgres", Postgres("replace")),
        Shape("postgres-append", Postgres("append")),
        Shape("postgres-merge", Postgres("merge")),
        Shape("http", Http()),
        Shape("http-hard", Http(hard=True)),
        Shape("ordered", File("records.jsonl"), options="ordered = true, "),
        Shape("files", File("records.jsonl"), Csv("records.csv.gz"), Json("records.json")),
        Shape("file-table", File("records.jsonl"), Sqlite("replace")),
        Shape("tables", Sqlite("append"), Postgres("append")),
        Shape("all", File("records.jsonl"), Csv("records.csv"), Sqlite("replace"),
              Postgres("replace"), Http()),
        Shape("template", File("{name}-{run_id}.jsonl")),
        Shape("validated", File("records.jsonl"), validates=True),
        Shape("letters", Csv("records.csv"), validates=True, letters="out/letters.sqlite"),
        Shape("letters-beside", Sqlite("append"), validates=True, letters="out/records.sqlite"),
        Shape("retried", File("records.jsonl"), later=True, validates=True),
        Shape("retried-csv-gz", Csv("records.csv.gz"), later=True),
        Shape("retried-json", Json("records.json"), later=True),
        Shape("retried-table", Sqlite("append"), later=True, letters="out/letters.sqlite"),
        Shape("retried-merge", Sqlite("merge"), later=True, validates=True),
        Shape("retried-http", Http(), later=True),
    ]
    found.append(Shape("steps", Printed()))
    found[-1].program = True
    return {shape.name: shape for shape in found}


def tools_missing():
    """The programs that a shape cannot do without."""
    return [tool for tool in ("strace", "zstd", "psql") if not shutil.which(tool)]
