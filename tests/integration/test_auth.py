"""Authentication, against servers that check it themselves, and secrets, which no output shows."""

import base64
import collections
import datetime
import hashlib
import hmac
import html
import json
import os
import re
import threading
import unittest
import urllib.parse

from program import Case
from servers import PATIENCE, RawServer, answer, answer_json

SECRET = 's3cr3t/+"ü" &<t?>~~'


def moved(status, location):
    return answer(status=f"{status} Moved", location=location)


def refused(*challenges):
    lines = "\r\n".join(f"WWW-Authenticate: {challenge}" for challenge in challenges)
    return f"HTTP/1.1 401 No\r\n{lines}\r\nContent-Length: 0\r\n\r\n".encode()


def echo(_connection, request):
    return answer_json(json.dumps({"target": request.target, "headers": request.headers}))


def quoted(text):
    """A text as it stands in Lua."""
    return '"' + "".join(f"\\{byte:03d}" for byte in text.encode()) + '"'


class Digest:
    """An origin that asks for digest and checks the answers."""

    def __init__(self, algorithm="MD5", qop="auth", user="me", password=SECRET):
        self.algorithm, self.qop, self.user, self.password = algorithm, qop, user, password
        self.nonce, self.counts, self.refusals = "nonce-1", [], 0
        self.lock = threading.Lock()

    def hash(self, *parts):
        name = {"MD5": "md5", "SHA-256": "sha256", "SHA-512-256": "sha512_256"}
        text = ":".join(parts).encode()
        return hashlib.new(name[self.algorithm.removesuffix("-sess")], text).hexdigest()

    def expected(self, method, sent):
        a1 = self.hash(self.user, "the realm", self.password)
        if self.algorithm.endswith("-sess"):
            a1 = self.hash(a1, self.nonce, sent["cnonce"])
        a2 = self.hash(method, sent["uri"])
        if not self.qop:
            return self.hash(a1, self.nonce, a2)
        return self.hash(a1, self.nonce, sent["nc"], sent["cnonce"], "auth", a2)

    def __call__(self, _connection, request):
        field = request.headers.get("authorization", "")
        sent = dict(re.findall(r'(\w+)="?([^",]*)"?', field))
        with self.lock:
            if field.startswith("Digest ") and sent["nonce"] == self.nonce:
                assert sent["uri"] == request.target and sent["username"] == self.user
                if sent["response"] == self.expected(request.method, sent):
                    self.counts.append(sent.get("nc"))
                    return answer(status="200 OK", body="yes")
            self.refusals += 1
            qop = f', qop="{self.qop}"' if self.qop else ""
            stale = ", stale=true" if field else ""
            return refused(
                'Newauth realm="x", type=1',
                f'Digest realm="the realm", nonce="{self.nonce}", algorithm={self.algorithm}'
                f'{qop}, opaque="o", charset=UTF-8{stale}',
            )


class Tokens:
    """A token endpoint, and an API that takes its latest token."""

    def __init__(self):
        self.requests, self.current, self.refusals = [], None, 0
        self.lock = threading.Lock()
        self.gather = None  # a barrier for those with a token that is refused

    def grant(self, _connection, request):
        with self.lock:
            self.requests.append(request)
            self.current = f"token/{len(self.requests)}+{SECRET[:8]}"
            return answer_json(
                json.dumps(
                    {
                        "access_token": self.current,
                        "token_type": "bearer",
                        "expires_in": 3600,
                        "refresh_token": f"refresh-{len(self.requests)}",
                    }
                )
            )

    def api(self, _connection, request):
        with self.lock:
            good = request.headers.get("authorization") == f"Bearer {self.current}"
            self.refusals += not good
        if good:
            return answer("yes")
        if self.gather:
            self.gather.wait(PATIENCE)
        return refused('Bearer error="invalid_token"')

    def forms(self):
        return [dict(urllib.parse.parse_qsl(r.body.decode())) for r in self.requests]


class Auth(Case):
    def setUp(self):
        super().setUp()
        self.here = self.enterContext(RawServer({"/echo": echo}))

    def client(self, auth, body, options="", *args, **more):
        source = (
            f"local api = orc.client {{ base_url = P.base, auth = {{ {auth} }}, {options} }}\n"
            f"local function ask(r) return outcome(api:fetch(r)) end\n{body}"
        )
        return self.lua(source, f"base={self.here.base}", *args, **more)

    def test_what_is_the_same_every_time(self):
        secret = quoted(SECRET)
        body = 'emit(api:fetch("/echo?x=1"):json())'
        pair = base64.b64encode(f"me:{SECRET}".encode()).decode()
        for auth, expected in {
            'type = "bearer", token = "t0ken"': "Bearer t0ken",
            f'type = "basic", username = "me", password = {secret}': f"Basic {pair}",
        }.items():
            sent = self.client(auth, body).value
            self.assertEqual(sent["headers"]["authorization"], expected)
        sent = self.client('type = "api_key", name = "X-Key", value = "k3y"', body).value
        self.assertEqual(sent["headers"]["x-key"], "k3y")
        key = f'type = "api_key", name = "key", value = {secret}, place = "query"'
        sent = self.client(key, body).value
        self.assertEqual(sent["target"], "/echo?x=1&key=" + urllib.parse.quote(SECRET, safe=""))

    def test_digest(self):
        auth = f'type = "digest", username = "me", password = {quoted(SECRET)}'
        kinds = [("MD5", "auth"), ("MD5", ""), ("SHA-256", "auth,auth-int"), ("MD5-sess", "auth")]
        if "sha512_256" in hashlib.algorithms_available:
            kinds.append(("SHA-512-256-sess", "auth"))
        servers = [Digest(*kind) for kind in kinds]
        script = "local api, out\n"
        for i, server in enumerate(servers):
            other = self.enterContext(RawServer({"/": server}))
            script += (
                f"api = orc.client {{ base_url = '{other.base}', auth = {{ {auth} }} }}\n"
                "out = {}\n"
                "orc.map({ 1, 2, 3, 4, 5, 6, 7, 8 }, function(i)\n"
                f"  local r = assert(api:fetch {{ url = '/?n={i}&m=' .. i, method = 'PUT' }})\n"
                "  out[#out + 1] = { r.status, r.attempts, r.body }\nend)\nemit(out)\n"
            )
        values = self.lua(script).values
        for value, server in zip(values, servers, strict=True):
            with self.subTest(server.algorithm, qop=server.qop):
                self.assertEqual(value, [[200, 1, "yes"]] * 8)
                self.assertEqual(server.refusals, 1)
                if server.qop:
                    self.assertEqual(sorted(server.counts), [f"{n:08x}" for n in range(1, 9)])

    def test_digest_that_fails(self):
        self.here.routes["/"] = Digest(password="another")
        self.here.routes["/int"] = refused('Digest realm="r", nonce="n", qop="auth-int"')
        self.here.routes["/basic"] = refused("Basic realm=x")
        self.here.routes["/junk"] = refused('Digest realm="' + "x" * 20000)
        auth = 'type = "digest", username = "me", password = "pass"'
        run = self.client(
            auth, 'for _, u in ipairs { "/", "/int", "/basic", "/junk" } do emit(ask(u).err) end'
        )
        for value, says in zip(
            run.values, ["calls every nonce stale", "auth-int", "not offer digest but basic", "without"],
            strict=True,
        ):  # fmt: skip
            self.assertEqual((value["kind"], value["status"], value["attempts"]), ("http", 401, 1))
            self.assertIn(says, value["message"])

    def test_digest_and_a_body_that_cannot_be_repeated(self):
        digest = Digest(password="pass")

        def route(connection, request):
            while b"0\r\n\r\n" not in connection.pending:
                self.assertTrue(connection._receive())
            connection.pending = b""
            return digest(connection, request)

        self.here.routes["/"] = route
        first, second = self.client(
            'type = "digest", username = "me", password = "pass"',
            "for _ = 1, 2 do\n"
            "  local pieces = { 'hello' }\n"
            "  emit(ask { url = '/', body = function() return table.remove(pieces) end })\n"
            "end",
        ).values
        self.assertEqual(first["err"]["status"], 401)
        self.assertIn("its body came from a function", first["err"]["message"])
        self.assertEqual(second["status"], 200)
        self.assertEqual(len(self.here.requests), 2)

    def oauth2(self, more=""):
        self.tokens = Tokens()
        self.here.routes.update({"/token": self.tokens.grant, "/api": self.tokens.api})
        return (
            f'type = "oauth2", token_url = P.base .. "/token", client_id = "an app", '
            f"client_secret = {quoted(SECRET)}, {more}"
        )

    def test_oauth2(self):
        auth = self.oauth2('scope = { "a", "b" }, audience = "me", params = { x = "y z" }')
        self.assertEqual(self.client(auth, 'emit(ask("/api"))').value["status"], 200)
        user = urllib.parse.quote("an app", safe="") + ":" + urllib.parse.quote(SECRET, safe="")
        (request,) = self.tokens.requests
        self.assertEqual(
            request.headers["authorization"], "Basic " + base64.b64encode(user.encode()).decode()
        )
        form = {"grant_type": "client_credentials", "scope": "a b", "audience": "me", "x": "y z"}
        self.assertEqual(self.tokens.forms(), [form])

    def test_oauth2_with_refresh_tokens(self):
        auth = self.oauth2(
            'grant = "refresh_token", refresh_token = "refresh-0", client_auth = "post"'
        )
        self.here.routes["/revoke"] = lambda c, r: setattr(self.tokens, "current", None) or answer()
        run = self.client(auth, "for _ = 1, 3 do ask '/api' orc.fetch(P.base .. '/revoke') end")
        self.assertEqual(run.err, "")
        self.assertEqual(
            [form["refresh_token"] for form in self.tokens.forms()],
            ["refresh-0", "refresh-1", "refresh-2"],
        )
        self.assertEqual({form["client_secret"] for form in self.tokens.forms()}, {SECRET})

    def test_five_hundred_at_once_refresh_once(self):
        auth = self.oauth2()
        self.here.routes["/warm"] = answer("yes")
        self.here.routes["/revoke"] = lambda c, r: setattr(self.tokens, "current", None) or answer()
        # Every one of them is refused before the first is told so.
        self.tokens.gather = threading.Barrier(500)
        run = self.client(
            auth,
            "assert(api:fetch '/warm') orc.fetch(P.base .. '/revoke')\n"
            "local items, statuses, attempts = {}, {}, 0\n"
            "for i = 1, 500 do items[i] = i end\n"
            "orc.map(items, function(i)\n"
            "  local res = assert(api:fetch('/api?' .. i))\n"
            "  statuses[res.status] = (statuses[res.status] or 0) + 1\n"
            "  attempts = attempts + res.attempts\n"
            "end, { concurrency = 500 })\n"
            "emit { ok = statuses[200], attempts = attempts }",
            "concurrency = 500, retry = false",
        )
        self.assertEqual(run.value, {"ok": 500, "attempts": 500})
        self.assertEqual(len(self.tokens.requests), 2)  # the first token, and one refresh
        self.assertEqual(self.tokens.refusals, 500)
        asked = collections.Counter(t for t in self.here.targets() if t.startswith("/api"))
        self.assertEqual(asked, {f"/api?{i}": 2 for i in range(1, 501)})

    def test_streams_and_downloads_are_sent_again(self):
        auth = self.oauth2()
        self.here.routes["/revoke"] = lambda c, r: setattr(self.tokens, "current", None) or answer()
        run = self.client(
            auth,
            "assert(api:fetch '/api') orc.fetch(P.base .. '/revoke')\n"
            "local res = assert(api:fetch { url = '/api', stream = true })\n"
            "for line in res:lines() do emit(line) end\n"
            "orc.fetch(P.base .. '/revoke')\n"
            "emit(assert(api:fetch { url = '/api', save = 'saved' }).status)",
            "concurrency = 1",
        )
        self.assertEqual(run.values, ["yes", 200])
        self.assertEqual(self.read("saved"), "yes")
        self.assertEqual((len(self.tokens.requests), self.tokens.refusals), (3, 2))

    def test_oauth2_that_fails(self):
        auth = self.oauth2()
        says = {"error": "invalid_client", "error_description": f"{SECRET} is wrong"}
        self.here.routes["/token"] = answer_json(json.dumps(says), status="401 No")
        run = self.client(auth, "emit(ask '/api') emit(ask '/api')", code=0)
        for value in run.values:
            err = value["err"]
            self.assertEqual((err["kind"], err["status"], err["attempts"]), ("http", 401, 1))
            self.assertIn("invalid_client (*** is wrong)", err["text"])
        self.assertEqual(self.here.targets(), ["/token"])
        self.here.routes["/token"] = answer_json('{"access_token": "a b"}')
        self.assertEqual(self.client(auth, "emit(ask '/api')").value["err"]["kind"], "invalid")
        self.here.routes["/token"] = answer("<html>")
        self.assertEqual(self.client(auth, "emit(ask '/api')").value["err"]["kind"], "decode")

    def test_sigv4(self):
        def check(_connection, request):
            match = re.fullmatch(
                r"AWS4-HMAC-SHA256 Credential=AKID/(\d{8})/eu-west-1/(\w+)/aws4_request, "
                r"SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})",
                request.headers["authorization"],
            )
            day, service, names, signature = match.groups()
            stamp = request.headers["x-amz-date"]
            at = datetime.datetime.strptime(stamp + "+0000", "%Y%m%dT%H%M%SZ%z")
            age = datetime.datetime.now(datetime.timezone.utc) - at
            assert abs(age.total_seconds()) < 60 and stamp.startswith(day)
            path, _, query = request.target.partition("?")
            pairs = sorted(
                (urllib.parse.quote(name, "~"), urllib.parse.quote(value, "~"))
                for name, value in urllib.parse.parse_qsl(query, keep_blank_values=True)
            )
            path = urllib.parse.quote(urllib.parse.unquote(path) if service == "s3" else path)
            payload = hashlib.sha256(request.body).hexdigest()
            canonical = "\n".join(
                [request.method, path, "&".join(f"{name}={value}" for name, value in pairs)]
                + [f"{name}:{' '.join(request.headers[name].split())}" for name in names.split(";")]
                + ["", names, request.headers.get("x-amz-content-sha256", payload)]
            )
            key = f"AWS4{SECRET}".encode()
            for part in (day, "eu-west-1", service, "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            scope = f"{day}/eu-west-1/{service}/aws4_request"
            digest = hashlib.sha256(canonical.encode()).hexdigest()
            text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, digest])
            good = hmac.new(key, text.encode(), "sha256").hexdigest()
            return answer(status="200 OK" if good == signature else "403 No", body=names)

        self.here.routes.update(
            {path: check for path in ("/a%20b/c", "/", "//x%2Fy%20(z)")}
            | {"/moved": moved(307, "/?b=&a=%20x&a=1")}
        )
        keys = (
            f'type = "sigv4", region = "eu-west-1", service = P.service or "execute", '
            f'access_key_id = "AKID", secret_access_key = {quoted(SECRET)}, session_token = "se/ss"'
        )
        body = (
            'emit(ask { url = "/a%20b/c", query = { z = { 2, "ä+ ", 1 }, A = "" } })\n'
            'emit(ask { url = "/", method = "POST", json = { x = 1 }, '
            'headers = { ["X-Amz-Target"] = "a  b" } })\n'
            'emit(ask "/moved")'
        )
        values = self.client(keys, body).values
        self.assertEqual([value["status"] for value in values], [200, 200, 200])
        self.assertEqual(
            values[1]["body"], "content-type;host;x-amz-date;x-amz-security-token;x-amz-target"
        )
        self.write("upload.bin", b"x" * 1000)
        body = (
            'emit(ask "//x%2Fy%20(z)")\n'
            'emit(ask { url = "/", method = "PUT", body = "text" })\n'
            'emit(ask { url = "/", method = "PUT", file = "upload.bin" })'
        )
        values = self.client(keys, body, "", "service=s3").values
        self.assertEqual([value["status"] for value in values], [200, 200, 200])
        self.assertIn("x-amz-content-sha256", values[0]["body"])

    def test_netrc(self):
        self.write(
            "netrc", f'machine 127.0.0.1 login me password "{SECRET}"'.replace('"ü"', '\\"ü\\"')
        )
        os.chmod(self.path("netrc"), 0o600)
        body = 'emit(api:fetch("/echo"):json().headers)'
        pair = base64.b64encode(f"me:{SECRET}".encode()).decode()
        for auth, env in (
            ('type = "netrc", file = "netrc"', {}),
            ('type = "netrc"', {"NETRC": "netrc"}),
        ):
            run = self.client(auth, body, env=env)
            self.assertEqual((run.value["authorization"], run.err), (f"Basic {pair}", ""))
        run = self.lua("emit(orc.fetch(P.base .. '/echo'):json().headers)",
            f"base={self.here.base}", env={"NETRC": "netrc"})  # fmt: skip
        self.assertNotIn("authorization", run.value)
        os.chmod(self.path("netrc"), 0o644)
        run = self.client('type = "netrc", file = "netrc"', body)
        self.assertIn("netrc can be read by other users", run.err)
        run = self.client('type = "netrc", file = "none"', body, code=2)
        self.assertIn("cannot read none: No such file", run.err)


class Leaks(Case):
    """What is secret goes to its own origin, and into no output."""

    def setUp(self):
        super().setUp()
        self.here = self.enterContext(RawServer())
        self.there = self.enterContext(RawServer({"/echo": echo}))

    def test_nothing_crosses_to_another_origin(self):
        tokens, digest = Tokens(), Digest()
        crossing = f"{self.there.base}/echo"
        self.here.routes.update({"/token": tokens.grant, "/plain": moved(307, crossing)})

        def after(check):
            def route(connection, request):
                said = check(connection, request)
                return said if b" 401 " in said[:20] else moved(302, crossing)

            return route

        self.here.routes.update({"/oauth2": after(tokens.api), "/digest": after(digest)})
        self.write("netrc", f"default login me password {SECRET.split()[0]}")
        secret = quoted(SECRET)
        run = self.lua(
            f"local token_url, S = P.base .. '/token', {secret}\n"
            "for path, auth in pairs {\n"
            "  ['/plain?bearer'] = { type = 'bearer', token = 't0ken' },\n"
            "  ['/plain?basic'] = { type = 'basic', username = 'me', password = S },\n"
            "  ['/plain?header'] = { type = 'api_key', name = 'X-Key', value = S:sub(1, 6) },\n"
            "  ['/plain?query'] = { type = 'api_key', name = 'key', value = S, place = 'query' },\n"
            "  ['/digest'] = { type = 'digest', username = 'me', password = S },\n"
            "  ['/oauth2'] = { type = 'oauth2', token_url = token_url, client_id = 'c',\n"
            "    client_secret = S },\n"
            "  ['/plain?sigv4'] = { type = 'sigv4', region = 'r', service = 's3',\n"
            "    access_key_id = 'AKID', secret_access_key = S, session_token = 'sess10n' },\n"
            "  ['/plain?netrc'] = { type = 'netrc', file = 'netrc' },\n"
            "} do\n"
            "  local api = orc.client { base_url = P.base, auth = auth, headers = {\n"
            "    Cookie = 'c=1', ['X-Own'] = orc.secret.value 'own-s3cret' } }\n"
            "  local res = assert(api:fetch(path))\n"
            "  emit { path, #res.hops, res:json() }\n"
            "  res = assert(api:fetch(P.there)) -- and none when it is asked directly\n"
            "  emit { path, 1, res:json() }\n"
            "end",
            f"base={self.here.base}", f"there={crossing}",
        )  # fmt: skip
        self.assertEqual(len(run.values), 16)
        for path, hops, sent in run.values:
            with self.subTest(path):
                self.assertEqual(hops, 1)
                self.assertEqual(sent["target"], "/echo")
                self.assertEqual(
                    sorted(sent["headers"]), ["accept", "accept-encoding", "host", "user-agent"]
                )
        authorized = [r for r in self.here.requests if "authorization" in r.headers]
        self.assertGreaterEqual(len(authorized), 6)

    def forms(self, text):
        """Every way in which a text might be shown."""
        found = {text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
        found |= {urllib.parse.quote(text), urllib.parse.quote(text, safe="")}
        found |= {urllib.parse.quote_plus(text), html.escape(text)}
        found |= {urllib.parse.quote(urllib.parse.quote(text, safe=""))}
        for skipped in range(3):
            data = (b"\0" * skipped + text.encode()) * 1
            first = -(-skipped * 8 // 6)
            core = base64.b64encode(data).decode()[first : len(data) * 8 // 6]
            found |= {core, core.replace("+", "-").replace("/", "_")}
            found |= {urllib.parse.quote(core, safe="")}
        return found

    def test_no_output_shows_a_secret(self):
        """Servers send secrets back in all they say, and all of it fails."""
        tokens = Tokens()

        def failing(_connection, request):
            said = request.headers.get("authorization", "")
            known = tokens.current if "Bearer" in said else ""  # else it may still be on its way
            said = said + request.headers.get("x-key", "") + request.target
            body = "\n".join(
                [said, json.dumps(said), html.escape(said), urllib.parse.quote(said)]
                + [SECRET, json.dumps({"s": SECRET, "t": known}), html.escape(SECRET)]
                + [
                    encode(text.encode()).decode()
                    for encode in (base64.b64encode, base64.urlsafe_b64encode)
                    for text in (SECRET, f"a{SECRET}!", f"ab{SECRET}", said)
                ]
                + [urllib.parse.quote(urllib.parse.quote(SECRET))]
            )
            return answer(body, status="500 " + urllib.parse.quote(SECRET))

        leak = urllib.parse.quote(SECRET, safe="")
        twice = urllib.parse.quote(leak, safe="")
        self.here.routes.update(
            {
                "/token": tokens.grant,
                "/fail": failing,
                "/moved": lambda c, r: moved(302, f"/fail?leak={leak}&token={twice}"),
                "/loop": lambda c, r: moved(302, f"/loop?s={leak}"),
                "/out": lambda c, r: moved(302, f"ftp://x/{leak}"),
            }
        )
        self.write(
            "script.lua",
            "local orc = require 'orchestrator'\n"
            f"local S = orc.secret.value({quoted(SECRET)})\n"
            "local clients = {\n"
            "  { type = 'basic', username = 'me', password = S },\n"
            "  { type = 'api_key', name = 'key', value = S, place = 'query' },\n"
            "  { type = 'oauth2', token_url = orc.params.base .. '/token', client_id = 'c',\n"
            "    client_secret = S },\n"
            "}\n"
            "local list = {}\n"
            "for i, auth in ipairs(clients) do\n"
            "  list[i] = orc.pipeline {\n"
            "    name = auth.type, source = { '/fail', '/moved', '/loop', '/out' },\n"
            "    client = { base_url = orc.params.base, auth = auth, retry = false },\n"
            "    request = function(item)\n"
            "      return { url = item, query = { own = S }, headers = { ['X-Own'] = 'x' .. S } }\n"
            "    end,\n"
            "    sink = 'out-' .. i .. '.jsonl',\n"
            "  }\n"
            "end\n"
            "return list\n",
        )
        for log in ("text", "json"):
            run = self.orchestrate(
                "script.lua", f"base={self.here.base}", "--summary", "summary.json",
                "--log-level", "debug", "--log-format", log,
            )  # fmt: skip
            self.assertEqual(run.code, 1)
            shown = {"stdout": run.out, "stderr": run.err, "summary": self.read("summary.json")}
            for name in self.files():
                shown[name] = self.read(name)
            self.assertIn("basic.dead.jsonl", shown)
            letters = self.records("oauth2.dead.jsonl")
            self.assertEqual(len(letters), 4)
            self.assertTrue(any(letter.get("excerpt") for letter in letters))
            for secret in (SECRET, tokens.current):
                for form in self.forms(secret):
                    for name, text in shown.items():
                        self.assertNotIn(form, text, name)
            self.assertIn("***", shown["stderr"])
            self.assertIn("***", shown["summary"])


if __name__ == "__main__":
    unittest.main()
