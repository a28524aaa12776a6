"""Measures the program against others and prints one table (Markdown) on standard output.

CPU is user + system time of the whole process. Each client of a row runs once a round, one after
the other, so that a disturbance hits all; ratios are the median over the rounds of client / ours.
"""

import argparse
import contextlib
import functools
import os
import pathlib
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

HERE = pathlib.Path(__file__).resolve().parent
OURS = HERE.parent.parent / "build" / "orchestrator"
BODY_SIZE = (HERE / "body.json").stat().st_size
BODY_ID = 48213
SLOW_SIZE = len('{"ok": true}')

# Fifty latencies in ms: the sum is 13.5 s, the slowest takes 1.5 s.
SEED_SLOWEST = 1500
SEED = [SEED_SLOWEST, 48] + [53 + 8 * k for k in range(1, 49)]


@dataclass
class Sample:
    """What one run of a command used and said."""

    seconds: float
    cpu: float  # µs
    peak: float  # KB
    output: str


@dataclass
class Line:
    """One line of the table; what is not known or of no interest stays empty."""

    client: str
    cpu: str = ""
    rate: str = ""
    peak: str = ""
    measured: str = ""
    mark: str = ""
    ok: bool = True

    def cells(self, workload):
        verdict = ("ok" if self.ok else "**short**") if self.mark else ""
        return [workload, self.client, self.cpu, self.rate, self.peak, self.measured, self.mark,
                verdict]


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
        self.env.update(GOCACHE=str(self.dir / "go"), GO111MODULE="off", CGO_ENABLED="0")

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
        libs = subprocess.check_output(["pkg-config", "--cflags", "--libs", "libcurl", "libuv"],
                                       text=True).split()
        for name, extra in (("measure", []), ("slow", []), ("bare", libs)):
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
    def body_url(self):
        """The URL of body.json at nginx."""
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        root = self.dir / "root"
        root.mkdir()
        shutil.copy(HERE / "body.json", root)
        conf = (HERE / "nginx.conf.in").read_text(encoding="utf-8")
        for name, value in (("DIR", self.dir), ("ROOT", root), ("PORT", port),
                            ("FILES", min(self.files, 65536))):
            conf = conf.replace(f"@{name}@", str(value))
        (self.dir / "nginx.conf").write_text(conf, encoding="utf-8")
        server = self.serve("/usr/sbin/nginx", "-e", "stderr", "-c", self.dir / "nginx.conf")
        while server.poll() is None:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port)).close()
                return f"http://127.0.0.1:{port}/body.json"
            time.sleep(0.01)
        raise SystemExit("bench: nginx did not start")

    @functools.cached_property
    def slow_url(self):
        """The base URL of a server that answers /MS after so many milliseconds."""
        server = self.serve(self.dir / "slow", stdout=subprocess.PIPE, text=True)
        return f"http://127.0.0.1:{int(server.stdout.readline())}"

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


def ours(script, **params):
    return [OURS, "-q", HERE / script, *(f"{k}={v}" for k, v in params.items())]


def median(samples, of):
    return statistics.median(of(s) for s in samples)


def cpu_ratio(samples, base):
    return statistics.median(a.cpu / b.cpu for a, b in zip(samples, base))


def figures(client, samples, count):
    """A line with CPU per request, requests per second and peak memory."""
    return Line(client, f"{median(samples, lambda s: s.cpu) / count:.1f} µs",
                f"{median(samples, lambda s: count / s.seconds):,.0f}/s",
                f"{median(samples, lambda s: s.peak) / 1000:.0f} MB")


def compared(samples, count, marks):
    """Lines of clients that fetch the same; a mark is the least that client / ours must reach."""
    lines = []
    for name, taken in samples.items():
        line = figures(name, taken, count)
        if name != "ours":
            times = cpu_ratio(taken, samples["ours"])
            line.measured = f"{times:.2f} ×"
            if name in marks:
                line.mark, line.ok = f"≥ {marks[name]} ×", times >= marks[name]
        lines.append(line)
    return lines


# Rows ---------------------------------------------------------------------------------------------


def row_body(lab):
    """1 KB JSON, 50 in flight, body only"""
    url, count, size = lab.body_url, 40000 // lab.scale, BODY_SIZE

    def others(name):
        return lambda: lab.run(lab.client(name, url, count, 50, "body"), count * size)

    def wrk():
        sample = lab.run(["wrk", "-t1", "-c50", f"-d{max(1, 3 // lab.scale)}s", url])
        if "Non-2xx" in sample.output or "Socket errors" in sample.output:
            raise SystemExit(f"bench: wrk: {sample.output}")
        answered = int(sample.output.split(" requests in ")[0].split()[-1])
        sample.cpu *= count / answered
        sample.seconds *= count / answered
        return sample

    samples = lab.rounds_of({
        "ours": lambda: lab.run(ours("fetch.lua", url=url, count=count, concurrency=50),
                                count * size),
        "bare loop": lambda: lab.run(lab.bare(url, count, 50), count * size),
        "bare loop, sockets kept in epoll": lambda: lab.run(
            lab.bare("--keep", url, count, 50), count * size),
        "aiohttp": others("aiohttp"),
        "Go net/http": others("Go net/http"),
        "Node fetch": others("Node fetch"),
        "curl --parallel": lambda: lab.run(
            ["curl", "-s", "--parallel", "--parallel-max", "50", "-o", "/dev/null",
             "-w", "%{size_download}\n", f"{url}?[1-{count}]"], count * size),
        "wrk": wrk,
    })
    return compared(samples, count, {"bare loop": 0.85})


def row_decode(lab):
    """the same, decoded to a table"""
    url, count = lab.body_url, 40000 // lab.scale

    def others(name):
        return lambda: lab.run(lab.client(name, url, count, 50, "json"), count * BODY_ID)

    samples = lab.rounds_of({
        "ours": lambda: lab.run(ours("decode.lua", url=url, count=count, concurrency=50),
                                count * BODY_ID),
        "aiohttp": others("aiohttp"),
        "Go net/http": others("Go net/http"),
        "Node fetch": others("Node fetch"),
    })
    return compared(samples, count, {"aiohttp": 7, "Go net/http": 1.5})


def row_5000(lab):
    """1 KB JSON, 5,000 in flight"""
    url, count = lab.body_url, 100000 // lab.scale
    expected = count * BODY_SIZE

    def fetch(concurrency):
        return lambda: lab.run(ours("fetch.lua", url=url, count=count, concurrency=concurrency),
                               expected)

    samples = lab.rounds_of({
        "ours": fetch(5000),
        "ours, 50 in flight": fetch(50),
        "bare loop": lambda: lab.run(lab.bare(url, count, 5000), expected),
        "bare loop, lanes of 64": lambda: lab.run(
            lab.bare("--lanes", 64, url, count, 5000), expected),
    })
    return compared(samples, count, {"ours, 50 in flight": 0.5, "bare loop": 3,
                                     "bare loop, lanes of 64": 0.85})


def row_10000(lab):
    """10,000 in flight, answered after 4 s"""
    url, count = lab.slow_url + "/4000", 10000
    expected = count * SLOW_SIZE
    idle_bare = lab.run(lab.bare(url.replace("4000", "1"), 1, 1), SLOW_SIZE).peak
    samples = lab.rounds_of({
        "ours": lambda: lab.run(ours("fetch.lua", url=url, count=count, concurrency=count),
                                expected),
        "bare loop, lanes of 64": lambda: lab.run(
            lab.bare("--lanes", 64, url, count, count), expected),
    }, min(3, lab.rounds))
    lines = []
    for name, idle in (("ours", lab.run(ours("empty.lua")).peak),
                       ("bare loop, lanes of 64", idle_bare)):
        line = figures(name, samples[name], count)
        each = (median(samples[name], lambda s: s.peak) - idle) / count
        line.measured = f"{each:.1f} KB each"
        if name == "ours":
            line.mark, line.ok = "≤ 25 KB", each <= 25
        lines.append(line)
    return lines


def row_million(lab):
    """a source of {count} items, 50 in flight, a jsonl sink"""
    url, count = lab.body_url, 1000000 // lab.scale
    out = lab.dir / "million.jsonl"
    sample = lab.run(ours("million.lua", url=url, count=count, out=out))
    with out.open("rb") as records:
        written = sum(1 for _ in records)
    out.unlink()
    if written != count:
        raise SystemExit(f"bench: {written} records of {count} items")
    line = figures("ours", [sample], count)
    peak = sample.peak / 1000
    line.measured, line.mark, line.ok = f"{peak:.0f} MB", "≤ 64 MB", peak <= 64
    return [line]


def row_empty(lab):
    """an empty script, the fastest of 20"""
    samples = lab.rounds_of({
        "ours": lambda: lab.run(ours("empty.lua")),
        "curl --version": lambda: lab.run(["curl", "--version"]),
    }, 20)
    best = {name: min(taken, key=lambda s: s.seconds) for name, taken in samples.items()}
    lines = [Line(name, f"{median(samples[name], lambda s: s.cpu) / 1000:.1f} ms",
                  f"{sample.seconds * 1000:.1f} ms", f"{sample.peak / 1000:.0f} MB")
             for name, sample in best.items()]
    times = best["ours"].seconds / best["curl --version"].seconds
    lines[0].measured = f"{times:.2f} × curl's"
    lines[0].mark, lines[0].ok = "≤ 2 ×", times <= 2
    return lines


def row_seed(lab):
    """50 APIs, 13.5 s one after the other, the slowest 1.5 s"""
    base = lab.slow_url
    urls = lab.dir / "urls"
    urls.write_text("".join(f"{base}/{ms}\n" for ms in SEED), encoding="ascii")
    expected = len(SEED) * SLOW_SIZE

    def python(way):
        argv = ["/usr/bin/python3", HERE / "seed_client.py", way, urls]
        return lambda: lab.run(argv, expected)

    samples = lab.rounds_of({
        "ours": lambda: lab.run(ours("seed.lua", urls=urls), expected),
        "asyncio + aiohttp": python("aiohttp"),
    }, min(3, lab.rounds))
    samples["ThreadPoolExecutor(3)"] = [python("threads")()]
    samples["one after the other"] = [python("sequential")()]

    def seconds(name):
        return median(samples[name], lambda s: s.seconds)

    lines = []
    for name, taken in samples.items():
        line = figures(name, taken, len(SEED))
        line.rate = f"{seconds(name):.2f} s"
        line.measured = f"{seconds(name) / seconds('ours'):.2f} ×"
        lines.append(line)
    times = seconds("ours") * 1000 / SEED_SLOWEST
    lines[0].measured = f"{times:.3f} × the slowest"
    lines[0].mark, lines[0].ok = "≤ 1.02 ×", times <= 1.02
    return lines


ROWS = {"body": row_body, "decode": row_decode, "5000": row_5000, "10000": row_10000,
        "million": row_million, "empty": row_empty, "seed": row_seed}


def main():
    parser = argparse.ArgumentParser(prog="tests/bench/run", description=__doc__.split("\n")[0])
    parser.add_argument("--rows", default=",".join(ROWS),
                        help="which ones, separated by commas (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=7, help="rounds (default: %(default)s)")
    parser.add_argument("--quick", action="store_true",
                        help="a quarter of the requests, 3 rounds: a look, no measurement")
    args = parser.parse_args()
    names = args.rows.split(",")
    unknown = [name for name in names if name not in ROWS]
    if unknown or args.pairs < 1:
        parser.error(f"no such row: {unknown[0]}" if unknown else "--pairs is at least 1")

    rounds, scale = (3, 4) if args.quick else (args.pairs, 1)
    print(f"CPU is user + system time per request, median of {rounds} interleaved rounds; \"2 ×\" "
          "means twice what ours takes.\n")
    print("| workload | client | CPU | rate or time | peak memory | measured | mark | |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |")
    ok = True
    with Lab(rounds, scale) as lab:
        for name in names:
            note(f"row {name}")
            title = ROWS[name].__doc__.format(count=f"{1000000 // scale:,}")
            for line in ROWS[name](lab):
                print("| " + " | ".join(line.cells(title)) + " |", flush=True)
                title, ok = "", ok and line.ok
    return 0 if ok else 1


sys.exit(main())
