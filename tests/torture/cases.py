"""The scripts' right outputs, and what is asked of a run in which an allocation failed."""

import collections
import json
import re

OLD = '{"id":0,"item":"of an earlier run"}\n'
MEMORY = re.compile(r"not enough memory|[Oo]ut of memory|[Cc]annot allocate memory")
BROKEN = re.compile(
    r"AddressSanitizer|LeakSanitizer|runtime error:|handle was left open|PANIC|deadlock"
    r"|attempt to |stack traceback|[Uu]nknown error|assertion failed|\(null\)|error in error"
)
STATUSES = (0, 1, 2, 3)


def whole_lines(text):
    """The JSON values of the lines; None unless every line is whole."""
    if text and not text.endswith("\n"):
        return None
    try:
        return [json.loads(line) for line in text.splitlines()]
    except ValueError:
        return None


def _values(text):
    return collections.Counter(json.dumps(value, sort_keys=True) for value in whole_lines(text))


def _fetch(run, good):
    if run.code == 0 and run.out != good.out:
        yield "output: exit status 0 with another answer"
    if whole_lines(run.out) is None:
        yield "output: half a line on stdout"


def _map(run, good):
    lines = whole_lines(run.out)
    if lines is None:
        yield "output: half a line on stdout"
        return
    expected = whole_lines(good.out)
    if run.code == 0 and len(lines) != len(expected):
        yield "output: exit status 0 with fewer results"
    for line, right in zip(lines, expected):
        if line != right and not MEMORY.search(line.get("message", "")):
            yield f"output: another result: {line}"


def _pipeline(run, good):
    if run.out:
        yield "output: something on stdout"
    yield from _files(run.code, run.files, good.files)
    if run.resumed:
        if run.resumed.code != 0:
            yield f"output: it does not go on: {run.resumed.err}"
        yield from _files(0, run.resumed.files, good.files)


def _files(code, files, good):
    """What is wrong with the pipeline's files after a run that ended with that status."""
    names = set(files) - {"records.jsonl", "torture.dead.jsonl"}
    if code != 0:
        names -= {"records.jsonl.part", "torture.dead.jsonl.part"}  # to be gone on with
    if names:
        yield f"output: left over: {sorted(names)}"
    text, dead = files.get("records.jsonl"), files.get("torture.dead.jsonl", "")
    if text is None:
        yield "output: the old file is gone"
        return
    if whole_lines(text) is None or whole_lines(dead) is None:
        yield "output: half a line in a file"
        return
    if text == OLD:
        if code == 0:
            yield "output: exit status 0 with the old file"
        return
    if _values(text) - _values(good["records.jsonl"]):
        yield "output: a record that is not right, or is there twice"
    if code != 0:
        return
    failed = {letter["item"]: letter["error"]["message"] for letter in whole_lines(dead)}
    written = {record["item"] for record in whole_lines(text)}
    for item in {record["item"] for record in whole_lines(good["records.jsonl"])}:
        if item not in written and not MEMORY.search(failed.get(item, "")):
            yield f"output: {item} is lost: {failed.get(item)}"
    if not any(item.startswith("/status/404") for item in failed):
        yield "output: the dead letter is lost"
    if len(failed) == 1 and _values(text) != _values(good["records.jsonl"]):
        yield "output: records are lost"


def _streams(run, good):
    yield from _map(run, good)
    files = {name: run.files[name] for name in run.files if name != "records.jsonl"}
    if files and files != {"saved.json": good.files["saved.json"]}:
        yield f"output: a file that is not right: {sorted(files)}"
    if run.code == 0 and not files and run.out == good.out:
        yield "output: nothing was saved"


OUTPUTS = {"fetch": _fetch, "map": _map, "streams": _streams, "pipeline": _pipeline}


def complaints(script, run, good):
    """What is wrong with a run, compared to one in which nothing failed: texts whose first word
    says what it is."""
    if run.code is None:
        yield "hang " + " ".join(run.facts("crash")[:1])  # where it was, without what led there
        return
    for word in ("crash", "panic"):
        for stack in run.facts(word)[-1:]:
            yield f"{word} {stack}"
    if not run.facts("injected"):
        yield "harness: nothing was injected"
    if run.code not in STATUSES:
        yield f"status: it ended with {run.code}"
        return
    if run.code != 0 and not MEMORY.search(run.err):
        yield "message: it does not say that memory was lacking"
    if BROKEN.search(run.err):
        yield "message: it says what no run may say"
    if any(not (c.isprintable() or c == "\n") for c in run.err) or "\ufffd" in run.err:
        yield "message: it has what is not text"
    yield from OUTPUTS[script](run, good)
    usual = collections.Counter(good.facts("lost"))
    for lost in collections.Counter(run.facts("lost")) - usual:
        yield f"lost {lost}"
    usual = collections.Counter(name.split()[-1].split(":")[0] for name in good.facts("open"))
    for name in run.facts("open"):
        kind = name.split()[-1].split(":")[0]
        if usual[kind] > 0:
            usual[kind] -= 1
        else:
            yield f"open: descriptor {name}"
