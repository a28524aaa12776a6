"""Request bodies that are not held in memory: files, multipart forms, functions. The server keeps
account of what exactly arrived."""

import email
import email.policy
import hashlib
import os
import threading
import unittest

from program import SANITIZED, Case
from servers import (
    PATIENCE, Certificates, Nginx, RawServer, answer, answer_json, closed_port, scratch,
)  # fmt: skip
from upload_server import UploadServer, after_reading, arrived

BIG = 10_000_000 if SANITIZED else 50_000_000


class Uploads(Case):
    def setUp(self):
        super().setUp()
        self.server = self.enterContext(UploadServer())

    def upload(self, source, *args, **options):
        self.write("small", b"a,b\r\n\0\xff\n")
        source = (
            "local function send(r) r.url = P.base .. r.url; local res, err = orc.fetch(r);"
            " if not res then local p = plain(err) p.fault = err.fault return p end;"
            " return res:json() or { status = res.status, body = res.body } end; " + source
        )
        return self.lua(source, f"base={self.server.base}", *args, **options)


class Files(Uploads):
    def test_a_file_is_sent_with_its_size_and_never_held(self):
        with open(self.path("big"), "wb") as file:
            for i in range(BIG // 1000):
                file.write(b"%09d" % i + b"x" * 991)
        with open(self.path("big"), "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        run = self.upload(
            """
            emit(send { url = "/", file = "big", method = "PUT" })
            local status = io.open("/proc/self/status"):read "*a"
            emit(tonumber(status:match "VmHWM:%s*(%d+) kB"))
            """
        )
        got, peak = run.values
        self.assertEqual((got["size"], got["sha256"]), (BIG, digest))
        self.assertEqual((got["method"], got["length"]), ("PUT", str(BIG)))
        self.assertIsNone(got["coding"])
        self.assertLess(peak, 20_000 + 300_000 * SANITIZED)

    def test_what_it_is_called(self):
        self.write("empty", "")
        run = self.upload(
            """
            emit(send { url = "/", file = "small" })
            emit(send { url = "/", file = "small", headers = { ["content-type"] = "text/csv" } })
            emit(send { url = "/", file = "small", headers = { ["Content-Type"] = false } })
            emit(send { url = "/", file = "empty", method = "PATCH" })
            """
        )
        self.assertEqual(
            [(v["method"], v["type"], v["length"], v["text"]) for v in run.values],
            [
                ("POST", "application/octet-stream", "8", "a,b\r\n\0\xff\n"),
                ("POST", "text/csv", "8", "a,b\r\n\0\xff\n"),
                ("POST", None, "8", "a,b\r\n\0\xff\n"),
                ("PATCH", "application/octet-stream", "0", ""),
            ],
        )

    def test_what_cannot_be_read(self):
        os.mkdir(self.path("directory"))
        os.mkfifo(self.path("pipe"))
        run = self.upload(
            """
            for _, path in ipairs { "missing", "directory", "pipe", "small/below" } do
              emit(send { url = "/", method = "PUT", file = path })
              emit(send { url = "/", method = "PUT", multipart = { { name = "a", file = path } } })
            end
            """
        )
        for value in run.values:
            self.assertEqual(
                (value.get("kind"), value.get("fault"), value.get("attempts")),
                ("invalid", "cannot_read", 1),
                value,
            )
            self.assertIn("cannot read", value["message"])
        self.assertEqual([upload for upload in self.server.uploads if upload.complete], [])

    def test_retries_and_redirects_send_it_again(self):
        busy = [True, True]

        def once(upload):
            upload.read()
            if busy:
                busy.pop()
                return answer("busy", status="503 Busy")
            return arrived(upload)

        broken = [True]

        def breaks(upload):
            if broken.pop() if broken else False:
                next(upload.pieces())
                upload.connection.reset()
                return None
            return arrived(upload)

        self.server.routes.update(
            {
                "/busy": once,
                "/breaks": breaks,
                "/307": after_reading(answer(status="307 Temporary", location="/to")),
                "/308": after_reading(answer(status="308 Permanent", location="/to")),
                "/303": after_reading(answer(status="303 See Other", location="/to")),
            }
        )
        self.write("file", "0123456789" * 50_000)
        run = self.upload(
            """
            local retry = { wait_initial = 0 }
            for _, path in ipairs { "/busy", "/breaks", "/307", "/308", "/303" } do
              emit(send { url = path, method = "PUT", file = "file", retry = retry })
            end
            emit(send { url = "/307", multipart = { { name = "a", file = "file" } } })
            """
        )
        digest = hashlib.sha256(b"0123456789" * 50_000).hexdigest()
        *sent, seen, form = run.values
        self.assertEqual([value.get("sha256") for value in sent], [digest] * 4, sent)
        self.assertEqual({value["method"] for value in sent}, {"PUT"})
        self.assertEqual((seen["method"], seen["size"], seen["type"]), ("GET", 0, None))
        self.assertEqual([len(self.server.of(path)) for path in ("/busy", "/breaks")], [3, 2])
        first, second = self.server.of("/307")[-1], self.server.of("/to")[-1]
        self.assertEqual(first.size, second.size)
        self.assertEqual(form["method"], "POST")

    def test_a_connection_that_ends_as_it_is_used_again(self):
        def route(upload):
            if self.server.uploads.index(upload) == 1:
                upload.connection.close()  # idle for too long, said the server just then
                return None
            return arrived(upload)

        self.server.routes["/"] = route
        run = self.upload(
            """
            emit(send { url = "/" })
            emit(send { url = "/", file = "small", method = "PUT", retry = { wait_initial = 0 } })
            """
        )
        self.assertEqual(run.values[1]["text"], "a,b\r\n\0\xff\n")

    def test_a_file_that_becomes_shorter(self):
        def shorten(upload):
            next(upload.pieces())
            os.truncate(self.path("big"), 1000)
            return arrived(upload)

        self.server.routes["/"] = shorten
        run = self.upload(
            """
            for _, path in ipairs { "/", "/form" } do
              local file = assert(io.open("big", "w"))
              file:write(("x"):rep(3e7))
              file:close()
              emit(send { url = "/", method = "PUT", timeout = { idle = "500ms" }, retry = false,
                file = path == "/" and "big" or nil,
                multipart = path ~= "/" and { { name = "a", file = "big" } } or nil })
            end
            """
        )
        for value in run.values:
            self.assertEqual((value["kind"], value["fault"]), ("invalid", "cannot_read"))
            self.assertIn("it became shorter", value["message"])
        self.assertEqual([upload.complete for upload in self.server.uploads], [False, False])

    def test_a_file_that_grows(self):
        """What is added while it is sent would be the beginning of another request."""

        def grow(upload):
            pieces = upload.pieces()
            next(pieces)
            with open(self.path("big"), "ab") as file:
                file.write(b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n" + b"G" * 3_000_000)
            for _ in pieces:
                pass
            return arrived(upload)

        self.server.routes["/grow"] = grow
        with open(self.path("big"), "wb") as file:
            file.write(b"x" * 20_000_000)  # more than the connection holds
        run = self.upload(
            """
            local form = { { name = "a", file = "big" }, { name = "b", value = "after" } }
            emit(send { url = "/grow", method = "PUT", multipart = form })
            emit(send { url = "/next" })
            """
        )
        form, _ = run.values
        self.assertEqual(form["length"], str(form["size"]))
        self.assertLess(form["size"], 20_001_000)
        requests = [(upload.method, upload.target) for upload in self.server.uploads]
        self.assertEqual(requests, [("PUT", "/grow"), ("GET", "/next")])
        self.assertEqual({upload.connection.number for upload in self.server.uploads}, {1})

    def test_an_answer_while_it_goes_on(self):
        def refuse(upload):
            next(upload.pieces())
            return answer("too much", status="413 Too Large", connection="close")

        self.server.routes["/"] = refuse
        with open(self.path("big"), "wb") as file:
            file.truncate(30_000_000)
        run = self.upload(
            """
            emit(send { url = "/", file = "big" })
            emit(send { url = "/", multipart = { { name = "a", file = "big" } } })
            """
        )
        for value in run.values:
            self.assertEqual((value["kind"], value["status"], value["body"]),
                             ("http", 413, "too much"))  # fmt: skip


class Forms(Uploads):
    def test_parts(self):
        self.write("dir/data.csv", "id\r\n1\r\n")
        run = self.upload(
            """
            emit(send { url = "/", multipart = {
              { name = "a", value = "x\\0\\r\\ny" },
              { name = "ü \\"q\\"", value = 12 },
              { name = "f", file = "dir/data.csv" },
              { name = "g", file = "small", filename = 'ü "1".txt', type = "text/plain" },
              { name = "h", value = "1,2", filename = "h.csv", type = "text/csv" },
              { name = "k", value = orc.secret.value "upload-secret" },
            } })
            """
        )
        upload = self.server.uploads[0]
        self.assertRegex(run.value["type"], "^multipart/form-data; boundary=")
        self.assertEqual(run.value["length"], str(upload.size))
        head = f"Content-Type: {run.value['type']}\r\n\r\n".encode()
        message = email.message_from_bytes(head + upload.kept, policy=email.policy.HTTP)
        parts = []
        for part in message.iter_parts():
            raw = part.as_bytes().partition(b"\r\n\r\n")[2]
            disposition = part["content-disposition"]
            parts.append((disposition.params.get("name"), disposition.params.get("filename"),
                          part["content-type"], raw))  # fmt: skip
        self.assertEqual(
            [(name, filename, kind) for name, filename, kind, _ in parts],
            [
                ("a", None, None),
                ("ü %22q%22", None, None),
                ("f", "data.csv", "application/octet-stream"),
                ("g", "ü %221%22.txt", "text/plain"),
                ("h", "h.csv", "text/csv"),
                ("k", None, None),
            ],
        )
        self.assertIn(b"\r\n\r\nx\0\r\ny\r\n--", upload.kept)
        self.assertIn(b"\r\n\r\n12\r\n--", upload.kept)
        self.assertIn(b"\r\n\r\nid\r\n1\r\n\r\n--", upload.kept)
        self.assertIn(b"\r\n\r\na,b\r\n\0\xff\n\r\n--", upload.kept)
        self.assertIn(b"\r\n\r\n1,2\r\n--", upload.kept)
        self.assertIn(b"\r\n\r\nupload-secret\r\n--", upload.kept)
        self.assertEqual(upload.kept.count(b"Content-Disposition: form-data;"), 6)


class Functions(Uploads):
    def test_it_may_wait_between_its_pieces(self):
        seen = []

        def route(upload):
            for piece in upload.pieces():
                seen.append(piece)
                with self.server.changed:
                    self.server.changed.notify_all()
            return arrived(upload)

        def go(upload):
            upload.read()
            self.server.until(lambda: b"".join(seen) == b"one, ")  # it is not held back
            return answer_json('"two, "')

        self.server.routes.update({"/": route, "/go": go})
        run = self.upload(
            """
            local pieces = {
              function() return "one, " end,
              function() return (orc.fetch(P.base .. "/go"):json()) end,
              function() orc.sleep("20ms") return "" end,
              function() return "three" end,
              function() return nil end,
            }
            emit(send { url = "/", body = function() return table.remove(pieces, 1)() end })
            emit(#pieces)
            """
        )
        value, left = run.values
        self.assertEqual((value["coding"], value["length"], value["type"]), ("chunked", None, None))
        self.assertEqual((value["text"], left), ("one, two, three", 0))

    def test_a_length_that_is_known(self):
        run = self.upload(
            """
            for size = 9, 11 do
              local pieces = { "12345", "67890" }
              emit(send { url = "/", headers = { ["Content-Length"] = size },
                body = function() return table.remove(pieces, 1) end })
            end
            """
        )
        less, exact, more = run.values
        self.assertEqual((exact["length"], exact["coding"], exact["text"]),
                         ("10", None, "1234567890"))  # fmt: skip
        self.assertEqual((less["kind"], more["kind"]), ("invalid", "invalid"))
        self.server.until(lambda: all(upload.connection.ended for upload in self.server.uploads))
        sizes = sorted((upload.complete, upload.size) for upload in self.server.uploads)
        self.assertEqual(sizes, [(False, 5), (False, 10), (True, 10)])

    def test_an_empty_one_and_a_large_one(self):
        run = self.upload(
            """
            emit(send { url = "/", method = "PUT", body = function() end })
            local n = 0
            emit(send { url = "/", body = function()
              n = n + 1
              if n <= 50 then return ("x"):rep(100000) end
            end })
            """
        )
        empty, large = run.values
        self.assertEqual((empty["method"], empty["size"]), ("PUT", 0))
        self.assertEqual(large["sha256"], hashlib.sha256(b"x" * 5_000_000).hexdigest())

    def test_from_one_server_to_another(self):
        block = b"0123456789abcdef" * 64
        with RawServer({"/from": answer((block * 3000).decode())}) as other:
            run = self.upload(
                """
                local res = assert(orc.fetch { url = P.other, stream = true })
                emit(send { url = "/", body = res:chunks() })
                """,
                f"other={other.base}/from",
            )
        self.assertEqual(run.value["sha256"], hashlib.sha256(block * 3000).hexdigest())

    def test_what_fails_within_it_fails_the_request_and_is_no_whole_body(self):
        run = self.upload(
            """
            local api = orc.client { base_url = P.base, concurrency = 1, retry = { wait_initial = 0 } }
            local function try(second)
              local n = 0
              local ok, res, err = pcall(api.fetch, api, { url = "/cut", method = "PUT",
                body = function()
                  n = n + 1
                  if n == 1 then return "first" end
                  return second()
                end })
              emit { ok, tostring(err or res), n }
              assert(api:fetch "/") -- the slot is free
            end
            try(function() return nil, "no more" end)
            try(function() error "a bug" end)
            try(function() return {} end)
            try(function() return orc.fetch(P.base .. "/%zz") end)
            """
        )
        refused, bug, table, other = run.values
        self.assertEqual(refused[0], True)
        self.assertIn("no more", refused[1])
        self.assertEqual((bug[0], table[0]), (False, False))
        self.assertIn("a bug", bug[1])
        self.assertIn("must return texts", table[1])
        self.assertEqual([value[2] for value in run.values], [2] * 4)
        uploads = self.server.of("/cut")
        self.server.until(lambda: all(upload.connection.ended for upload in uploads))
        self.assertEqual([upload.complete for upload in uploads], [False] * len(uploads))
        self.assertLessEqual(len(uploads), 4)

    def test_misuse_within_it_is_misuse(self):
        for source, message in (
            ("function() return {} end", "the function must return texts"),
            ('function() orc.fetch { url = 1, body = "x" } end', '"url" must be a string'),
            ("function() orc.client { retires = 1 } end", 'unknown option "retires"'),
        ):
            for more in "", "timeout = { total = 9 }", 'save = "x", accept = "any"':
                with self.subTest(source, more=more):
                    run = self.upload(
                        f"orc.fetch {{ url = P.base, {more or 'follow = 1'}, body = {source} }}",
                        code=2,
                    )
                    self.assertRegex(run.err, rf"^orchestrator: script.lua:(\d+:)? .*{message}")
                    self.assertEqual(run.err.count("\n"), 1)
        run = self.upload('orc.fetch { url = P.base, body = function() error "a bug" end }', code=1)
        self.assertIn("a bug", run.err)

    def test_time(self):
        over = threading.Event()
        self.addCleanup(over.set)

        def unread(_upload):
            over.wait(PATIENCE)

        self.server.routes["/unread"] = unread
        run = self.upload(
            """
            local function slow(seconds)
              local n = 0
              return function()
                n = n + 1
                if n == 2 then orc.sleep(seconds) end
                if n <= 2 then return "x" end
              end
            end
            -- Its own time is not idle, but counts for the others (attempt: when it returns).
            emit(send { url = "/", body = slow(0.7), timeout = { idle = "300ms" } })
            emit(send { url = "/", body = slow(60), timeout = { total = "200ms" } })
            emit(send { url = "/", body = slow(0.4), timeout = { attempt = "200ms" } })
            local _, err = orc.deadline("200ms", function()
              return orc.fetch { url = P.base .. "/", body = slow(60) }
            end)
            emit(plain(err))
            emit(send { url = "/unread", timeout = { idle = "300ms" }, retry = false,
              body = function() return ("x"):rep(1e6) end })
            """
        )
        waited, *late = run.values
        self.assertEqual(waited["text"], "xx")
        self.assertEqual([value["kind"] for value in late], ["timeout"] * 4)
        over.set()
        self.assertEqual([upload.complete for upload in self.server.uploads], [True] + [False] * 4)

    def test_it_is_never_repeated_once_it_began(self):
        def reset(upload):
            next(upload.pieces())
            upload.connection.reset()

        self.server.routes.update(
            {
                "/busy": after_reading(answer("busy", status="503 Busy")),
                "/reset": reset,
                "/307": after_reading(answer(status="307 Temporary", location="/to")),
                "/303": after_reading(answer(status="303 See Other", location="/to")),
            }
        )
        with closed_port() as port:
            run = self.upload(
                """
                local function try(path)
                  local n, asked = 0, 0
                  local res = send { url = path, method = "PUT", retry = { wait_initial = 0 },
                    body = function()
                      asked = asked + 1
                      if asked == 1 then return "once" end
                    end }
                  return { res, asked }
                end
                emit(try "/busy")
                emit(try "/reset")
                emit(try "/307")
                emit(try "/303")
                P.base = "http://127.0.0.1:" .. P.port
                emit(try "/")
                """,
                f"port={port}",
            )
        busy, broken, redirected, seen, unreachable = run.values
        self.assertEqual((busy[0]["kind"], busy[0]["status"], busy[0]["attempts"]), ("http", 503, 1))
        self.assertIn("not retried: its body came from a function", busy[0]["message"])
        self.assertEqual((broken[0]["kind"], broken[0]["attempts"]), ("network", 1))
        self.assertEqual(redirected[0]["fault"], "body_not_repeatable")
        self.assertIn("307", redirected[0]["message"])
        self.assertEqual((seen[0]["method"], seen[0]["size"]), ("GET", 0))
        # Nothing was taken from it, so there is nothing to repeat.
        self.assertEqual((unreachable[0]["kind"], unreachable[0]["attempts"]), ("connect", 5))
        self.assertEqual(unreachable[1], 0)
        self.assertEqual([len(self.server.of(path)) for path in ("/busy", "/reset", "/to")],
                         [1, 1, 1])  # fmt: skip

    def test_an_answer_while_it_goes_on(self):
        # The function waits, or would give more for ever.
        def refuse(upload):
            next(upload.pieces())
            return answer("enough", status="413 Too Large", connection="close")

        self.server.routes["/"] = refuse
        run = self.upload(
            """
            local asked = 0
            emit(send { url = "/", body = function()
              asked = asked + 1
              return ("x"):rep(1000)
            end })
            local n = 0
            emit(send { url = "/", body = function()
              n = n + 1
              if n > 1 then orc.sleep("300ms") end
              return "x"
            end })
            emit(n)
            """
        )
        endless, waiting, _ = run.values
        for value in (endless, waiting):
            self.assertEqual((value["kind"], value["status"], value["body"]),
                             ("http", 413, "enough"))  # fmt: skip


class Http2(Uploads):
    def test_over_tls_and_http2(self):
        directory = self.enterContext(scratch())
        certificates = Certificates(directory)
        certificates.sign("localhost", "localhost")
        nginx = self.enterContext(
            Nginx(
                directory,
                {
                    "h2": (
                        "ssl http2",
                        "ssl_certificate localhost.pem; ssl_certificate_key localhost.key;"
                        " client_max_body_size 0; location / { proxy_request_buffering off;"
                        f" proxy_http_version 1.1; proxy_pass {self.server.base}; }}",
                    )
                },
            )
        )
        self.write("file", "0123456789" * 300_000)
        run = self.upload(
            """
            P.base = P.h2
            emit(orc.fetch(P.base).version)
            emit(send { url = "/", file = "file", method = "PUT" })
            emit(send { url = "/", multipart = { { name = "a", file = "file" } } })
            emit(send { url = "/", method = "PUT", body = io.lines("file") })
            """,
            f"h2=https://localhost:{nginx.ports['h2']}",
            env={"SSL_CERT_FILE": certificates.ca},
        )
        version, file, form, lines = run.values
        self.assertEqual(version, "2")
        digest = hashlib.sha256(b"0123456789" * 300_000).hexdigest()
        self.assertEqual((file["sha256"], lines["sha256"]), (digest, digest))
        self.assertGreater(form["size"], 3_000_000)


if __name__ == "__main__":
    unittest.main()
