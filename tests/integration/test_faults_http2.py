"""HTTP/2 that goes wrong: streams reset, connections left, frames that make no sense."""

import os
import unittest

from faults_server import BODY, FAULTS, PRELUDE, produced, produces
from http2_server import (
    CANCEL, CLOSE, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, HEADERS, INTERNAL_ERROR,
    NO_ERROR, PAUSE, PING, PUSH_PROMISE, REFUSED_STREAM, SETTINGS, STATUS_200, Http2Server, data, frame,
    goaway, headers, literal, reset,
)  # fmt: skip
from program import Case
from servers import Certificates, scratch

LENGTH = STATUS_200 + literal("content-length", "32")
HALF = BODY[:16]


def whole(stream):
    return headers(stream) + data(stream, BODY, END_STREAM)


def together(count, answer):
    """Answers nobody until so many requests are there, then all by answer(connection, streams);
    whole answers for those who come later."""
    gathered = []

    def route(connection, stream):
        if len(gathered) == count:
            return whole(stream)
        gathered.append(stream)
        return answer(connection, gathered) if len(gathered) == count else None

    return route


def always(wrong):
    return lambda _, stream: wrong(stream)


def status(code):
    return b"\x08" + bytes([len(code)]) + code  # :status is entry 8 of the static table


# name → what every request is answered with, and the fault; None: it goes well.
ANSWERS = {
    "whole": (whole, None),
    "with a length": (lambda s: headers(s, LENGTH) + data(s, BODY, END_STREAM), None),
    "in pieces": (
        lambda s: [headers(s), data(s, HALF), data(s, b""), data(s, BODY[16:]),
                   data(s, b"", END_STREAM)], None),
    "early hints": (
        lambda s: headers(s, status(b"103") + literal("link", "</a>")) * 3 + whole(s), None),
    "trailer fields": (
        lambda s: headers(s) + data(s, BODY)
        + headers(s, literal("x", "y"), END_HEADERS | END_STREAM), None),
    "a header in continuations": (
        lambda s: frame(HEADERS, 0, s, LENGTH[:5]) + frame(CONTINUATION, 0, s, LENGTH[5:9])
        + frame(CONTINUATION, END_HEADERS, s, LENGTH[9:]) + data(s, BODY, END_STREAM), None),
    "an unknown frame": (lambda s: frame(0xEE, 0xFF, s, b"?") + whole(s), None),
    "pings": (lambda s: frame(PING, 0, 0, b"12345678") * 50 + whole(s), None),
    "leaving after this": (
        lambda s: headers(s) + data(s, HALF) + goaway(s) + data(s, BODY[16:], END_STREAM), None),
    "done with an upload": (lambda s: whole(s) + reset(s, NO_ERROR), None),
    "reset at once": (lambda s: reset(s, INTERNAL_ERROR), "stream_reset"),
    "reset after the head": (lambda s: headers(s) + reset(s, INTERNAL_ERROR), "stream_reset"),
    "reset in the body": (
        lambda s: headers(s) + data(s, BODY) + reset(s, INTERNAL_ERROR), "stream_reset"),
    "reset in a body with a length": (
        lambda s: headers(s, LENGTH) + data(s, HALF) + reset(s, INTERNAL_ERROR), "stream_reset"),
    "reset without an error in the body": (
        lambda s: headers(s) + data(s, BODY) + reset(s, NO_ERROR), "stream_reset"),
    "reset without an error before the length": (
        lambda s: headers(s, LENGTH) + data(s, HALF) + reset(s, NO_ERROR), "stream_reset"),
    "reset in the body later": (
        lambda s: [headers(s) + data(s, BODY), PAUSE, reset(s, INTERNAL_ERROR)], "stream_reset"),
    "reset without an error in the body later": (
        lambda s: [headers(s) + data(s, BODY), PAUSE, reset(s, NO_ERROR)], "stream_reset"),
    "reset without an error before the length later": (
        lambda s: [headers(s, LENGTH) + data(s, HALF), PAUSE, reset(s, NO_ERROR)], "stream_reset"),
    "cancelled in the body later": (
        lambda s: [headers(s) + data(s, BODY), PAUSE, reset(s, CANCEL)], "stream_reset"),
    "refused in the body later": (
        lambda s: [headers(s) + data(s, BODY), PAUSE, reset(s, REFUSED_STREAM)], "reset"),
    "leaving in the body": (
        lambda s: [headers(s), data(s, BODY), goaway(s), CLOSE], "truncated_body"),
    "leaving in anger": (
        lambda s: [headers(s), data(s, BODY), goaway(s, ENHANCE_YOUR_CALM), CLOSE],
        "truncated_body"),
    "closed at once": (lambda _: [CLOSE], "closed_early"),
    "closed after the head": (lambda s: [headers(s), CLOSE], "truncated_body"),
    "closed in the body": (lambda s: [headers(s), data(s, BODY), CLOSE], "truncated_body"),
    "closed in a body with a length": (
        lambda s: [headers(s, LENGTH), data(s, HALF), CLOSE], "truncated_body"),
    "shorter than its length": (
        lambda s: headers(s, LENGTH) + data(s, HALF, END_STREAM), "stream_reset"),
    "longer than its length": (
        lambda s: headers(s, LENGTH) + data(s, BODY * 2, END_STREAM), "stream_reset"),
    "two lengths": (
        lambda s: headers(s, LENGTH + literal("content-length", "16"))
        + data(s, BODY, END_STREAM), "stream_reset"),
    "a length that is none": (
        lambda s: headers(s, STATUS_200 + literal("content-length", "+32"))
        + data(s, BODY, END_STREAM), "stream_reset"),
    "chunked": (
        lambda s: headers(s, STATUS_200 + literal("transfer-encoding", "chunked"))
        + data(s, BODY, END_STREAM), "stream_reset"),
    "no status": (
        lambda s: headers(s, literal("x", "y")) + data(s, BODY, END_STREAM), "stream_reset"),
    "two statuses": (
        lambda s: headers(s, STATUS_200 * 2) + data(s, BODY, END_STREAM), "stream_reset"),
    "a name in capitals": (
        lambda s: headers(s, STATUS_200 + literal("X", "y")) + data(s, BODY, END_STREAM),
        "stream_reset"),
    "a line break in a value": (
        lambda s: headers(s, STATUS_200 + literal("x", "y\r\nz: 1")) + data(s, BODY, END_STREAM),
        "stream_reset"),
    "data before the head": (lambda s: data(s, BODY, END_STREAM), "closed_early"),
    "fields that make no sense": (
        lambda s: headers(s, b"\xff" * 20) + data(s, BODY, END_STREAM), "closed_early"),
    "data on no stream": (lambda s: headers(s) + data(0, BODY), "timeout"),
    "data on another stream": (lambda s: headers(s) + data(99, BODY), "timeout"),
    "a push nobody wants": (
        lambda s: headers(s) + frame(PUSH_PROMISE, END_HEADERS, s, b"\0\0\0\2" + STATUS_200)
        + data(s, BODY, END_STREAM),
        "timeout"),
    "settings that make no sense": (
        lambda s: frame(SETTINGS, 0, 0, b"\0\4\xff\xff\xff\xff") + whole(s), "closed_early"),
    "header fields without end": (
        lambda s: [frame(HEADERS, 0, s, STATUS_200)]
        + [frame(CONTINUATION, 0, s, literal("x", "y" * 9000))] * 100, "head_too_large"),
    "rubbish": (lambda s: b"HTTP/1.1 200 OK\r\n\r\n" + BODY, "closed_early"),
}  # fmt: skip

produced.update({fault for _, fault in ANSWERS.values()} - {None})


class Http2(Case):
    @classmethod
    def setUpClass(cls):
        directory = cls.enterClassContext(scratch())
        certificates = Certificates(directory)
        certificates.sign("localhost", "localhost")
        cls.certificate, cls.ca = os.path.join(directory, "localhost"), certificates.ca

    def serve(self, route):
        return self.enterContext(Http2Server(self.certificate, route))

    def ask(self, source, *args, **options):
        return self.lua(PRELUDE + source, *args, env={"SSL_CERT_FILE": self.ca}, **options)

    def test_answers(self):
        servers = {name: self.serve(always(wrong)) for name, (wrong, _) in ANSWERS.items()}
        run = self.ask(
            """
            local api = orc.client { timeout = 10,
              retry = { attempts = 2, wait_initial = 0, budget = 1000 } }
            local urls = {}
            for base in P.bases:gmatch "%S+" do urls[#urls + 1] = base end
            local results = orc.map(urls, function(url)
              local base, timeout = url:match "(.*)#(.*)"
              local res, err = api:fetch { url = base, timeout = tonumber(timeout) }
              local value = told(res, err)
              value.json = res and res:json()
              return value
            end)
            for i = 1, #urls do emit(results[i]) end
            """,
            "bases=" + " ".join(
                f"{servers[name].base}#{0.3 if fault == 'timeout' else 10}"
                for name, (_, fault) in ANSWERS.items()
            ),
        )
        for (name, (_, fault)), outcome in zip(ANSWERS.items(), run.values, strict=True):
            with self.subTest(name):
                if fault:
                    kind, again = FAULTS[fault]
                    self.assertEqual(
                        [outcome.get(key) for key in ("kind", "fault", "attempts")],
                        [kind, fault, 1 + again],
                        outcome,
                    )
                else:
                    self.assertEqual((outcome.get("json"), outcome["framing"]), ({"id": 1}, "h2"))
                # A connection used again that closes before an answer is no attempt's failure.
                unasked = 1 if fault == "closed_early" else 0
                self.assertIn(servers[name].requests - outcome["attempts"], (0, unasked))

    TEN = """
    local items = {}
    for i = 1, 10 do items[i] = i end
    local api = orc.client { timeout = 5, retry = { attempts = 2, wait_initial = 0 } }
    local before
    local results = orc.map(items, function(i)
      local res, err = api:fetch { url = P.base .. "/" .. i, method = P.method or "GET" }
      local value = told(res, err)
      value.id = res and res:json().id
      return value
    end)
    for i = 1, 10 do emit { results[i].attempts, results[i].id or results[i].fault } end
    """

    def ten(self, answer, *args):
        """Ten requests at once on one connection: their attempts with record or fault; and the
        server."""
        server = self.serve(together(10, answer))
        return self.ask(self.TEN, f"base={server.base}", *args).values, server

    def test_a_stream_that_is_reset_is_tried_again_alone(self):
        outcomes, server = self.ten(
            lambda _, streams: b"".join(
                reset(s, INTERNAL_ERROR) if s == streams[3] else whole(s) for s in streams
            )
        )
        self.assertEqual(sorted(outcomes), [[1, 1]] * 9 + [[2, 1]])
        self.assertEqual((server.opened, server.requests), (1, 11))

    def test_whoever_leaves_says_what_it_has_not_looked_at(self):
        # RFC 9113 §6.8: streams above the last one named were not processed, so that another try
        # is none of theirs.
        outcomes, server = self.ten(
            lambda _, streams: [goaway(streams[4]) + b"".join(map(whole, streams[:5])), CLOSE]
        )
        self.assertEqual({record for _, record in outcomes}, {1})
        self.assertEqual([attempts for attempts, _ in outcomes].count(1), 10)
        self.assertEqual(server.requests, 15)

    def test_a_connection_that_ends_under_ten_requests(self):
        outcomes, server = self.ten(
            lambda _, streams: [b"".join(headers(s) + data(s, BODY) for s in streams), CLOSE]
        )
        self.assertEqual(outcomes, [[2, 1]] * 10)
        self.assertEqual(server.requests, 20)

    def test_what_may_do_harm_is_not_sent_again(self):
        outcomes, server = self.ten(
            lambda _, streams: [b"".join(headers(s) + data(s, HALF) for s in streams), CLOSE],
            "method=POST",
        )
        self.assertEqual(outcomes, [[1, "truncated_body"]] * 10)
        self.assertEqual(server.requests, 10)

    def test_a_server_that_leaves_between_two_requests(self):
        server = self.serve(lambda _, stream: [whole(stream), goaway(stream), CLOSE])
        run = self.ask(
            """
            for i = 1, 10 do
              local res = assert(orc.fetch { url = P.base, retry = false })
              emit { res:json().id, res.attempts }
              if i % 2 == 0 then orc.sleep "10ms" end
            end
            """,
            f"base={server.base}",
        )
        self.assertEqual(run.values, [[1, 1]] * 10)
        self.assertEqual((server.opened, server.requests), (10, 10))

    def test_a_server_that_takes_few_streams_at_once(self):
        two = frame(SETTINGS, 0, 0, b"\0\3\0\0\0\2")
        server = self.serve(lambda _, stream: [two, PAUSE, whole(stream)])
        run = self.ask(self.TEN, f"base={server.base}")
        self.assertEqual(run.values, [[1, 1]] * 10)

    def test_an_answer_before_the_end_of_an_upload(self):
        # RFC 9113 §8.1: the reset asks for no more of the request, the answer is whole.
        server = self.serve(lambda _, s: [whole(s), PAUSE, reset(s, NO_ERROR)])
        run = self.ask(
            """
            local res, err = orc.fetch { url = P.base, method = "POST", body = ("x"):rep(3000000),
              retry = false }
            emit(told(res, err))
            """,
            f"base={server.base}",
        )
        self.assertEqual((run.value["attempts"], run.value.get("status")), (1, 200), run.value)

    def test_http_1_that_says_it_is_http_2(self):
        # libcurl believes it, and would share the connection and take any end for the body's.
        server = self.enterContext(
            Http2Server(
                self.certificate,
                lambda *_: [b"HTTP/2 200 \r\n\r\n" + BODY, PAUSE, CLOSE],
                "http/1.1",
            )
        )
        run = self.ask(self.TEN, f"base={server.base}")
        self.assertEqual(run.values, [[2, "bad_framing"]] * 10)

    @produces("redirect_downgrade")
    def test_https_does_not_lead_to_http(self):
        to = status(b"302") + literal("location", "http://localhost:1/")
        server = self.serve(lambda _, s: headers(s, to, END_HEADERS | END_STREAM))
        run = self.ask("emit(told(orc.fetch(P.base)))", f"base={server.base}")
        self.assertEqual(
            [run.value.get(key) for key in ("kind", "fault", "attempts")],
            ["blocked", "redirect_downgrade", 1],
        )

    def test_records_are_whole_and_descriptors_come_back(self):
        server = self.serve(always(ANSWERS["closed in the body"][0]))
        run = self.ask(
            """
            local before = descriptors()
            for _ = 1, 5 do emit(told(orc.fetch { url = P.base, retry = false })) end
            emit(descriptors() - before) -- the last may be kept until it is found to have ended
            """,
            f"base={server.base}",
        )
        *outcomes, left = run.values
        self.assertEqual({outcome["fault"] for outcome in outcomes}, {"truncated_body"})
        self.assertLessEqual(left, 1)
        bad = self.serve(always(ANSWERS["reset in the body later"][0]))
        good = self.serve(always(whole))
        self.pipeline(
            "source = { P.bad .. '/1', P.good .. '/1', P.bad .. '/2', P.good .. '/2' },"
            " client = { retry = false }, sink = 'out.jsonl'",
            f"bad={bad.base}",
            f"good={good.base}",
            name="job.lua",
            env={"SSL_CERT_FILE": self.ca},
        )
        self.assertEqual(self.records("out.jsonl"), [{"id": 1}] * 2)
        dead = self.records("job.dead.jsonl")
        self.assertEqual([line["error"]["kind"] for line in dead], ["protocol"] * 2)


if __name__ == "__main__":
    unittest.main()
