"""Measures the program against others and prints one table (Markdown) on standard output.

CPU is user + system time of the whole process. Each client of a row runs once a round, one after
the other, so that a disturbance hits all; ratios are the median over the rounds of client / ours.
"""

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass, replace

from lab import BODY_SIZE, HERE, LINE_SIZE, LIST_SIZE, OURS, Lab, note

BODY_ID = 48213
DIFFERENT = 1000  # URLs that are cached
SLOW_SIZE = len('{"ok": true}')

# Fifty latencies in ms: the sum is 13.5 s, the slowest takes 1.5 s.
SEED_SLOWEST = 1500
SEED = [SEED_SLOWEST, 48] + [53 + 8 * k for k in range(1, 49)]


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


def compared(samples, count, marks, base="ours"):
    """Lines of clients that fetch the same; a mark is the least that client / base must reach."""
    lines = []
    for name, taken in samples.items():
        line = figures(name, taken, count)
        if name != base:
            times = cpu_ratio(taken, samples[base])
            line.measured = f"{times:.2f} ×"
            if name in marks:
                line.mark, line.ok = f"≥ {marks[name]} ×", times >= marks[name]
        lines.append(line)
    return lines


# Rows ---------------------------------------------------------------------------------------------


def row_body(lab):
    """1 KB JSON, 50 in flight, body only"""
    url, count, size = lab.url(), 40000 // lab.scale, BODY_SIZE

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
    url, count = lab.url(), 40000 // lab.scale

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


def row_gzip(lab):
    """60 KB JSON, gzip, 50 in flight"""
    url, count = lab.url(path="list.json"), 8000 // lab.scale
    expected = count * LIST_SIZE

    def bare(who):
        return lambda: lab.run(lab.bare("--gzip", who, url, count, 50), expected)

    samples = lab.rounds_of({
        "bare loop and decode.c": bare("decode.c"),
        "bare loop, libcurl decodes": bare("libcurl"),
        "ours": lambda: lab.run(ours("fetch.lua", url=url, count=count, concurrency=50), expected),
        "Go net/http": lambda: lab.run(lab.client("Go net/http", url, count, 50, "body"), expected),
    })
    return compared(samples, count, {"bare loop, libcurl decodes": 1},
                    base="bare loop and decode.c")


def row_over_tls(lab, port, connections, *loops):
    """The 1 KB body over TLS, by so many connections at most. A loop is a name and options."""
    url, count = lab.url(port), 40000 // lab.scale

    def checked(argv):
        before = lab.connections()
        sample = lab.run(argv, count * BODY_SIZE)
        opened = lab.connections() - before - 1
        if opened > connections:
            raise SystemExit(f"bench: {' '.join(map(str, argv))}: {opened} connections")
        return sample

    def bare(options):
        return lambda: checked(lab.bare(*options, url, count, 50))

    samples = lab.rounds_of({
        "ours": lambda: checked(ours("fetch.lua", url=url, count=count, concurrency=50)),
        **{name: bare(options) for name, *options in loops},
    })
    return compared(samples, count, {"bare loop": 0.85})


def row_https(lab):
    """1 KB JSON over TLS, 50 in flight"""
    return row_over_tls(lab, "TLS", 50, ["bare loop"],
                        ["bare loop, sockets kept in epoll", "--keep"])


def row_http2(lab):
    """1 KB JSON over HTTP/2, 50 in flight on one connection"""
    return row_over_tls(lab, "HTTP2", 1, ["bare loop", "--join"])


def row_5000(lab):
    """1 KB JSON, 5,000 in flight"""
    url, count = lab.url(), 100000 // lab.scale
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
    url, count = lab.url(), 1000000 // lab.scale
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


def row_journal(lab):
    """one record an item, 50 in flight, a jsonl sink: with and without the journal"""
    url, count = lab.url(), 200000 // lab.scale
    out = lab.dir / "journal.jsonl"
    samples = lab.rounds_of({
        "ours": lambda: lab.run(ours("journal.lua", url=url, count=count, out=out)),
        "without the journal": lambda: lab.run(
            ours("journal.lua", url=url, count=count, out=out, journal="no")),
    })
    if sum(1 for _ in out.open("rb")) != count:
        raise SystemExit(f"bench: {out} has not {count} records")
    out.unlink()
    return compared(samples, count, {"without the journal": 0.8})


def row_resume(lab):
    """{count} items that are done, passed over; the same with another item before them"""
    url, count = lab.url(), 1000000 // lab.scale
    out, state = lab.dir / "resume.jsonl", lab.dir / "resume.state"
    part, saved = out.with_name(out.name + ".part"), lab.dir / "saved"
    program = ours("journal.lua", url=url, count=count, out=out) + ["--state-dir", state]
    note("row resume: the run that is to be resumed")
    subprocess.run([*program, "broken=yes"], cwd=lab.dir, env=lab.env, check=False,
                   stderr=subprocess.DEVNULL)
    saved.mkdir()
    shutil.copytree(state, saved / "state")
    shutil.copy(part, saved / "part")

    def again(*more):
        shutil.rmtree(state)
        shutil.copytree(saved / "state", state)
        shutil.copy(saved / "part", part)
        return lab.run([*program, "--resume", *more])

    samples = lab.rounds_of({
        "by its hash": again,
        "item by item": lambda: again(f"first={url}?first"),
    }, min(3, lab.rounds))
    lines = []
    for name, least in (("by its hash", 200000), ("item by item", 50000)):
        line = figures(name, samples[name], count)
        rate = median(samples[name], lambda s: count / s.seconds)
        line.measured, line.mark, line.ok = f"{rate:,.0f}/s", f"≥ {least:,}/s", rate >= least
        lines.append(line)
    return lines


def without(samples, base):
    """Less what a run takes that does everything but that."""
    least = median(base, lambda s: s.cpu)
    return [replace(s, cpu=s.cpu - least) for s in samples]


def columns():
    return ("active boolean, category text, id bigint, name text, note text, "
            "price double precision, stock bigint, updated_at text")


def row_sqlite(lab):
    """200,000 rows of 8 columns into a SQLite table, less what it takes to make the records"""
    url, count = lab.url(), 200000 // lab.scale
    out, theirs, rows = lab.dir / "out.sqlite", lab.dir / "theirs.sqlite", lab.dir / "rows.csv"

    def run(*argv, fresh):
        fresh.unlink(missing_ok=True)
        return lab.run(argv)

    run(*ours("rows.lua", url=url, count=count, sink=out), fresh=out)
    with rows.open("wb") as file:
        subprocess.run(["sqlite3", "-csv", out, "SELECT * FROM t"], stdout=file, check=True)
    samples = lab.rounds_of({
        "no sink": lambda: lab.run(ours("rows.lua", url=url, count=count)),
        "ours": lambda: run(*ours("rows.lua", url=url, count=count, sink=out), fresh=out),
        "sqlite3 .import": lambda: run("sqlite3", theirs, f"CREATE TABLE t({columns()})",
                                       f".import --csv {rows} t", fresh=theirs),
    })
    for path in (out, theirs):
        found = subprocess.check_output(["sqlite3", path, "SELECT count(*) FROM t"], text=True)
        if int(found) != count:
            raise SystemExit(f"bench: {path} has not {count} records")
    samples["ours"] = without(samples["ours"], samples.pop("no sink"))
    return compared(samples, count, {"sqlite3 .import": 0.5})


def row_postgres(lab):
    """200,000 rows of 8 columns into a PostgreSQL table, the server's CPU included"""
    sys.path.insert(0, str(HERE.parent / "integration"))
    from postgres import Postgres  # it wants Debian's server, as the tests do
    url, count, rows = lab.url(), 200000 // lab.scale, lab.dir / "rows.csv"
    server = lab.stack.enter_context(Postgres())
    psql = [f"{server.bin}/psql", server.url(), "-XAtq", "-c"]

    def run(*argv, before):
        server.query("DROP TABLE IF EXISTS t; " + before)
        began = server.cpu()
        sample = lab.run(argv)
        return replace(sample, cpu=sample.cpu + server.cpu() - began)

    def mine():
        return run(*ours("rows.lua", url=url, count=count, sink=server.url()), before="")

    mine()
    with rows.open("wb") as file:
        subprocess.run([*psql, "COPY (SELECT active, category, id, name, note, price, stock, "
                        "updated_at FROM t) TO STDOUT (FORMAT csv)"], stdout=file, check=True)
    samples = lab.rounds_of({
        "no sink": lambda: lab.run(ours("rows.lua", url=url, count=count)),
        "ours": mine,
        "psql \\copy": lambda: run(*psql, f"\\copy t FROM {rows} (FORMAT csv)",
                                   before=f"CREATE TABLE t({columns()})"),
    })
    if server.query("SELECT count(*) FROM t") != [str(count)]:
        raise SystemExit(f"bench: the table has not {count} records")
    samples["ours"] = without(samples["ours"], samples.pop("no sink"))
    return compared(samples, count, {"psql \\copy": 0.5})


def row_lines(lab):
    """{gb} GB in lines of 100 bytes, counted; CPU for all of it"""
    count = 10_000_000 // lab.scale
    url = f"{lab.lines_url}/{count}"
    samples = lab.rounds_of({
        "ours": lambda: lab.run(ours("lines.lua", url=url), count),
        "curl -o /dev/null": lambda: lab.run(
            ["curl", "-s", "-o", "/dev/null", "-w", "%{size_download}", url], count * LINE_SIZE),
        "curl to wc -l": lambda: lab.run(["sh", "-c", f"curl -s {url} | wc -l"], count),
    }, min(3, lab.rounds))
    lines = []
    for name, taken in samples.items():
        seconds = median(taken, lambda s: s.seconds)
        peak = max(s.peak for s in taken) / 1000
        line = Line(name, f"{median(taken, lambda s: s.cpu) / 1e6:.2f} s",
                    f"{count * LINE_SIZE / seconds / 1e6:,.0f} MB/s", f"{peak:.0f} MB")
        if name == "ours":
            line.measured, line.mark, line.ok = line.peak, "≤ 64 MB", peak <= 64
        else:
            line.measured = f"{cpu_ratio(taken, samples['ours']):.2f} ×"
        lines.append(line)
    return lines


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


def row_hits(lab):
    """1 KB JSON out of the cache, {different} URLs, 50 at once"""
    url, count, different = lab.url(), 40000 // lab.scale, DIFFERENT
    expected = count * BODY_SIZE

    def hits(**params):
        argv = ours("hits.lua", url=url, urls=different, concurrency=50, **params)
        return lambda: lab.run([*argv[:1], "--cache", "only-if-cached", *argv[1:]], expected)

    lab.run(ours("hits.lua", url=url, urls=different, concurrency=50, count=different),
            different * BODY_SIZE)
    samples = lab.rounds_of({
        "cached": hits(count=count),
        "cached, memory = 32MB": hits(count=count, memory="32MB"),
        "fetched": lambda: lab.run(ours("fetch.lua", url=url, count=count, concurrency=50),
                                   expected),
        "aiohttp, fetched": lambda: lab.run(lab.client("aiohttp", url, count, 50, "body"),
                                            expected),
    })
    marks = {"cached": (2, None), "cached, memory = 32MB": (4, 20)}
    lines = []
    for name, taken in samples.items():
        line = figures(name, taken, count)
        if name in marks:
            least, of_aiohttp = marks[name]
            times = cpu_ratio(samples["fetched"], taken)
            other = cpu_ratio(samples["aiohttp, fetched"], taken)
            line.measured = f"1/{times:.1f} of fetched, 1/{other:.0f} of aiohttp"
            line.mark, line.ok = f"≤ 1/{least}", times >= least
            if of_aiohttp:
                line.mark += f", ≤ 1/{of_aiohttp}"
                line.ok = line.ok and other >= of_aiohttp
        lines.append(line)
    return lines


def row_store(lab):
    """1 KB JSON, every one different, 50 in flight, fetched and cached"""
    url, count = lab.url(path="different"), 40000 // lab.scale
    state = lab.dir / "cold"

    def fetch(**params):
        argv = ours("cold.lua", url=url, count=count, concurrency=50, **params)
        argv[1:1] = ["--state-dir", state]

        def run():
            shutil.rmtree(state, ignore_errors=True)
            return lab.run(argv, count * BODY_SIZE)
        return run

    samples = lab.rounds_of({"cached": fetch(cache=1), "not cached": fetch()})
    lines = [figures(name, taken, count) for name, taken in samples.items()]
    times = cpu_ratio(samples["cached"], samples["not cached"])
    lines[0].measured, lines[0].mark = f"{times:.2f} × not cached", "≤ 1.25 ×"
    lines[0].ok = times <= 1.25
    return lines


def row_entries(lab):
    """a response of 1 KB looked up in the database, at random; CPU for each"""
    few, many = 1000, 1000000 // lab.scale
    body = (HERE / "body.json").read_text(encoding="utf-8")
    for n in (few, many):
        lab.run(ours("entries.lua", entries=n, dir=lab.dir / str(n), body=body), n)

    def look_up(n):
        return lambda: lab.run(ours("entries.lua", entries=n, dir=lab.dir / str(n), lookups=20000))

    samples = lab.rounds_of({n: look_up(n) for n in (few, many)})
    cost = {n: median(taken, lambda s: int(s.output)) for n, taken in samples.items()}
    lines = [Line(f"{n:,} entries", f"{cost[n] / 1000:.1f} µs", "",
                  f"{median(samples[n], lambda s: s.peak) / 1000:.0f} MB") for n in cost]
    times = cost[many] / cost[few]
    lines[-1].measured, lines[-1].mark, lines[-1].ok = f"{times:.2f} ×", "≤ 2 ×", times <= 2
    shutil.rmtree(lab.dir / str(many))
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

    def warm():
        return lab.run(ours("seed.lua", urls=urls, ttl="1d"), expected)

    warm()
    warmed = lab.rounds_of({"warm": warm, "empty": lambda: lab.run(ours("empty.lua"))}, 7)
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
    line = figures("ours, with a warm cache", warmed["warm"], len(SEED))
    took = (median(warmed["warm"], lambda s: s.seconds)
            - median(warmed["empty"], lambda s: s.seconds))
    times = seconds("one after the other") / took
    line.rate = f"{took * 1000:.1f} ms"
    line.measured = f"{times:,.0f} times faster than one after the other, without the start"
    line.mark, line.ok = "≥ 500 ×", times >= 500
    lines.append(line)
    return lines


def hidden(lab, queues):
    """Lines for a server of unknown capacity: how many at once is best, and what we find out."""
    seed = int(os.environ.get("BENCH_SEED", random.SystemRandom().randrange(10**6)))
    chance = random.Random(f"{seed} {queues}")
    capacity, ms = chance.randint(8, 120), chance.randint(10, 40)
    url, seconds = f"{lab.slow_url}/{ms}/{capacity}{queues}", max(2, ms / (5 * lab.scale))
    note(f"seed {seed}: {capacity} at once, {ms} ms each")

    def fetch(concurrency, seconds):
        argv = ours("hidden.lua", url=url, seconds=seconds, concurrency=concurrency)
        return lambda: lab.run(argv)

    def answered(samples, which=0):
        return median(samples, lambda s: int(s.output.split()[which]))

    settings = sorted({max(1, round(capacity * part)) for part in (.5, .75, .9, 1, 1.1, 1.5, 2)})
    fixed = lab.rounds_of({n: fetch(n, max(1, seconds / 4)) for n in settings}, 1)
    best = max(fixed, key=lambda n: answered(fixed[n]))
    samples = lab.rounds_of({n: fetch(n, seconds) for n in (best, "auto")}, min(3, lab.rounds))
    lines = []
    for name, taken in samples.items():
        count, refused = answered(taken), answered(taken, 1)
        line = figures(f"concurrency = {name}", taken, count)
        line.rate = f"{count / seconds:,.0f}/s"
        line.measured = f"{100 * refused / (count + refused):.1f} % refused"
        if name == "auto":
            times = count / answered(samples[best])
            line.measured = f"{times:.3f} × the best, {line.measured} (seed {seed})"
            line.mark = "≥ 0.9 ×, < 2 %"
            line.ok = times >= 0.9 and refused < 0.02 * (count + refused)
        lines.append(line)
    return lines


def row_hidden(lab):
    """a server that refuses what is beyond its capacity"""
    return hidden(lab, "")


def row_queue(lab):
    """a server that lets what is beyond its capacity wait"""
    return hidden(lab, "q")


def row_policy(lab):
    """1 KB JSON, 50 in flight, with limits, retry, breaker and statistics on"""
    url, count = lab.url(), 40000 // lab.scale
    expected = count * BODY_SIZE

    def fetch(script):
        return lambda: lab.run(ours(script, url=url, count=count, concurrency=50), expected)

    samples = lab.rounds_of({
        "ours": fetch("policy.lua"),
        "ours, without them": fetch("fetch.lua"),
        "bare loop": lambda: lab.run(lab.bare(url, count, 50), expected),
    })
    return compared(samples, count, {"bare loop": 0.8})


def row_grant(lab):
    """a slot handed on; CPU for each"""
    def grant(waiting):
        return lambda: lab.run(ours("grant.lua", waiting=waiting))

    samples = lab.rounds_of({n: grant(n) for n in (100, 10000, 100000)}, min(3, lab.rounds))
    # Whatever disturbs a run makes it slower.
    cost = {n: min(int(s.output) for s in taken) for n, taken in samples.items()}
    lines = [Line(f"{n:,} waiting", f"{ns / 1000:.2f} µs", "",
                  f"{median(samples[n], lambda s: s.peak) / 1000:.0f} MB")
             for n, ns in cost.items()]
    times = max(cost.values()) / min(cost.values())
    lines[-1].measured = f"{times:.2f} × the cheapest"
    lines[-1].mark, lines[-1].ok = "≤ 2 ×", times <= 2
    return lines


def row_quota(lab):
    """a quota of 600 a minute, kept for two; with --quick 60 in 6 s"""
    limit, per = (60, 6) if lab.scale > 1 else (600, 60)
    windows = 3 if lab.scale > 1 else 2
    url = f"{lab.quota_url}/{limit}/{per}"
    sample = lab.run(ours("quota.lua", url=url, limit=limit, per=per, seconds=windows * per,
                          name=f"bench {limit}"))
    answered, refused = map(int, sample.output.split())
    line = figures("ours", [sample], answered)
    used = answered / (limit * windows)
    line.rate = f"{answered} of {limit * windows}"
    line.measured, line.mark = f"{100 * used:.1f} % used, {refused} refused", "≥ 98 %, 0"
    line.ok = used >= 0.98 and refused == 0
    return [line]


ROWS = {"body": row_body, "decode": row_decode, "gzip": row_gzip, "https": row_https,
        "http2": row_http2, "5000": row_5000, "10000": row_10000, "million": row_million,
        "journal": row_journal, "resume": row_resume, "sqlite": row_sqlite,
        "postgres": row_postgres, "lines": row_lines, "empty": row_empty, "hits": row_hits,
        "store": row_store, "entries": row_entries, "seed": row_seed,
        "hidden": row_hidden, "queue": row_queue,
        "policy": row_policy, "grant": row_grant, "quota": row_quota}


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
            title = ROWS[name].__doc__.format(count=f"{1000000 // scale:,}",
                                              different=f"{DIFFERENT:,}", gb=f"{1 / scale:g}")
            for line in ROWS[name](lab):
                print("| " + " | ".join(line.cells(title)) + " |", flush=True)
                title, ok = "", ok and line.ok
    return 0 if ok else 1


sys.exit(main())
