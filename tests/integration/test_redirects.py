"""Redirects: followed hop by hop, with nothing of value taken to another origin."""

import itertools
import json
import os
import unittest

from program import Case
from servers import RawServer, answer, answer_json, silence, then_close


def moved(status, location):
    return answer(status=f"{status} Moved", location=location)


def echo(_connection, request):
    return answer_json(
        json.dumps(
            {
                "method": request.method,
                "target": request.target,
                "headers": request.headers,
                "body": request.body.decode(),
            }
        )
    )


class Redirects(Case):
    def setUp(self):
        super().setUp()
        self.here = self.enterContext(RawServer({"/echo": echo}))
        self.there = self.enterContext(RawServer({"/echo": echo}))

    def ask(self, request, client="retry = false"):
        """Fetches; gives the outcome with the echoed request in `echo`."""
        run = self.lua(
            f"local api = orc.client {{ base_url = P.base, timeout = 10, {client} }}\n"
            f"local res, err = api:fetch {request}\n"
            "local result = outcome(res, err)\n"
            "if res and res.status == 200 then\n"
            "  result.echo, result.hops = res:json(), {}\n"
            "  for i, hop in ipairs(res.hops) do result.hops[i] = { hop.status, hop.url } end\n"
            "end\n"
            "emit(result)\n",
            f"base={self.here.base}",
        )
        return run.value

    def test_followed_to_the_end(self):
        self.here.routes.update(
            {
                "/a/b": moved(301, "../c?x=1#part"),
                "/c?x=1": moved(302, f"//127.0.0.1:{self.here.port}/d"),
                "/d": moved(308, "/echo?spaces are sent"),
                "/echo?spaces%20are%20sent": echo,
            }
        )
        result = self.ask('"/a/b"')
        self.assertEqual(result["url"], f"{self.here.base}/echo?spaces%20are%20sent")
        self.assertEqual(
            result["hops"],
            [[301, f"{self.here.base}/a/b"], [302, f"{self.here.base}/c?x=1"],
             [308, f"{self.here.base}/d"]],
        )  # fmt: skip
        self.assertEqual(result["attempts"], 1)
        self.assertEqual(len(self.here.requests), 4)

    def test_credentials_stay_at_their_origin(self):
        self.here.routes.update(
            {"/out": moved(302, f"{self.there.base}/echo"), "/in": moved(302, "/echo")}
        )
        client = """retry = false, auth = { type = "bearer", token = "t0ken" },
            headers = { ["X-API-Key"] = "k3y", Cookie = "c=1", ["X-Anything"] = "a",
              ["Accept-Language"] = "en" }"""
        request = '{ url = "/%s", headers = { ["X-Request-Secret"] = "s" } }'
        inside = self.ask(request % "in", client)["echo"]["headers"]
        for name in ("authorization", "x-api-key", "cookie", "x-anything", "x-request-secret"):
            self.assertIn(name, inside)
        outside = self.ask(request % "out", client)["echo"]["headers"]
        self.assertEqual(
            sorted(outside),
            ["accept", "accept-encoding", "accept-language", "host", "user-agent"],
        )
        self.assertNotIn(b"t0ken", self.there.last().raw)

    def test_credentials_do_not_come_back(self):
        self.here.routes["/out"] = moved(302, f"{self.there.base}/back")
        self.there.routes["/back"] = moved(302, f"{self.here.base}/echo")
        client = 'auth = { type = "basic", username = "u", password = "p" }'
        result = self.ask('"/out"', client)
        self.assertIn("authorization", self.here.requests[0].headers)
        self.assertNotIn("authorization", result["echo"]["headers"])
        self.assertEqual([status for status, _ in result["hops"]], [302, 302])

    def test_another_name_of_the_same_server_is_another_origin(self):
        there = self.here.base.replace("127.0.0.1", "localhost")
        self.here.routes["/out"] = moved(307, f"{there}/echo")
        client = 'auth = { type = "api_key", name = "X-Key", value = "k3y" }'
        request = '{ url = "/out", method = "POST", json = {}, headers = { Cookie = "c=1" } }'
        sent = self.ask(request, client)["echo"]
        self.assertEqual((sent["method"], sent["body"]), ("POST", "{}"))
        self.assertEqual(
            sorted(sent["headers"]),
            ["accept", "accept-encoding", "content-length", "content-type", "host", "user-agent"],
        )

    def test_a_key_in_the_query_goes_nowhere_else(self):
        self.here.routes["/out"] = moved(302, f"{self.there.base}/echo?page=2")
        client = 'auth = { type = "api_key", name = "key", value = "k3y", place = "query" }'
        result = self.ask('{ url = "/out", query = { page = 1 } }', client)
        self.assertEqual(sorted(self.here.last().target[5:].split("&")), ["key=k3y", "page=1"])
        self.assertEqual(result["echo"]["target"], "/echo?page=2")
        self.assertNotIn("referer", result["echo"]["headers"])

    def test_netrc_is_not_read_unasked(self):
        self.write(".netrc", "default login u password p\n")
        os.chmod(self.path(".netrc"), 0o600)
        self.here.routes["/out"] = moved(302, "/echo")
        run = self.lua(
            "emit(orc.fetch(P.base .. '/out'):json().headers)",
            f"base={self.here.base}",
            env={"HOME": self.dir, "NETRC": self.path(".netrc")},
        )
        self.assertNotIn("authorization", run.value)

    def test_credentials_in_a_url_stay_at_their_origin(self):
        self.here.routes["/out"] = moved(302, f"{self.there.base}/echo")
        user = self.here.base.replace("//", "//user:pass%21@")
        result = self.ask(f'"{user}/out"')
        self.assertNotIn("authorization", result["echo"]["headers"])
        self.assertEqual(self.here.last().headers["authorization"], "Basic dXNlcjpwYXNzIQ==")
        self.assertNotIn("pass", result["url"])
        self.here.routes["/out"] = moved(302, f"http://evil:word@127.0.0.1:{self.there.port}/echo")
        self.assertNotIn("authorization", self.ask('"/out"')["echo"]["headers"])

    def test_the_method_and_the_body(self):
        # RFC 9110 §15.4: 303 is for GET; 301 and 302 change POST and nothing else.
        for method, status in itertools.product(
            ("POST", "PUT", "PATCH", "DELETE"), (301, 302, 303, 307, 308)
        ):
            turns = status == 303 or (method == "POST" and status < 303)
            then, body = ("GET", "") if turns else (method, "hello")
            with self.subTest(f"{method} {status}"):
                self.here.routes["/"] = moved(status, f"{self.there.base}/echo")
                headers = 'headers = { ["Content-Type"] = "text/plain" }'
                request = f'{{ url = "/", method = "{method}", body = "hello", {headers} }}'
                sent = self.ask(request)["echo"]
                self.assertEqual((sent["method"], sent["body"]), (then, body))
                self.assertEqual(
                    sent["headers"].get("content-type"), "text/plain" if body else None
                )
        for status in (301, 302, 303, 307, 308):
            self.here.routes["/"] = moved(status, "/echo")
            self.assertEqual(self.ask('{ url = "/", method = "HEAD" }')["status"], 200)
            self.assertEqual(self.here.last().method, "HEAD")

    def test_other_statuses_are_no_redirects(self):
        for status in (300, 304, 305, 306, 309, 399, 201):
            self.here.routes["/"] = moved(status, "/echo")
            result = self.ask('{ url = "/", accept = "any" }')
            self.assertEqual((result["status"], result["hops"]), (status, 0))
        self.assertEqual(self.here.targets(), ["/"] * 7)

    def test_a_redirect_that_is_not_whole_is_not_followed(self):
        self.here.routes["/"] = then_close(
            answer("moved", status="302 Moved", location="/echo", content_length=6)
        )
        err = self.ask('"/"', "retry = { attempts = 2, wait_initial = 0 }")["err"]
        self.assertEqual((err["kind"], err["attempts"]), ("network", 2))
        self.assertEqual(self.here.targets(), ["/", "/"])

    def test_a_secret_in_a_body_goes_nowhere_else(self):
        self.here.routes.update(
            {"/out": moved(307, f"{self.there.base}/echo"), "/in": moved(307, "/echo")}
        )
        body = '{ url = "/%s", json = { password = orc.secret.value "passw0rd" } }'
        self.assertEqual(self.ask(body % "out")["err"]["kind"], "blocked")
        self.assertEqual(self.there.requests, [])
        self.assertEqual(self.ask(body % "in")["echo"]["body"], '{"password":"passw0rd"}')

    def test_loops_end(self):
        self.here.routes["/loop"] = moved(302, "/loop")
        result = self.ask('"/loop"', "retry = { attempts = 3, wait_initial = 0 }")["err"]
        self.assertEqual(result["kind"], "too_many_redirects")
        self.assertEqual(len(self.here.requests), 11)

    def test_follow(self):
        for i in range(5):
            self.here.routes[f"/{i}"] = moved(302, f"/{i + 1}" if i < 4 else "/echo")
        self.assertEqual(self.ask('{ url = "/0", follow = 5 }')["status"], 200)
        self.assertEqual(
            self.ask('{ url = "/0", follow = 4 }')["err"]["kind"], "too_many_redirects"
        )
        self.assertEqual(self.ask('"/0"', "follow = 4")["err"]["kind"], "too_many_redirects")
        none = self.ask('{ url = "/0", follow = 0 }')["err"]
        self.assertEqual((none["kind"], none["status"]), ("http", 302))
        self.assertEqual(self.ask('{ url = "/0", follow = 0, accept = { 302 } }')["status"], 302)

    def test_other_schemes_are_refused(self):
        for location in (
            "file:///etc/passwd", "ftp://127.0.0.1/", "gopher://127.0.0.1:70/_x",
            "data:text/plain,hello", "javascript:alert(1)", "FILE:///etc/passwd",
        ):  # fmt: skip
            with self.subTest(location):
                self.here.routes["/"] = moved(302, location)
                err = self.ask('"/"')["err"]
                self.assertEqual(err["kind"], "blocked")
                self.assertIn(location.partition(":")[0].lower(), err["message"].lower())

    def test_a_location_that_is_no_url(self):
        for location in ("http://", "http://a b/", "http://127.0.0.1:99999/", "http://[::1/"):
            with self.subTest(location):
                self.here.routes["/"] = moved(302, location)
                self.assertIn(self.ask('"/"')["err"]["kind"], ("blocked", "invalid"))
        for location in (None, ""):
            self.here.routes["/"] = moved(302, location)
            self.assertEqual(self.ask('"/"')["err"]["status"], 302)

    def test_an_attempt_spans_all_hops(self):
        count = iter(range(1000))

        def slow(connection, _request):
            connection.wait(0.15)
            return moved(302, f"/slow?{next(count)}")

        self.here.routes["/slow"] = slow
        err = self.ask('{ url = "/slow", timeout = "400ms", follow = 100 }')["err"]
        self.assertEqual((err["kind"], err["attempts"]), ("timeout", 1))
        self.assertLessEqual(len(self.here.requests), 4)

    def test_a_retry_begins_at_the_beginning(self):
        answers = iter([answer(status="503 No"), answer_json("{}")])
        self.here.routes.update({"/": moved(302, "/end"), "/end": lambda c, r: next(answers)})
        result = self.ask('"/"', "retry = { attempts = 2, wait_initial = 0 }")
        self.assertEqual((result["status"], result["attempts"]), (200, 2))
        self.assertEqual(self.here.targets(), ["/", "/end", "/", "/end"])

    def test_a_hop_that_never_answers(self):
        self.there.routes["/"] = silence
        self.here.routes["/"] = moved(302, self.there.base + "/")
        err = self.ask('{ url = "/", timeout = "200ms" }')["err"]
        self.assertEqual(err["kind"], "timeout")
        self.assertIn(str(self.there.port), err["url"])


if __name__ == "__main__":
    unittest.main()
