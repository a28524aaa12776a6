"""JSON, exact from a server's bytes to a line of the output."""

import json
import random
import unittest

from program import Case
from servers import RawServer, answer


class Json(Case):
    def setUp(self):
        super().setUp()
        self.server = self.enterContext(RawServer())

    def through(self, documents):
        """What a pipeline writes for each document, served as the one record of a response; an
        error message for what is refused."""
        for i, document in enumerate(documents):
            self.server.routes[f"/{i}"] = answer(document)
        self.pipeline(
            "client = { base_url = P.base, retry = false }, ordered = true,"
            " source = orc.source.lines 'paths.lua', data_selector = 'r', sink = 'out.jsonl',"
            " map = function(record, res) return { record = record, url = res.url } end",
            f"base={self.server.base}",
            name="job.lua",
            code=None,
        )
        written = {}
        for name in ("out.jsonl", "job.dead.jsonl"):
            if name in self.files():
                for line in self.read(name).splitlines():
                    url = json.loads(line)["url"]
                    if "error" in line:
                        written[url] = json.loads(line)["error"]["message"]
                    else:
                        written[url] = line.removeprefix('{"record":').rpartition(',"url":')[0]
        return [written[f"{self.server.base}/{i}"] for i in range(len(documents))]


class Exact(Json):
    def decoded(self, documents):
        """What json() and encode make of each: the text, or the error."""
        for i, document in enumerate(documents):
            self.server.routes[f"/{i}"] = answer(document)
        run = self.lua(
            """
            for i = 0, P.count - 1 do
              local res = assert(orc.fetch(P.base .. "/" .. i))
              local value, err = res:json()
              local again, why = orc.json.decode(res.body)
              assert((err == nil) == (why == nil))
              if err then
                assert(err.kind == "decode")
                emit { err = err.message }
              else
                emit { text = orc.json.encode(value), again = orc.json.encode(again) }
              end
            end
            """,
            f"base={self.server.base}",
            f"count={len(documents)}",
        )
        for value in run.values:
            self.assertEqual(value.get("text"), value.get("again"))
        return [value.get("text") or value for value in run.values]

    def test_what_stays_as_it_was(self):
        documents = [
            "0", "-1", "123456789012345", "9007199254740991", "-9007199254740991", "1.5", "0.1",
            "1.7976931348623157e+308", "[]", "{}", "[[]]", "[{}]", '{"a":[]}',
            '{"a":{}}', "null", "[null]", '{"a":null}', "[1,null,3]", "[null,null]", "true",
            "false",
            '""', '"a"', '{"":0}', '{"1":"a","2":"b"}', '"\\u0000"', '"\\"\\\\"', '"ü€😀"',
        ]  # fmt: skip
        self.assertEqual(self.decoded(documents), documents)

    def test_what_is_written_in_another_way(self):
        documents = {
            "9007199254740993": '"9007199254740993"',
            "-123456789012345678901234567890": '"-123456789012345678901234567890"',
            '{"a":1,"a":2}': '{"a":2}',
            '{"b":1,"a":{"d":1,"c":2}}': '{"a":{"c":2,"d":1},"b":1}',
            " [ 1 , 2 ]\n": "[1,2]",
            "1.0": "1",
            "1E2": "100",
            '"\\u00fc\\ud83d\\ude00\\/"': '"ü😀/"',
            '"\\u001f\\n"': '"\\u001f\\n"',
            "\ufeff[]": "[]",
        }
        self.assertEqual(self.decoded(list(documents)), list(documents.values()))

    def test_what_is_no_json(self):
        documents = [
            b"NaN", b"Infinity", b"-Infinity", b"0x10", b"01", b"1.", b".5", b"+1", b"1e", b"- 1",
            b"[1,]", b'{"a":1,}', b"[1 2]", b"{1:2}", b"'a'", b"nul", b"tru", b"[", b"]", b'{"a"',
            b'"', b'"\n"', b'"\\x"', b'"\\u12"', b"[] []", b"[]x", b"\xff", b'"\xff"',
            b'"\xc0\xaf"',
            b'"\xed\xa0\x80"', b'"\\ud800"', b"", b" ", b"[1]\0", b"// x\n1",
            b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 100_000,
        ]  # fmt: skip
        for document, outcome in zip(documents, self.decoded(documents), strict=True):
            with self.subTest(document[:20]):
                self.assertIn("err", outcome)
                self.assertLess(len(outcome["err"]), 200)

    def test_the_deepest_that_passes(self):
        deep = b"[" * 1000 + b"]" * 1000
        self.assertEqual(self.decoded([deep])[0], deep.decode())
        self.assertIn("err", self.decoded([b"[" + deep + b"]"])[0])

    def test_the_order_of_keys_is_the_same_in_every_process(self):
        keys = [f"key {i}" for i in range(100)]
        random.Random(1).shuffle(keys)
        document = json.dumps({key: {"b": 1, "a": 2} for key in keys})
        texts = {self.decoded([document])[0] for _ in range(3)}
        self.assertEqual(
            texts, {json.dumps(json.loads(document), sort_keys=True, separators=(",", ":"))}
        )

    def test_any_document_is_equal_by_value(self):
        chance = random.Random(42)

        def value(depth):
            kind = chance.randrange(9 if depth else 6)
            if kind == 0:
                return chance.choice([None, True, False])
            if kind == 1:
                return chance.randrange(-(2**53), 2**53)
            if kind == 2:
                return chance.uniform(-1, 1) * 10 ** chance.randrange(-300, 300)
            if kind < 6:
                return "".join(
                    chr(chance.choice([chance.randrange(0xD800), 0x1F600, 0, 10])) for _ in range(5)
                )
            if kind == 6:
                return {str(value(0)): value(depth - 1) for _ in range(chance.randrange(6))}
            return [value(depth - 1) for _ in range(chance.randrange(6))]

        values = [value(5) for _ in range(200)]
        texts = self.decoded([json.dumps(v, ensure_ascii=chance.random() < 0.5) for v in values])
        self.assertEqual([json.loads(text) for text in texts], values)


class Records(Json):
    def test_from_a_response_to_a_line(self):
        documents = [
            '{"r":{"id":12345678901234567890,"n":null,"e":[],"o":{},"d":0.1}}',
            '{"r":{"text":"\\u001b]0;x\\u0007","n":-0.5}}',
            '{"r":{"b":1,"b":2}}',
            '{"r":{"n":NaN}}',
            '{"r":{"s":"\\ud800"}}',
        ]
        self.write("paths.lua", "".join(f"/{i}\n" for i in range(len(documents))))
        *good, nan, half = self.through(documents)
        self.assertEqual(
            good,
            ['{"d":0.1,"e":[],"id":"12345678901234567890","n":null,"o":{}}',
             '{"n":-0.5,"text":"\\u001b]0;x\\u0007"}', '{"b":2}'],
        )  # fmt: skip
        for message in (nan, half):
            self.assertRegex(message, "line 1, byte")

    def test_what_has_no_form_fails_its_item_alone(self):
        self.server.routes["/"] = answer('[{"id":1}]')
        self.pipeline(
            "source = { P.base .. '/?1', P.base .. '/?2', P.base .. '/?3', P.base .. '/?4' },"
            " sink = 'out.jsonl', map = function(record, res)"
            " local bad = { ['2'] = { x = 0 / 0 }, ['3'] = { f = print }, ['4'] = { s = '\\255' } }"
            " return bad[res.url:sub(-1)] or record end",
            f"base={self.server.base}",
            name="job.lua",
        )
        self.assertEqual(self.read("out.jsonl"), '{"id":1}\n')
        dead = {line["position"]: line["error"] for line in self.records("job.dead.jsonl")}
        self.assertEqual(sorted(dead), ["item 2", "item 3", "item 4"])
        for error, path in zip(
            (dead[key] for key in sorted(dead)), (".x", ".f", ".s"), strict=True
        ):
            self.assertEqual(error["kind"], "invalid")
            self.assertIn(path, error["message"])


if __name__ == "__main__":
    unittest.main()
