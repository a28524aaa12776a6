"""What a network and a hostile server can do, as rows: bytes, and what must come of them. A `Row`
is fetched twice, once by itself and once as an item of a pipeline."""

import contextlib
import dataclasses
import gzip
import socket
import string
import time
import zlib

from servers import drip, then_close

# What a fault means: its kind, and whether it is tried again. The program's own table, and what
# the manual prints of it, must say the same.
FAULTS = {
    "bad_url": ("invalid", False),
    "bad_header": ("invalid", False),
    "bad_request": ("invalid", False),
    "cannot_read": ("invalid", False),
    "cannot_save": ("invalid", False),
    "body_not_repeatable": ("blocked", False),
    "host_not_allowed": ("blocked", False),
    "blocked_address": ("blocked", False),
    "dns_no_such_host": ("dns", False),
    "dns_no_answer": ("dns", True),
    "connect_failed": ("connect", True),
    "no_descriptors": ("connect", True),
    "proxy_refused": ("connect", False),
    "connect_timeout": ("timeout", True),
    "tls": ("tls", False),
    "timeout": ("timeout", True),
    "idle": ("timeout", True),
    "too_slow": ("timeout", True),
    "reset": ("network", True),
    "closed_early": ("network", True),
    "closed_in_head": ("network", True),
    "truncated_body": ("network", True),
    "stream_reset": ("protocol", True),
    "network": ("network", True),
    "out_of_memory": ("network", True),
    "not_http": ("protocol", True),
    "bad_framing": ("protocol", True),
    "extra_bytes": ("protocol", True),
    "unasked_range": ("protocol", True),
    "head_too_large": ("too_large", False),
    "body_too_large": ("too_large", False),
    "too_many_codings": ("too_large", False),
    "expands_too_fast": ("too_large", False),
    "unknown_coding": ("decode", False),
    "corrupt_coding": ("decode", False),
    "bad_json": ("decode", False),
    "bad_record": ("decode", False),
    "record_too_long": ("too_large", False),
    "state": ("invalid", False),
    "not_cached": ("http", False),
    "circuit_open": ("circuit_open", False),
    "http_status": ("http", "retry.statuses"),
    "retry_after_too_long": ("rate_limited", False),
    "too_many_redirects": ("too_many_redirects", False),
    "redirect_bad_location": ("blocked", False),
    "redirect_scheme": ("blocked", False),
    "redirect_downgrade": ("blocked", False),
    "redirect_secret_body": ("blocked", False),
    "cancelled": ("cancelled", False),
}

ELSEWHERE = {
    "state": "test_state.py",
    "not_cached": "test_cache.py",
    "circuit_open": "test_govern.py",
    "out_of_memory": "tests/torture",
    "network": "what libcurl may yet report and no server has been found to bring about",
}

# The one record of a good answer. A part of it is a whole record, too: only whoever looks at the
# framing knows better.
BODY = b'{"id":1}' + b" " * 24

HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
LENGTH = HEAD + b"Content-Length: 32\r\n\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNK = b"20\r\n" + BODY + b"\r\n"
LAST = b"0\r\n\r\n"


produced = set()  # the faults that some test brings about


def produces(*faults):
    """Marks a test that brings these faults about in its own way."""
    produced.update(faults)
    return lambda test: test


@dataclasses.dataclass
class Row:
    name: str
    fault: str | None  # None: it goes well
    route: object = None  # bytes, after which the server closes; or a route of RawServer; or None
    request: str = ""  # fields of the request, in Lua
    client: str = ""  # options of the client, in Lua
    url: str = ""  # instead of one of the server's
    attempts: int = -1  # -1: two of two when the fault is tried again, otherwise one
    sent: int = -1  # requests the server gets; -1: as many as there are attempts
    record: bool = True  # when it goes well: there is a record
    alone: bool = False  # not as an item of a pipeline
    says: str = ""  # in the message
    path: str = ""  # on the server

    def __post_init__(self):
        if isinstance(self.route, bytes):
            self.route = then_close(self.route)
        produced.update({self.fault} - {None})
        if self.attempts < 0:
            self.attempts = 2 if self.fault and FAULTS[self.fault][1] is True else 1
        if self.sent < 0:
            self.sent = self.attempts if self.route else 0


def fields(text, body=BODY, close=True):
    """An answer with these header lines."""
    head = HEAD if close else b"HTTP/1.1 200 OK\r\n"
    text = text.encode() if isinstance(text, str) else text
    return head + text.replace(b"\n", b"\r\n") + b"\r\n\r\n" + body


def sized(body, text=""):
    return fields(f"Content-Length: {len(body)}" + (text and "\n" + text), body)


def coded(coding, body):
    return sized(body, "Content-Encoding: " + coding)


def dripped(data, pause):
    """One byte after another, and then the end."""
    send = drip(data, pause)

    def route(connection, request):
        send(connection, request)
        connection.close()

    return route


def deflated(coding, level=9):
    if coding == "gzip":
        return gzip.compress(BODY, level)
    if coding == "deflate":
        return zlib.compress(BODY, level)
    packer = zlib.compressobj(level, wbits=-15)
    return packer.compress(BODY) + packer.flush()


@contextlib.contextmanager
def deaf_port():
    """A port whose queue of connections is full: who connects hears nothing."""
    with contextlib.ExitStack() as held:
        listener = held.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(8):
            sock = held.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        time.sleep(0.01)
        yield listener.getsockname()[1]


def bomb(megabytes=100):
    """So much of nothing, compressed."""
    packer = zlib.compressobj(9, wbits=31)
    zeros = bytes(1_000_000)
    return b"".join(packer.compress(zeros) for _ in range(megabytes)) + packer.flush()


# Lua that fetches the rows ------------------------------------------------------------------------

PRELUDE = """
local ffi = require "ffi"
ffi.cdef "int fcntl(int, int, ...); int getsockname(int, void *, unsigned *);"

-- How many descriptors are open, without the pairs libcurl wakes itself with.
local function descriptors()
  local n, address, size = 0, ffi.new "unsigned short[64]", ffi.new "unsigned[1]"
  for fd = 0, 1023 do
    size[0] = 128
    local pair = ffi.C.getsockname(fd, address, size) == 0 and address[0] == 1
    if ffi.C.fcntl(fd, 1) >= 0 and not pair then n = n + 1 end
  end
  return n
end

-- The same, once it is down to `wanted` or has had the time.
local function descriptors_after(wanted)
  local till = orc.now() + 5
  while descriptors() > wanted and orc.now() < till do orc.sleep "5ms" end
  return descriptors()
end

local function told(res, err)
  if not res then
    return { kind = err.kind, fault = err.fault, attempts = err.attempts or 0,
      message = err.message, status = err.status }
  end
  return { attempts = res.attempts, status = res.status, size = res.size, framing = res.framing }
end
"""

ROWS = """
local before = descriptors()
local results = orc.map(rows, function(row)
  local request = row.request()
  request.url = row.url .. (row.own and "?fetch" or "")
  local res, err = row.api:fetch(request)
  local value = told(res, err)
  if res and res.body and res.body ~= "" then
    local json, bad = res:json()
    value.json = json
    if bad then value.kind, value.fault = bad.kind, bad.fault end
  end
  return value
end, { concurrency = #rows })
for i, row in ipairs(rows) do emit { row.name, results[i] } end
assert(orc.fetch(base .. "/last")) -- whoever looks for a connection drops those that have ended
emit { before, descriptors_after(before) }

local by_name, groups, pipelines = {}, {}, {}
for _, row in ipairs(rows) do
  if not row.alone then
    by_name[row.name] = row
    local names = groups[row.api]
    if not names then
      names = {}
      groups[row.api] = names
      pipelines[#pipelines + 1] = orc.pipeline {
        name = "p" .. #pipelines, client = row.api, source = names,
        request = function(name)
          local request = by_name[name].request()
          request.url = by_name[name].url .. (by_name[name].own and "?run" or "")
          return request
        end,
        map = function(record, _, name) return { name = name, record = record } end,
        sink = "out/p" .. #pipelines .. ".jsonl",
      }
    end
    names[#names + 1] = row.name
  end
end
return pipelines
"""


def rows_script(rows, values):
    """A script that fetches the rows, all at once: first each by itself, then as the items of
    pipelines. `values` are put in for $NAMES."""
    clients = {}  # options → the variable
    lines = []
    for i, row in enumerate(rows):
        api = clients.setdefault(row.client, f"apis[{len(clients) + 1}]")
        url = string.Template(row.url).substitute(values) if row.url else None
        lines.append(
            f"rows[{i + 1}] = {{ name = [[{row.name}]], api = {api}, "
            f"alone = {str(row.alone).lower()}, own = {str(url is None).lower()}, "
            f"url = [[{url or values['base'] + row.path}]], "
            f"request = function() return {{ {string.Template(row.request).substitute(values)} }} "
            "end }"
        )
    apis = [
        f"{api} = orc.client {{ retry = {{ attempts = 2, wait_initial = 0, budget = 1000 }}, "
        f"concurrency = 60, timeout = 5, {string.Template(options).substitute(values)} }}"
        for options, api in clients.items()
    ]
    return "\n".join([PRELUDE, f"local base = [[{values['base']}]]", "local apis, rows = {}, {}", *apis, *lines, ROWS])

