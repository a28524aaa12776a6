"""Everything at once: servers that fail in every way, timeouts, cancelled tasks, retries. What is
answered must be right, whatever happens beside it, and in the end nothing must be left open."""

import os
import random
import unittest
import zlib

from program import PRELUDE, SANITIZED, Case

from servers import (
    Certificates, Nginx, RawServer, answer, closed_port, scratch, silence, then_close, then_reset,
)  # fmt: skip

SEEDS = [int(seed) for seed in os.environ.get("CHAOS_SEEDS", "1 2").split()]
REQUESTS = 150 if SANITIZED else 300

SCRIPT = (
    PRELUDE
    + """
math.randomseed(tonumber(P.seed))
local urls, n = {}, 0
for url in P.urls:gmatch "%S+" do urls[#urls + 1] = url end
local api = orc.client { concurrency = 40, retry = { attempts = 2, wait_initial = "1ms" } }
local right, wrong, failed, cancelled = 0, 0, 0, 0

local function ask()
  local url = urls[math.random(#urls)]
  local body = ("x"):rep(math.random(0, 3) == 0 and math.random(50000) or 0)
  local post = math.random(4) == 1
  local res, err = api:fetch {
    url = url, method = post and "POST" or "GET", body = post and body or nil,
    timeout = math.random(3) == 1 and math.random(30) / 1000 or { attempt = 1, connect = 1 },
    save = math.random(8) == 1 and "saved-" .. n or nil,
  }
  if res and (res.body == "hello" or res.body == nil and res.size == 5) then
    right = right + 1
  elseif res then
    wrong = wrong + 1
    emit { "wrong", url, res.status, res.body or orc.null }
  elseif url:find "good" and err.kind ~= "timeout" and err.kind ~= "cancelled" then
    wrong = wrong + 1
    emit { "failed", url, tostring(err) }
  else
    failed = failed + 1
  end
end

orc.map(function()
  n = n + 1
  return n <= tonumber(P.count) and n or nil
end, function()
  local way = math.random(6)
  if way == 1 then
    orc.deadline(math.random(20) / 1000, ask)
  elseif way == 2 then
    orc.group(function(g)
      local task = g:spawn(ask)
      orc.sleep(math.random(0, 10) / 1000)
      task:cancel()
      cancelled = cancelled + 1
    end)
  elseif way == 3 then
    orc.gather({ ask, ask, function() orc.sleep(math.random(10) / 1000) error "x" end },
      { on_error = "fail" })
  else
    ask()
  end
end, { concurrency = 60 })
emit { right = right, wrong = wrong, failed = failed, cancelled = cancelled }
"""
)


def pieces(data):
    """A route that sends it in pieces of any size."""

    def route(connection, _request):
        chance = random.Random(connection.number)
        at = 0
        while at < len(data):
            size = chance.randrange(1, len(data))
            connection.send(data[at : at + size])
            connection.wait(0.001)
            at += size

    return route


class Chaos(Case):
    def test_everything_at_once(self):
        coded = zlib.compress(b"hello")
        routes = {
            "/good": answer("hello"),
            "/good/pieces": pieces(answer("hello")),
            "/good/slow": lambda c, r: c.wait(0.01) and answer("hello"),
            "/good/close": answer("hello", connection="close"),
            "/good/deflate": answer(coded, content_encoding="deflate"),
            "/good/redirect": answer(status="302 Found", location="/good"),
            "/silent": silence,
            "/half": then_close(answer("hel", content_length=5)),
            "/half-coded": answer(coded[:-1], content_encoding="deflate"),
            "/reset": then_reset(b""),
            "/reset-late": then_reset(answer("hel", content_length=5)),
            "/closed": then_close(b""),
            "/beyond": answer("hello, world", content_length=5),
            "/503": answer(status="503 No"),
            "/early": lambda c, r: c.send(answer("hello", status="413 No")) and c.close(),
            "/loop": answer(status="302 Found", location="/loop"),
            "/junk": then_close(b"\0junk"),
        }
        directory = self.enterContext(scratch())
        certificates = Certificates(directory)
        certificates.sign("localhost", "localhost")
        text = "location = /good { return 200 hello; } location = /444 { return 444; } "
        text += "client_max_body_size 1m; "
        text += "ssl_certificate localhost.pem; ssl_certificate_key localhost.key;"
        with (
            RawServer(routes) as server,
            closed_port() as closed,
            Nginx(directory, {"h2": ("ssl http2", text), "h1": ("ssl", text)}) as nginx,
        ):
            urls = [server.base + path for path in routes]
            urls += [f"http://localhost:{server.port}/good", f"http://127.0.0.1:{closed}/"]
            urls += [f"https://localhost:{server.port}/no-tls", "http://nowhere.invalid/", "no-url"]
            for name in ("h2", "h1"):
                urls += [
                    f"https://localhost:{nginx.ports[name]}/{path}" for path in ("good", "444")
                ]
            for seed in SEEDS:
                with self.subTest(seed=seed):
                    run = self.script(
                        SCRIPT,
                        f"urls={' '.join(urls)}",
                        f"seed={seed}",
                        f"count={REQUESTS}",
                        env={"SSL_CERT_FILE": certificates.ca},
                    )
                    *complaints, counts = run.values
                    self.assertEqual(complaints, [])
                    self.assertGreater(counts["right"], 5)
                    self.assertGreater(counts["failed"], 0)
                    self.assertEqual([name for name in self.files() if name.endswith(".part")], [])
            server.until(lambda: server.in_flight == 0)


if __name__ == "__main__":
    unittest.main()
