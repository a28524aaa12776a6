"""What records are checked for, end to end: the options schema and validate, and where bad records
go."""

import json
import unittest

from program import Case
from servers import RawServer, answer_json

ROWS = [
    {"id": 1, "price": 1.5, "state": "new"},
    {"id": "two", "price": 2, "state": "new"},
    {"id": 3, "price": -1, "state": "new"},
    {"price": 4, "state": "new"},
    {"id": 5, "price": 5, "state": "old"},
    {"id": 6, "price": 6, "state": "gone"},
]

COLUMNS = """columns = {
    id = { type = "integer", required = true },
    price = { type = "number", min = 0 },
    state = { type = "string", enum = { "new", "old" } },
}"""


class Checks(Case):
    def setUp(self):
        super().setUp()
        self.server = self.enterContext(
            RawServer({"/rows": answer_json(json.dumps(ROWS)), "/good": answer_json('[{"id":9}]')})
        )

    def job(self, fields, *args, **options):
        return self.pipeline(
            "client = { base_url = P.base }, sink = 'out.jsonl', " + fields,
            f"base={self.server.base}", *args, name="job.lua", **options,
        )  # fmt: skip

    def files(self):
        return [name for name in super().files() if not name.startswith(".orchestrator/")]

    def ids(self):
        return sorted(record["id"] for record in self.records("out.jsonl"))

    def test_bad_records_are_kept_with_the_reason_and_the_others_go_on(self):
        run = self.job(
            "source = { '/rows', '/good' }, schema = { " + COLUMNS + " },"
            " validate = function(r) return r.state ~= 'old', 'is old' end",
            "--summary", "summary.json",
        )  # fmt: skip
        self.assertEqual(self.ids(), [1, 9])
        letters = sorted(self.records("job.dead.jsonl"), key=lambda one: one["error"]["message"])
        self.assertEqual(
            [(one["record"], one["error"]["message"]) for one in letters],
            [
                (ROWS[3], '"id" is missing'),
                (ROWS[1], '"id" must be a whole number, got "two"'),
                (ROWS[2], '"price" must be at least 0, got -1'),
                (ROWS[5], '"state" must be one of "new", "old", got "gone"'),
                (ROWS[4], "is old"),
            ],
        )
        for one in letters:
            self.assertEqual(one["error"]["kind"], "validation")
            self.assertEqual((one["item"], one["position"]), ("/rows", "item 1"))
            self.assertEqual((one["attempts"], one["url"]), (1, self.server.base + "/rows"))
            self.assertEqual(one["request"], {"method": "GET", "url": "/rows"})
        counted = json.loads(self.read("summary.json"))
        self.assertEqual(
            counted["records"], {"in": 7, "out": 2, "filtered": 0, "invalid": 5, "dead": 5}
        )
        self.assertEqual(counted["errors"], {})
        self.assertRegex(run.err, r"7 in, 0 filtered out, 5 bad, 2 out")
        self.assertRegex(run.err, r"5 letters kept in job.dead.jsonl")

    def test_on_error_says_what_becomes_of_bad_records_too(self):
        rows = "source = { '/rows' }, schema = { " + COLUMNS + " }, "
        run = self.job(rows + "on_error = 'skip'", "--summary", "summary.json")
        self.assertEqual((self.files(), run.code), (["out.jsonl", "summary.json"], 0))
        counted = json.loads(self.read("summary.json"))["records"]
        self.assertEqual((counted["invalid"], counted["dead"]), (4, 0))

        run = self.job(rows + "on_error = 'fail'", code=1)
        self.assertIn('"id" must be a whole number, got "two"', run.err)

        self.job(
            rows + "on_error = function(err, item)"
            " assert(err.kind == 'validation' and item == '/rows')"
            " return err.record.id == 3 and 'dead_letter' or 'skip' end"
        )
        self.assertEqual([one["record"]["id"] for one in self.records("job.dead.jsonl")], [3])

    def test_a_frozen_schema_fails_the_run(self):
        fields = "source = { '/rows' }, schema = { contract = 'freeze', columns = { id = {} } }"
        run = self.job(fields, code=1)
        self.assertIn('the schema is frozen: the schema has no column "price"', run.err)
        self.assertNotIn("out.jsonl", self.files())

    def test_what_the_contract_discards(self):
        rows = "source = { '/rows' }, schema = { columns = { id = { type = 'integer' } }, "
        self.job(rows + "contract = 'discard_value' }")
        self.assertEqual(
            sorted(self.records("out.jsonl"), key=str),
            [{"id": 1}, {"id": 3}, {"id": 5}, {"id": 6}, {}, {}],
        )
        self.assertEqual(self.files(), ["out.jsonl"])
        run = self.job(rows + "contract = 'discard_row' }", code=1)  # none is left
        self.assertIn("every record is bad", run.err)
        self.assertRegex(run.err, r"  bad +6 validation at \S+: the schema has no .*\(item 1 /rows\)")
        self.assertEqual(len(self.records("out.jsonl")), 6)  # as it was
        self.assertEqual(len(self.records("job.dead.jsonl")), 6)

    def test_a_threshold_on_bad_records(self):
        rows = "source = { '/rows' }, schema = { " + COLUMNS + " }, "
        run = self.job(rows + "thresholds = { records_invalid = 'count<=3' }", code=3)
        self.assertRegex(run.err, r"records_invalid count<=3: it is 4")
        self.job(rows + "thresholds = { records_invalid = 'count==4' }")

    def test_a_sample_has_good_records_only_and_keeps_nothing(self):
        run = self.job(
            "source = { '/rows' }, schema = { " + COLUMNS + " }", "--sample", "2"
        )  # fmt: skip
        self.assertEqual([record["id"] for record in run.values], [1, 5])
        self.assertEqual(self.files(), [])

    def test_a_validate_that_raises_is_a_bug(self):
        run = self.job("source = { '/good' }, validate = function(r) return r.x.y end", code=1)
        self.assertRegex(run.err, r"job.lua:1: attempt to index field 'x'")

    def test_misuse_is_told_before_anything_runs(self):
        for fields, message in (
            ("schema = { columns = { id = 'int' } }", '"type" must be "boolean", "date"'),
            ("schema = { contrct = 'freeze' }", 'did you mean "contract"'),
            ("validate = true", '"validate" must be a function'),
        ):
            run = self.job("source = { '/good' }, " + fields, code=2)
            self.assertIn(message, run.err)
            self.assertRegex(run.err, r"orchestrator: job.lua:")
        self.assertEqual(self.server.requests, [])


if __name__ == "__main__":
    unittest.main()
