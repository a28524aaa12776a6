"""A server that takes request bodies of any size, and keeps account of what exactly arrived."""

import hashlib
import json

from servers import RawServer, answer_json


class Incomplete(Exception):
    """The client went away within the body."""


class Upload:
    """A request whose body is read piece by piece."""

    def __init__(self, connection, first, fields):
        self.connection = connection
        self.method, self.target, _ = first.split(" ", 2)
        self.headers = fields
        self.chunked = fields.get("transfer-encoding") == "chunked"
        self.size, self.complete = 0, False
        self.sha256 = hashlib.sha256()
        self.kept = b""  # the first megabyte

    @property
    def path(self):
        return self.target.partition("?")[0]

    def _line(self):
        while b"\r\n" not in self.connection.pending:
            if not self.connection._receive():
                raise Incomplete
        line, _, self.connection.pending = self.connection.pending.partition(b"\r\n")
        return line

    def _bytes(self, n):
        while n > 0:
            if not self.connection.pending and not self.connection._receive():
                raise Incomplete
            piece = self.connection.pending[:n]
            self.connection.pending = self.connection.pending[n:]
            n -= len(piece)
            yield piece

    def _pieces(self):
        if not self.chunked:
            yield from self._bytes(int(self.headers.get("content-length", 0)))
            return
        while size := int(self._line(), 16):
            yield from self._bytes(size)
            assert self._line() == b""
        assert self._line() == b""

    def pieces(self):
        for piece in self._pieces():
            self.size += len(piece)
            self.sha256.update(piece)
            if self.size <= 1_000_000:
                self.kept += piece
            yield piece
        self.complete = True

    def read(self):
        """Reads what is left."""
        if not self.complete:
            for _ in self.pieces():
                pass


class UploadServer(RawServer):
    """Answers with what arrived, unless a route(upload) says otherwise; it gives bytes, or None when
    it has done as it liked."""

    def __init__(self):
        super().__init__(accepted=self._take)
        self.uploads = []

    def _take(self, connection):
        while not connection.ended:
            while b"\r\n\r\n" not in connection.pending:
                if not connection._receive():
                    return
            head, _, connection.pending = connection.pending.partition(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")
            fields = {}
            for line in lines:
                name, _, value = line.partition(":")
                fields[name.lower()] = value.strip()
            upload = Upload(connection, first, fields)
            with self.changed:
                self.uploads.append(upload)
            try:
                data = self.routes.get(upload.path, arrived)(upload)
            except Incomplete:
                data = None
            if data:
                connection.send(data)
            with self.changed:
                self.changed.notify_all()

    def of(self, path):
        return [upload for upload in self.uploads if upload.path == path]


def arrived(upload):
    upload.read()
    return answer_json(
        json.dumps(
            {
                "method": upload.method,
                "size": upload.size,
                "sha256": upload.sha256.hexdigest(),
                "type": upload.headers.get("content-type"),
                "length": upload.headers.get("content-length"),
                "coding": upload.headers.get("transfer-encoding"),
                "text": upload.kept.decode("latin-1")[:1000],
            }
        )
    )


def after_reading(data):
    def route(upload):
        upload.read()
        return data

    return route
