"""What the server has: the ids, their records, and what becomes of each. Nothing here knows of the
program, so a record that is wrong in the same way in every run still shows."""

import json

TEXTS = ("plain", 'quo"te, comma; tab\t', "line\nbreak", "grün 日本 😀", " spaces ", "=1+2", "")


def is_gone(number):
    """2 % are never there."""
    return number % 50 == 7


def fails_once(number):
    """10 % have an error for whoever asks first."""
    return number % 10 == 3


def is_back(number):
    """Half of what was gone is there when it is asked for later."""
    return is_gone(number) and number % 100 < 50


def is_bad(record):
    """What a pipeline that validates refuses, as crash.lua.in says it."""
    return record["id"] % 17 == 3


def records(number):
    """None to three records; an id has all of its records in a sink, or none."""
    return [
        {
            "id": number * 10 + i,
            "item": number,
            "text": TEXTS[(number + i) % len(TEXTS)],
            "value": number / 8 - 3,
            "nested": {"list": [i, number % 3], "deep": {"even": number % 2 == 0}},
        }
        for i in range((1, 2, 1, 0, 3, 1)[number % 6])
    ]


def row(record):
    """A record as it can be compared and sorted, whatever it came out of."""
    nested = json.dumps(record["nested"], sort_keys=True)
    return int(record["id"]), int(record["item"]), record["text"], float(record["value"]), nested


def outcome(count, validates=False, later=False):
    """What becomes of so many ids: the rows of their records, and the letters of the rest, each an
    id and that of a bad record. `later`: once more, when some are back, of what was gone."""
    rows, letters = [], []
    for number in range(count):
        if is_gone(number) and not (later and is_back(number)):
            letters.append((number, None))
            continue
        for record in records(number):
            if validates and is_bad(record):
                letters.append((number, record["id"]))
            else:
                rows.append(row(record))
    return sorted(rows), sorted(letters, key=str)
