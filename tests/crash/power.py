"""Power losses: a run is traced, and the disk rebuilt as it may have been at every moment of it."""

import os

import disk

SAMPLES = 2  # disks with some of what was not synced, for each moment


def moments(trial, log, chance, samples=SAMPLES, killed_at=None):
    """Runs the trial, traced. Returns a list of (when, what, files): for every moment the disk with
    what was synced alone and some with a part of the rest, each once. `killed_at` is the pwrite64
    at which an earlier run is killed, so that this one resumes it; what that one had not synced
    may be lost as well. Raises disk.Untold when the rebuilt disk is not the one that is there."""
    tree = disk.Disk(trial.directory)
    if killed_at:
        kill = ["-e", f"inject=pwrite64:signal=SIGKILL:when={killed_at}"]
        if trial.run([*disk.OPTIONS, "-o", log, *kill]).code == -9:
            for call in disk.calls(log):
                tree.apply(call)
        if trial.ended():
            return []
        tree.begin()
    run = trial.run([*disk.OPTIONS, disk.FAST, "-o", log])
    if run.code != 0:
        raise disk.Untold(f"undisturbed: {run.story()}")
    seen, states, when, what = set(), [], trial.ledger.requests[0][0] - 60, "the start"

    def add(files, kind):
        mark = hash(frozenset(files.items()))
        if mark not in seen:
            seen.add(mark)
            states.append((when, f"{kind} after {what}", files))

    if not killed_at:
        add(tree.survives(), "what was synced")
    for call in disk.calls(log):
        when, what = call[1], f"call {tree.now + 1}, {call[3]}"
        if tree.apply(call):
            add(tree.survives(), "what was synced")
            for _ in range(samples):
                add(tree.survives(chance), "some of it")
    differ = differences(tree.lives(), trial.directory)
    if differ:
        raise disk.Untold(f"the trace does not explain {differ}")
    return states


def differences(files, directory):
    """The paths at which a directory is not what was rebuilt."""
    found = {}
    for place, directories, names in os.walk(directory):
        for name in directories:
            found[os.path.relpath(os.path.join(place, name), directory)] = None
        for name in names:
            with open(os.path.join(place, name), "rb") as file:
                found[os.path.relpath(os.path.join(place, name), directory)] = file.read()
    paths = {path for path in found.keys() | files.keys() if not path.endswith("-shm")}
    return sorted(path for path in paths if found.get(path, 0) != files.get(path, 0))


def cut(trial, log, call, number, chance):
    """Runs the trial, traced, until the power goes at the N-th call of a kind; what other servers
    were told stays told. Leaves the disk as it may then be. Returns what is wrong; None when the
    call was not reached."""
    tree = disk.Disk(trial.directory)
    run = trial.run([*disk.OPTIONS, "-o", log, "-e", f"inject={call}:signal=SIGKILL:when={number}"])
    if run.code == 0:
        return None
    if run.code != -9:
        return [f"killed, and yet: {run.story()}"]
    for made in disk.calls(log):
        tree.apply(made)
    disk.restore(trial.directory, tree.survives(chance))
    return trial.complete()


def resume(trial, state, ledger):
    """Goes on from such a disk. Returns what is wrong."""
    when, _, files = state
    disk.restore(trial.directory, files)
    then = ledger.copy()
    then.rewind(when)
    trial.lab.server.ledgers[trial.key] = then
    trial.runs, trial.kills = [], 2  # with the one before
    return trial.complete()
