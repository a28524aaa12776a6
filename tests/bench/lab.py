"""What a measurement takes: the programs, the servers, and what a run of a client has used.

ORCHESTRATOR_BIN names another build of the program than build/orchestrator.
"""

import contextlib
import functools
import gzip
import json
import os
import pathlib
import random
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass

HERE = pathlib.Path(__file__).resolve().parent
TREE = HERE.parent.parent
OURS = pathlib.Path(os.environ.get("ORCHESTRATOR_BIN", TREE / "build" / "orchestrator")).resolve()
BODY_SIZE = (HERE / "body.json").stat().st_size
LIST_SIZE = 60000
LINE_SIZE = 100

# One key for the certificate, which signs itself and is all the clients trust.
MAKE_CERTIFICATE = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                    "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=bench",
                    "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem",
                    "-out", "cert.pem"]


def list_json():
    """LIST_SIZE bytes of JSON, a page of records as an API has them, padded at its end."""
    chance = random.Random(60)
    words = re.findall("[a-z]{3,}", (HERE / "body.json").read_text(encoding="utf-8"))
    start, end = '{"items":[', '],"pad":"'
    items = []
    while True:
        n = len(items)
        item = json.dumps({
            "id": 40000 + n, "uuid": f"{chance.getrandbits(128):032x}", "active": n % 3 > 0,
            "score": chance.randrange(10000) / 100, "note": None,
            "text": " ".join(chance.choices(words, k=12)),
            "updated_at": f"2026-01-17T22:{n % 60:02d}:03Z",
        }, separators=(",", ":"))
        if len(start + ",".join([*items, item]) + end) > LIST_SIZE - 2:
            break
        items.append(item)
    text = start + ",".join(items) + end
    return (text.ljust(LIST_SIZE - 2) + '"}').encode("ascii")


def different_json():
    """body.json with $args instead of its number, as a text of nginx.conf."""
    text = (HERE / "body.json").read_text(encoding="utf-8")
    return text.replace("'", "\\'").replace("48213", "$args", 1)


@dataclass
class Sample:
    """What one run of a command used and said."""

    seconds: float
    cpu: float  # µs
    peak: float  # KB
    output: str


class Lab:
    """The programs, the servers and the scratch directory; all gone when it closes."""

    def __init__(self, rounds, scale):
        self.rounds = rounds
        self.scale = scale
        self.stack = contextlib.ExitStack()
        self.dir = pathlib.Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        cores = sorted(os.sched_getaffinity(0))
        self.server_core, self.client_core = str(cores[0]), str(cores[-1])
        if len(cores) < 2:
            note("only one core: the server and the clients share it")
        if os.getloadavg()[0] > 0.5:
            note(f"the machine is busy (load {os.getloadavg()[0]:.1f}): the figures will scatter")
        self.files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (self.files, self.files))
        self.env = {k: v for k, v in os.environ.items()
                    if not k.lower().endswith("_proxy") and k != "ORCHESTRATOR_LUA"}
        self.env.update(GOCACHE=str(self.dir / "go"), GO111MODULE="off", CGO_ENABLED="0",
                        SSL_CERT_FILE=str(self.dir / "cert.pem"))

    def __enter__(self):
        try:
            self.build()
        except BaseException:
            self.stack.close()
            raise
        return self

    def __exit__(self, *exc):
        self.stack.close()

    def build(self):
        note("building the other clients")
        flags = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror"]
        libs = subprocess.check_output(
            ["pkg-config", "--cflags", "--libs", "libcurl", "libuv", "zlib", "libbrotlidec",
             "libzstd"], text=True).split()
        bare = ["-I", TREE / "src", TREE / "src" / "decode.c", *libs]
        for name, extra in (("measure", []), ("slow", []), ("lines", []), ("bare", bare)):
            subprocess.check_call(["cc", *flags, "-o", self.dir / name, HERE / f"{name}.c", *extra])
        subprocess.check_call(["go", "build", "-o", self.dir / "go_client", HERE / "go_client.go"],
                              env=self.env)

    def serve(self, *argv, **kwargs):
        """Starts a server, which ends with the lab."""
        alone = ["taskset", "-c", self.server_core, "setpriv", "--pdeathsig", "KILL"]
        server = subprocess.Popen([*alone, *argv], env=self.env, **kwargs)
        self.stack.callback(server.wait)
        self.stack.callback(server.kill)
        return server

    @functools.cached_property
    def ports(self):
        """Starts nginx; the ports of its servers by their names in nginx.conf.in."""
        with contextlib.ExitStack() as stack:
            ports = {}
            for name in ("PLAIN", "TLS", "HTTP2"):
                s = stack.enter_context(socket.socket())
                s.bind(("127.0.0.1", 0))
                ports[name] = s.getsockname()[1]
        root = self.dir / "root"
        root.mkdir()
        shutil.copy(HERE / "body.json", root)
        (root / "list.json.gz").write_bytes(gzip.compress(list_json(), 6))
        subprocess.run(MAKE_CERTIFICATE, cwd=self.dir, check=True, capture_output=True)
        conf = (HERE / "nginx.conf.in").read_text(encoding="utf-8")
        for name, value in (("DIR", self.dir), ("ROOT", root), *ports.items(),
                            ("DIFFERENT", different_json()),
                            ("FILES", min(self.files, 65536))):
            conf = conf.replace(f"@{name}@", str(value))
        (self.dir / "nginx.conf").write_text(conf, encoding="utf-8")
        server = self.serve("/usr/sbin/nginx", "-e", "stderr", "-c", self.dir / "nginx.conf")
        while server.poll() is None:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", ports["PLAIN"])).close()
                return ports
            time.sleep(0.01)
        raise SystemExit("bench: nginx did not start")

    def url(self, port="PLAIN", path="body.json"):
        return f"http{'s' if port != 'PLAIN' else ''}://127.0.0.1:{self.ports[port]}/{path}"

    def connections(self):
        """How many connections nginx has accepted so far."""
        with urllib.request.urlopen(self.url(path="status")) as answer:
            return int(answer.read().split()[7])

    def printed_url(self, *argv):
        """Starts a server that prints its port; its base URL."""
        server = self.serve(*argv, stdout=subprocess.PIPE, text=True)
        return f"http://127.0.0.1:{int(server.stdout.readline())}"

    @functools.cached_property
    def slow_url(self):
        """The base URL of a server that answers /MS after so many milliseconds."""
        return self.printed_url(self.dir / "slow")

    @functools.cached_property
    def lines_url(self):
        """The base URL of a server that answers /COUNT with so many lines of LINE_SIZE bytes."""
        return self.printed_url(self.dir / "lines")

    @functools.cached_property
    def quota_url(self):
        """The base URL of a server that answers /LIMIT/SECONDS so often in such a window."""
        return self.printed_url("/usr/bin/python3", HERE / "quota_server.py")

    def run(self, argv, expected=None):
        """Runs a client; the numbers it prints must add up to what is expected."""
        report = self.dir / "report"
        argv = [self.dir / "measure", self.client_core, report, *argv]
        done = subprocess.run(argv, capture_output=True, text=True, env=self.env, cwd=self.dir,
                              check=False)
        command = " ".join(map(str, argv[3:]))
        if done.returncode:
            raise SystemExit(f"bench: {command} failed ({done.returncode}):\n{done.stderr[-2000:]}")
        if expected is not None and sum(map(int, done.stdout.split())) != expected:
            raise SystemExit(f"bench: {command}: {done.stdout[:200]!r} is not {expected}")
        seconds, cpu, peak = map(float, report.read_text(encoding="ascii").split())
        return Sample(seconds, cpu, peak, done.stdout)

    def rounds_of(self, runs, rounds=None):
        """Runs every client once a round, every other round in reverse; name → samples."""
        samples = {name: [] for name in runs}
        for i in range(rounds or self.rounds):
            for name in reversed(runs) if i % 2 else runs:
                samples[name].append(runs[name]())
        return samples

    def bare(self, *args):
        return [self.dir / "bare", *map(str, args)]

    def client(self, name, *args):
        program = {
            "aiohttp": ["/usr/bin/python3", HERE / "aiohttp_client.py"],
            "Go net/http": [self.dir / "go_client"],
            "Node fetch": ["node", HERE / "node_client.mjs"],
        }[name]
        return [*program, *map(str, args)]


def note(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)
