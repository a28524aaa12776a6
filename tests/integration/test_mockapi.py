import asyncio
import concurrent.futures
import gzip
import http.client
import json
import os
import resource
import signal
import subprocess
import tempfile
import time
import unittest

from mockapi import BINARY, MockApi, ended


class Answers(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.api = cls.enterClassContext(MockApi())

    def test_prints_its_loopback_address_first(self):
        self.assertRegex(self.api.base, r"^http://127\.0\.0\.1:[0-9]+$")

    def test_json_has_as_many_records_as_asked_for(self):
        items = self.api.json("/json?n=12")["items"]
        self.assertEqual(len(items), 12)
        self.assertEqual(
            sorted(items[0]),
            ["active", "category", "id", "name", "price", "stock", "updated_at"],
        )
        self.assertEqual({item["active"] for item in items}, {True, False})

    def test_fifty_apis_take_13_5_seconds_in_all_and_the_slowest_1_5(self):
        def timed(k):
            start = time.monotonic()
            status, _, body = self.api.request(f"/api/{k}?fail=0")
            elapsed = time.monotonic() - start
            self.assertEqual(status, 200)
            data = json.loads(body)
            self.assertEqual(data["api"], k)
            self.assertGreaterEqual(len(data["items"]), 20)
            return elapsed

        start = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(50) as pool:
            elapsed = list(pool.map(timed, range(1, 51)))
        self.assertLess(time.monotonic() - start, 5)
        self.assertGreaterEqual(sum(elapsed), 13.5)
        self.assertEqual(elapsed.index(max(elapsed)) + 1, 17)
        self.assertGreaterEqual(max(elapsed), 1.5)
        self.assertEqual(self.api.request("/api/51")[0], 404)

    def test_some_apis_are_flaky_and_one_is_dead(self):
        statuses = [self.api.request("/api/12?delay=0")[0] for _ in range(3)]
        self.assertEqual(statuses, [503, 503, 200])
        with self.assertRaises(http.client.RemoteDisconnected):
            self.api.request("/api/9?delay=0")
        self.assertEqual(self.api.request("/api/9?delay=0")[0], 200)
        status, headers, _ = self.api.request("/api/31?delay=0")
        self.assertEqual((status, headers["retry-after"]), (429, "1"))
        self.assertEqual({self.api.request("/api/27?delay=0")[0] for _ in range(10)}, {500})

    def test_fail_counts_by_key(self):
        targets = ["/json?fail=2&key=a", "/echo?fail=2&key=a&status=502", "/json?fail=2&key=a"]
        self.assertEqual([self.api.request(t)[0] for t in targets], [503, 502, 200])
        self.assertEqual(self.api.request("/json?fail=2&key=b")[0], 503)
        self.assertEqual(self.api.request("/json?fail=-1")[0], 503)

    def test_fail_counts_exactly_when_asked_all_at_once(self):
        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            answers = pool.map(self.api.request, ["/json?fail=7&delay=20&key=once"] * 40)
        self.assertEqual(sum(status == 503 for status, _, _ in answers), 7)

    def test_a_failure_may_drop_the_connection(self):
        with self.assertRaises(http.client.RemoteDisconnected):
            self.api.request("/json?fail=1&status=drop")
        self.assertEqual(self.api.request("/json?fail=1&status=drop")[0], 200)

    def test_retry_after_comes_with_429_and_503_only(self):
        self.assertEqual(self.api.request("/status/429?retry_after=7")[1]["retry-after"], "7")
        target = "/json?fail=1&retry_after=junk"
        self.assertEqual(self.api.request(target)[1]["retry-after"], "junk")
        self.assertNotIn("retry-after", self.api.request(target)[1])

    def test_status(self):
        for status in (200, 201, 204, 404, 418, 500, 599):
            self.assertEqual(self.api.request(f"/status/{status}")[0], status)
        self.assertEqual(self.api.request("/status/99")[0], 404)

    def test_echo_gives_back_what_it_got(self):
        _, _, body = self.api.request("/echo?a=%20b", "POST", b'x="\xc3\xa9"\n', {"X-Test": "one"})
        echo = json.loads(body)
        self.assertEqual((echo["method"], echo["url"]), ("POST", "/echo?a=%20b"))
        self.assertEqual(echo["headers"]["X-Test"], "one")
        self.assertEqual(echo["body"], 'x="é"\n')

    def test_gzip(self):
        plain = self.api.request("/json?n=50")[2]
        _, headers, body = self.api.request("/json?n=50&gzip=1")
        self.assertEqual(headers["content-encoding"], "gzip")
        self.assertLess(len(body), len(plain) / 3)
        self.assertEqual(gzip.decompress(body), plain)

    def test_etag_and_cache_control(self):
        status, headers, _ = self.api.request("/json?etag=v1&max_age=60")
        self.assertEqual(status, 200)
        self.assertEqual((headers["etag"], headers["cache-control"]), ('"v1"', "max-age=60"))
        known = {"If-None-Match": '"v1"'}
        status, headers, body = self.api.request("/json?etag=v1", headers=known)
        self.assertEqual((status, headers["etag"], body), (304, '"v1"', b""))
        self.assertEqual(self.api.request("/json?etag=v2", headers=known)[0], 200)

    def test_redirect(self):
        status, headers, _ = self.api.request("/?redirect=/json%3Fn%3D1&code=307")
        self.assertEqual((status, headers["location"]), (307, "/json?n=1"))
        self.assertEqual(self.api.request("/?redirect=http://a.test/")[0], 302)

    def test_bytes_chunked_and_drip(self):
        self.assertEqual(len(self.api.request("/json?bytes=100000")[2]), 100000)
        self.assertEqual(self.api.request("/json?bytes=0")[2], b"")
        start = time.monotonic()
        _, headers, body = self.api.request("/?bytes=100&drip=30&piece=20&chunked=1")
        self.assertGreaterEqual(time.monotonic() - start, 4 * 0.030)
        self.assertEqual(len(body), 100)
        self.assertEqual(headers["transfer-encoding"], "chunked")

    def test_head_has_the_headers_alone(self):
        status, headers, body = self.api.request("/json?bytes=1000", "HEAD")
        self.assertEqual((status, headers["content-length"], body), (200, "1000", b""))


class Ledger(unittest.TestCase):
    def test_tells_what_was_asked_for(self):
        with MockApi() as api:
            api.request("/json?key=a")
            api.request("/json?key=a&x=%41", "POST", b"{}")
            api.request("/status/404")
            ledger = api.ledger()
            self.assertEqual((ledger["total"], ledger["in_flight"]), (3, 0))
            self.assertEqual(ledger["most_in_flight"], 1)
            self.assertEqual(ledger["keys"], {"a": 2, "/status/404": 1})
            self.assertEqual(
                [(entry["method"], entry["url"], entry["key"]) for entry in ledger["requests"]],
                [
                    ("GET", "/json?key=a", "a"),
                    ("POST", "/json?key=a&x=%41", "a"),
                    ("GET", "/status/404", "/status/404"),
                ],
            )
            starts = [entry["start_ms"] for entry in ledger["requests"]]
            self.assertEqual(starts, sorted(starts))
            api.request("/ledger/reset")
            self.assertEqual(api.ledger()["total"], 0)
            self.assertEqual(api.ledger()["requests"], [])

    def test_ten_thousand_wait_at_once(self):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        count = min(10000, hard - 100)

        async def ask(address, room):
            async with room:
                reader, writer = await asyncio.open_connection(address.hostname, address.port)
                writer.write(b"GET /status/200?delay=4000&key=many HTTP/1.1\r\nHost: a\r\n\r\n")
                await writer.drain()
            line = await reader.readline()
            writer.close()
            return line

        async def ask_all(address):
            room = asyncio.Semaphore(500)
            return await asyncio.gather(*(ask(address, room) for _ in range(count)))

        with MockApi() as api:
            lines = asyncio.run(ask_all(api.address))
            self.assertEqual(set(lines), {b"HTTP/1.1 200 OK\r\n"})
            ledger = api.ledger()
            self.assertEqual(ledger["keys"], {"many": count})
            self.assertGreater(ledger["most_in_flight"], count * 0.9)


class Ending(unittest.TestCase):
    """However its parent ends, a mockapi does too."""

    def child_of_a_shell(self, stdout):
        """The shell, and the pid of the mockapi it has started once that is ready."""
        shell = subprocess.Popen(["sh", "-c", '"$1" & echo $! >&2; wait', "sh", BINARY],
                                 stdout=stdout, stderr=subprocess.PIPE, text=True)
        self.addCleanup(shell.wait)
        self.addCleanup(shell.kill)
        self.addCleanup(shell.stderr.close)
        return shell, int(shell.stderr.readline())

    def test_when_nobody_reads_its_output_any_more(self):
        process = subprocess.Popen([BINARY], stdout=subprocess.PIPE)
        process.stdout.readline()
        process.stdout.close()
        self.assertEqual(process.wait(timeout=5), 0)

    def test_when_requests_are_waiting(self):
        with MockApi() as api:
            connection = http.client.HTTPConnection(api.address.hostname, api.address.port)
            connection.request("GET", "/json?delay=60000")
            while api.ledger()["in_flight"] == 0:
                pass
            start = time.monotonic()
        self.assertLess(time.monotonic() - start, 5)
        connection.close()

    def test_when_its_parent_is_killed(self):
        shell, pid = self.child_of_a_shell(subprocess.PIPE)
        self.addCleanup(shell.stdout.close)
        shell.stdout.readline()
        shell.kill()
        self.assertTrue(ended(pid))

    def test_when_its_parent_is_killed_and_its_output_is_no_pipe(self):
        with tempfile.NamedTemporaryFile() as file:
            shell, pid = self.child_of_a_shell(file)
            while os.path.getsize(file.name) == 0:
                time.sleep(0.01)
            shell.kill()
            self.assertTrue(ended(pid))

    def test_not_by_a_ctrl_c_meant_for_its_parent(self):
        with MockApi() as api:
            api.process.send_signal(signal.SIGINT)
            self.assertEqual(api.request("/status/200")[0], 200)


if __name__ == "__main__":
    unittest.main()
