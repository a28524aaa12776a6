"""The server of the crash tests. It keeps a ledger of every request and of every delivery, in
memory and in a file, and never goes down with the program."""

import asyncio
import collections
import json
import os
import threading
import time
import urllib.parse
import zlib

import world

FAILURE = b'{"error":"once"}'
GONE = b'{"error":"gone"}'


class Ledger:
    """What one trial asked for and delivered. Times are the system's, as in a trace."""

    def __init__(self):
        self.requests = []  # (time, id, status)
        self.deliveries = []  # (time, idempotency key, body, whether it was answered 200)
        self.faults = []  # what a client must never do
        self.later = False  # some of the ids that were gone are back
        self._asked = collections.Counter()

    def ask(self, number):
        """The status for an id."""
        self._asked[number] += 1
        if world.is_gone(number) and not (self.later and world.is_back(number)):
            status = 404
        else:
            status = 503 if world.fails_once(number) and self._asked[number] == 1 else 200
        self.requests.append((time.time(), number, status))
        return status

    def deliver(self, key, body, hard):
        """The status for a batch; None: there will be no answer. With `hard` every third batch is
        refused at first, and every third one's answer is lost."""
        before = [entry for entry in self.deliveries if entry[1] == key]
        kept = [entry for entry in before if entry[2] is not None]
        if not key:
            self.faults.append("a batch without an Idempotency-Key")
        if kept and kept[0][2] != body:
            self.faults.append(f"the batch {key} came again with other bytes")
        fate = zlib.crc32(key.encode()) % 3 if hard and not before else 2
        status = (503, None, 200)[fate]
        self.deliveries.append((time.time(), key, body if fate else None, status == 200))
        return status

    def delivered(self):
        """The batches that the receiver has, each once."""
        kept = {}
        for _, key, body, _ in self.deliveries:
            if body is not None:
                kept.setdefault(key, body)
        return list(kept.values())

    def excess(self):
        """How many requests were made for an id that had had its answer already."""
        final = collections.Counter(number for _, number, status in self.requests if status != 503)
        return sum(count - 1 for count in final.values())

    def rewind(self, to):
        """Forgets what came later."""
        self.requests = [entry for entry in self.requests if entry[0] <= to]
        self.deliveries = [entry for entry in self.deliveries if entry[0] <= to]
        self._asked = collections.Counter(number for _, number, _ in self.requests)

    def copy(self):
        twin = Ledger()
        twin.requests, twin.deliveries = list(self.requests), list(self.deliveries)
        twin.faults, twin._asked = list(self.faults), self._asked.copy()
        twin.later = self.later
        return twin


class Connection(asyncio.Protocol):
    def __init__(self, server):
        self.server = server
        self.transport = None
        self.pending = b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.pending += data
        while True:
            head, end, rest = self.pending.partition(b"\r\n\r\n")
            if not end:
                return
            first, *lines = head.decode("latin-1").split("\r\n")
            fields = dict(line.lower().split(":", 1) for line in lines)
            size = int(fields.get("content-length", 0))
            if len(rest) < size:
                return
            self.pending = rest[size:]
            method, target, _ = first.split(" ")
            self.server.handle(self, method, target, fields, rest[:size])

    def answer(self, status, body=b"{}"):
        if not self.transport.is_closing():
            self.transport.write(
                b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                % (status, len(body), body)
            )


class Server:
    """Listens on 127.0.0.1 while it is open. /TRIAL/items/ID are the items, /TRIAL/sink takes
    batches."""

    def __init__(self, directory):
        self.file = os.path.join(directory, "ledger.jsonl")
        self.port = None
        self.ledgers = collections.defaultdict(Ledger)
        self._loop = asyncio.new_event_loop()
        self._log = open(self.file, "a", encoding="utf-8")
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def base(self, trial):
        return f"http://127.0.0.1:{self.port}/{trial}"

    def handle(self, connection, method, target, fields, body):
        _, trial, what, *rest = urllib.parse.urlsplit(target).path.split("/")
        ledger = self.ledgers[trial]
        if method == "POST" and what.startswith("sink"):
            key = fields.get("idempotency-key", "").strip()
            status = ledger.deliver(key, body, what == "sink-hard")
            self._note(trial=trial, key=key, bytes=len(body), status=status)
            if status is None:
                connection.transport.abort()
            else:
                connection.answer(status)
            return
        number = int(rest[0])
        status = ledger.ask(number)
        self._note(trial=trial, id=number, status=status)
        text = {404: GONE, 503: FAILURE}.get(status) or json.dumps(
            {"items": world.records(number)}, ensure_ascii=False
        ).encode()
        # Some are slow, so that answers come in another order than requests go out.
        delay = 0 if number % 4 else number * 7 % 5 / 1000
        if delay:
            self._loop.call_later(delay, connection.answer, status, text)
        else:
            connection.answer(status, text)

    def _note(self, **entry):
        self._log.write(json.dumps({"at": round(time.time(), 6), **entry}) + "\n")

    def _serve(self):
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def __enter__(self):
        self._thread.start()
        listening = asyncio.run_coroutine_threadsafe(
            self._loop.create_server(lambda: Connection(self), "127.0.0.1", 0, backlog=512),
            self._loop,
        )
        self.port = listening.result().sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._log.close()
