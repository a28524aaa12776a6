"""Kills and errors at every system call that touches the files of a run, by strace.

strace counts the calls of each thread by itself. So the calls of one kind on one file are an
enumeration of their own, with the greatest count of any thread as its length; it ends with the
first number at which nothing is injected, and one that ends too early has tested nothing.
"""

import collections
import dataclasses
import os
import re

import disk

CHANGES = (
    "openat write pwrite64 fsync fdatasync ftruncate fallocate rename renameat renameat2 "
    "unlink unlinkat mkdir link"
).split()
READS = ("read", "pread64")  # an error may come from them, too
WRITES = ("write", "pwrite64", "fallocate", "ftruncate")
SYNCS = ("fsync", "fdatasync")

KILL, FULL, BROKEN = "signal=SIGKILL", "error=ENOSPC", "error=EIO"


@dataclasses.dataclass(frozen=True)
class Point:
    """The N-th call of a kind on a file, and what happens there. A full disk stays full."""

    call: str
    path: str  # in the trial's directory
    number: int
    fault: str

    def __str__(self):
        return f"{self.fault} at {self.call} {self.number} of {self.path}"

    def options(self, trial, log):
        when = f"{self.number}{'+' if self.fault == FULL else ''}"
        options = ["-f", "-o", log, "-e", "signal=none"]
        if self.fault != KILL:  # strace injects no signal with it
            options.append(disk.FAST)
        # As it is in the call itself, and as /proc tells of a descriptor.
        for path in {self.path, os.path.realpath(trial.path(self.path))}:
            options += ["-P", path]
        options += ["-e", f"trace={self.call}"]
        return options + ["-e", f"inject={self.call}:{self.fault}:when={when}"]


def survey(trial, log):
    """Runs the trial undisturbed. Returns what is wrong, and the calls on its files:
    {(call, path): how often at most one thread made it}."""
    tree = disk.Disk(trial.directory)
    run = trial.run([*disk.OPTIONS, disk.FAST, "-o", log])
    if run.code != 0:
        return [f"undisturbed: {run.story()}"], {}
    counts = collections.Counter()
    for call in disk.calls(log):
        pid, name, args = call[0], call[3], disk.split(call[4])
        if name in CHANGES or name in READS:
            path = touched(tree, name, args)
            if path:
                counts[name, path, pid] += 1
        tree.apply(call)
    most = {}
    for (name, path, _), count in counts.items():
        most[name, path] = max(count, most.get((name, path), 0))
    return trial.judge(run), most


def touched(tree, name, args):
    """The path of a call, relative to the trial's directory; None when it is elsewhere."""
    if args[0].isdigit():
        handle = tree.handles.get(int(args[0]))
        return handle and tree.path_of(handle.node)
    path = disk.string_of(args[1] if args[0] == "AT_FDCWD" else args[0]).decode()
    path = os.path.normpath(os.path.join(tree.directory, path))
    if not path.startswith(tree.root + "/"):
        return None
    return os.path.relpath(path, tree.root)


def points(counts, chance=None, most=None):
    """The points of a survey; so many of them, chosen at random, when `most` is given. Those of one
    call on one file come in order."""
    found = []
    for (call, path), count in sorted(counts.items()):
        faults = [BROKEN] if call in READS else [KILL, BROKEN]
        if call in WRITES or call in ("openat", "mkdir", "rename"):
            faults.append(FULL)
        if call == "openat":
            count = min(count, 6)
        for fault in faults:
            found += [Point(call, path, number, fault) for number in range(1, count + 1)]
    if most and len(found) > most:
        # As many kills as errors, and no file left out because another one is written often.
        weight = collections.Counter((p.call, p.path, p.fault == KILL) for p in found)
        found.sort(key=lambda p: -chance.random() ** weight[p.call, p.path, p.fault == KILL])
        found = found[:most]
    return sorted(found, key=lambda p: (p.path, p.call, p.fault, p.number))


def injected(log):
    with open(log, encoding="ascii", errors="replace") as file:
        return "(INJECTED)" in file.read()


def try_point(trial, point, log):
    """Runs the trial with one fault, and to its end. Returns what is wrong; None when the point
    was not reached."""
    run = trial.run(point.options(trial, log))
    wrong = []
    if run.code == -9 and point.fault == KILL:
        pass
    elif not injected(log):
        return None
    elif run.code not in (0, 1, 2):
        wrong.append(f"with the error: {run.story()}")
    elif run.code != 0 and not re.search(r"\w", run.err):
        wrong.append(f"ended with {run.code} and said nothing")
    trial.stops += run.code not in (0, -9)
    if run.code == 0:
        return wrong + trial.judge(run)
    return wrong + trial.between() + trial.complete()
