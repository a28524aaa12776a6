"""What a hostile review found: each of these once went wrong."""

import collections
import os
import resource
import socket
import threading
import time
import unittest

from program import ROOT, Case
from servers import RawServer, answer

RESOLVER = os.environ.get("SLOW_RESOLVER", os.path.join(ROOT, "build", "tests", "slow_resolver.so"))


class AnyHost:
    """Answers on all of 127/8, one connection after another."""

    def __enter__(self):
        self.opened = collections.Counter()  # address → connections
        self.listener = socket.create_server(("", 0), backlog=1024)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def _accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.opened[sock.getsockname()[0]] += 1
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    @staticmethod
    def _serve(sock):
        with sock:
            try:
                while sock.recv(65536):
                    sock.sendall(answer("hello"))
            except OSError:
                pass


class Review(Case):
    def test_a_first_field_that_begins_with_white_space(self):
        """libcurl 7.88 joins it to a field of an earlier response, which is freed (curl#11103)."""
        with RawServer() as server:
            server.routes["/good"] = lambda *_: answer("ok", x_one="1", x_two="b" * 100)

            def folded(connection, _):
                connection.send(b"HTTP/1.1 200 OK\r\n")
                connection.wait(0.002)
                connection.send(b" x: " + b"A" * 300 + b"\r\nContent-Length: 2\r\n\r\nok")

            server.routes["/bad"] = folded
            run = self.lua(
                """
                local api = orc.client { base_url = P.base, retry = false }
                local good, bad = 0, {}
                for _ = 1, 50 do
                  if api:fetch("/good") then good = good + 1 end
                  local _, err = api:fetch("/bad")
                  bad[err.fault] = (bad[err.fault] or 0) + 1
                end
                emit { good, bad }
                """,
                f"base={server.base}",
            )
        self.assertEqual(run.value, [50, {"bad_framing": 50}])

    def test_lanes_are_given_up_after_many_hosts(self):
        """libcurl forgets neither addresses nor hosts, and goes through all of them every time."""
        with AnyHost() as server:
            run = self.lua(
                """
                local api = orc.client { retry = false, concurrency = 80 }
                local function get(n)
                  local host = string.format("127.0.%d.%d", n / 250, n % 250 + 1)
                  return api:fetch("http://" .. host .. ":" .. P.port .. "/")
                end
                local hosts = {}
                for i = 1, 1999 do hosts[i] = i end
                local _, errors = orc.map(hosts, function(n)
                  if n % 20 == 0 then assert(get(0)) end
                  return get(n)
                end, { concurrency = 1 })
                for i = 1, errors.n do if errors[i] then emit(tostring(errors[i])) end end
                """,
                f"port={server.port}",
            )
            self.assertEqual(run.values, [])
            self.assertIn(server.opened.pop("127.0.0.1"), (4, 5))  # one on each lane
            self.assertEqual(set(server.opened.values()), {1})

    def test_lanes_with_many_transfers_are_given_up_too(self):
        with AnyHost() as server:
            run = self.lua(
                """
                local api = orc.client { retry = false, concurrency = 80 }
                local hosts = {}
                for i = 1, 2000 do hosts[i] = string.format("127.0.%d.%d", i / 250, i % 250 + 1) end
                local _, errors = orc.map(hosts, function(host)
                  return api:fetch("http://" .. host .. ":" .. P.port .. "/")
                end, { concurrency = 80 })
                for i = 1, errors.n do if errors[i] then emit(tostring(errors[i])) end end
                """,
                f"port={server.port}",
            )
            self.assertEqual(run.values, [])

    def test_hops_that_fail_as_they_begin_hold_up_no_deadline(self):
        """Without descriptors every hop fails before the loop has had a turn."""
        run = self.lua(
            """
            local api = orc.client { retry = false }
            local files, began, late = {}, orc.now(), false
            repeat
              local file = io.open "/dev/null"
              files[#files + 1] = file
            until not file
            local _, err = orc.deadline("200ms", function()
              while not late do
                api:fetch "http://127.0.0.1:9/"
                late = orc.now() - began > 5
              end
            end)
            for _, file in ipairs(files) do file:close() end
            emit { late, err.kind }
            """,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
        )
        self.assertEqual(run.value, [False, "timeout"])

    def test_os_exit_ends_transfers_and_waits_for_no_lookup(self):
        def half(connection, _):
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
            connection.wait_closed()

        with RawServer({"/half": half}) as server:
            sanitizer = os.environ.get("ASAN_OPTIONS", "")
            began = time.monotonic()
            self.lua(
                """
                orc.group(function(g)
                  g:spawn(orc.fetch, "http://slow-9000.test/")
                  g:spawn(orc.fetch, { url = P.base .. "/half", save = "half.bin" })
                  repeat orc.sleep "10ms" until io.open "half.bin.part"
                  os.exit(7)
                end)
                """,
                f"base={server.base}",
                code=7,
                env={
                    "LD_PRELOAD": RESOLVER,
                    "ASAN_OPTIONS": f"{sanitizer}:verify_asan_link_order=0",
                },
            )
            self.assertLess(time.monotonic() - began, 8)
        self.assertEqual(self.files(), [])


class Saved(Case):
    """An answer that is not accepted leaves the old file alone, whoever does not accept it."""

    def test_only_what_is_accepted_takes_the_place_of_the_old(self):
        part = answer("part", status="206 Part", content_range="bytes 0-3/9")
        routes = {
            "/good": answer("new"), "/part": part, "/none": answer(status="204 Nothing"),
            "/other": answer("other", status="203 Other"), "/error": answer("no", status="404 No"),
            "/empty": answer("", status="404 No"), "/cut": answer("cut", content_length=9,
            connection="close"),
        }  # fmt: skip
        self.write("file", "old")
        with RawServer(routes) as server:
            run = self.lua(
                """
                local api = orc.client { base_url = P.base, retry = false }
                local function read()
                  local file = io.open "file"
                  local text = file:read "*a"
                  file:close()
                  return text
                end
                local function try(request)
                  request.save = "file"
                  local ok, res, err = pcall(api.fetch, api, request)
                  if not ok then res, err = nil, { kind = "raised" } end
                  local from = res or err.response
                  emit { err and (err.fault or err.kind) or res.status, read(),
                    from and from.saved or false, from and from.body or false }
                  if from then from:peek() end
                end
                local function no() return false end
                for _, request in ipairs {
                  { url = "/good", accept = no }, { url = "/good", accept = { 404 } },
                  { url = "/good", response_action = function() return "fail" end },
                  { url = "/good", response_action = function() return "retry" end,
                    retry = { attempts = 2, wait_initial = 0 } },
                  { url = "/good", accept = function() error "a bug" end },
                  { url = "/part" }, { url = "/part", accept = "any" }, { url = "/error" },
                  { url = "/error", accept = { 404 } }, { url = "/empty", accept = { 404 } },
                  { url = "/cut" }, { url = "/cut", accept = "any" }, { url = "/none" },
                  { url = "/none", accept = "any" }, { url = "/other", accept = { 200 } },
                  { url = "/other" }, { url = "/good", accept = { 200 } },
                  { url = "/part", headers = { Range = "bytes=0-3" } },
                } do try(request) end
                """,
                f"base={server.base}",
            )
        no = ["http_status", "old", False, False]
        self.assertEqual(
            run.values,
            [
                no, no, no, no, ["raised", "old", False, False],
                ["unasked_range", "old", False, False], ["unasked_range", "old", False, False],
                ["http_status", "old", False, "no"], [404, "old", False, "no"],
                [404, "old", False, ""], ["truncated_body", "old", False, False],
                ["truncated_body", "old", False, False], [204, "old", False, ""],
                [204, "old", False, ""], no, [203, "other", "file", False],
                [200, "new", "file", False], [206, "part", "file", False],
            ],
        )  # fmt: skip
        self.assertEqual(self.files(), ["file"])


if __name__ == "__main__":
    unittest.main()
