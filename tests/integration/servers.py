"""Servers for the tests. None shares code with the program: RawServer sends whatever bytes it is
told to, Nginx is somebody else's idea of HTTP and TLS."""

import collections
import contextlib
import dataclasses
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time

PATIENCE = 30  # seconds after which a test that waits for something has failed


def answer(body=b"", status="200 OK", **fields):
    """A whole response. A field's underscores become hyphens; None leaves one out."""
    body = body.encode() if isinstance(body, str) else body
    fields = {"content_length": len(body), **fields}
    lines = [f"HTTP/1.1 {status}"]
    lines += [
        f"{name.replace('_', '-')}: {value}" for name, value in fields.items() if value is not None
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def answer_json(text, **fields):
    return answer(text, content_type="application/json", **fields)


@dataclasses.dataclass
class Request:
    raw: bytes  # head and body as they arrived
    method: str
    target: str
    headers: dict  # by lower-cased name
    body: bytes
    at: float  # monotonic
    connection: int  # its number

    @property
    def path(self):
        return self.target.partition("?")[0]


class Connection:
    """The server's end of one connection, in a thread of its own."""

    def __init__(self, server, sock, number):
        self.server, self.sock, self.number = server, sock, number
        self.pending = b""
        self.ended = False  # nothing more is to be read: closed here or by the client

    def _receive(self):
        try:
            data = self.sock.recv(65536)
        except OSError:
            data = b""
        self.pending += data
        self.ended = self.ended or not data
        return bool(data)

    def read_request(self):
        while b"\r\n\r\n" not in self.pending:
            if not self._receive():
                return None
        head, _, _ = self.pending.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        fields = {}
        for line in lines:
            name, _, value = line.partition(":")
            fields[name.lower()] = value.strip()
        size = len(head) + 4 + int(fields.get("content-length", 0))
        while len(self.pending) < size:
            if not self._receive():
                return None
        raw, self.pending = self.pending[:size], self.pending[size:]
        method, target, _ = first.split(" ", 2)
        return Request(
            raw, method, target, fields, raw[len(head) + 4 :], time.monotonic(), self.number
        )

    def send(self, *pieces, pause=0):
        """Sends the pieces, `pause` seconds apart; False when the client has gone."""
        for i, piece in enumerate(pieces):
            if i and not self.wait(pause):
                return False
            try:
                self.sock.sendall(piece)
            except OSError:
                self.ended = True
                return False
        return True

    def wait(self, seconds):
        """Waits; False when the server stops meanwhile."""
        return not self.server.stopping.wait(seconds)

    def wait_closed(self):
        """Says nothing until the client hangs up."""
        while self._receive():
            pass

    def close(self):
        self.ended = True
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()

    def reset(self):
        """Closes with a RST."""
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.ended = True
        self.sock.close()


class RawServer:
    """Answers by path. A route is the bytes to send, or a function(connection, request) that gives
    them, or does as it likes and gives None. `accepted`, a function(connection), comes before the
    first request is read. A response that says `connection: close` ends the connection. `listener`
    is a socket that listens elsewhere than on 127.0.0.1; the server closes it."""

    def __init__(self, routes=None, accepted=None, listener=None):
        self.routes = dict(routes or {})
        self.accepted = accepted
        self.requests = []
        self.opened = 0  # connections so far
        self.hung_up = collections.Counter()  # path → routes whose client went away meanwhile
        self.in_flight = 0  # requests whose route has not yet given its answer
        self.most_in_flight = 0
        self.changed = threading.Condition()
        self.stopping = threading.Event()
        self._open = set()
        self._threads = []
        self._listener = listener or socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = self._listener.getsockname()[1]
        self.base = f"http://127.0.0.1:{self.port}"
        self._accepter = threading.Thread(target=self._accept, daemon=True)
        self._accepter.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept
        self._accepter.join(PATIENCE)
        self._listener.close()
        with self.changed:
            connections = list(self._open)
        for connection in connections:
            connection.close()
        for thread in self._threads:
            thread.join(PATIENCE)

    def forget(self):
        """Starts the ledger anew, between tests that share a server."""
        with self.changed:
            self.requests, self.opened, self.most_in_flight = [], 0, 0
            self.hung_up.clear()

    def until(self, condition):
        """Waits until condition() holds."""
        with self.changed:
            if not self.changed.wait_for(condition, PATIENCE):
                raise AssertionError("the server waited in vain")

    def targets(self):
        return [request.target for request in self.requests]

    def last(self):
        return self.requests[-1]

    def _accept(self):
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.changed:
                self.opened += 1
                connection = Connection(self, sock, self.opened)
                self._open.add(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection):
        if self.accepted:
            self.accepted(connection)
        while not connection.ended:
            request = connection.read_request()
            if not request:
                break
            with self.changed:
                self.requests.append(request)
                self.in_flight += 1
                self.most_in_flight = max(self.most_in_flight, self.in_flight)
                self.changed.notify_all()
            self._answer(connection, request)
        connection.close()
        with self.changed:
            self._open.discard(connection)
            self.changed.notify_all()

    def _answer(self, connection, request):
        route = self.routes.get(request.target, self.routes.get(request.path))
        data = answer(status="404 Not Found") if route is None else route
        if callable(data):
            data = data(connection, request)
        with self.changed:  # before sending: the client may ask again at once
            self.in_flight -= 1
            self.hung_up[request.path] += connection.ended
            self.changed.notify_all()
        if data:
            connection.send(data)
            head = data.partition(b"\r\n\r\n")[0].lower()
            if b"\r\nconnection: close" in head:
                connection.close()


def silence(connection, _request):
    """A route that never answers."""
    connection.wait_closed()


def drip(data, pause):
    """A route that sends one byte after another."""
    return (
        lambda connection, _: connection.send(
            *(data[i : i + 1] for i in range(len(data))), pause=pause
        )
        and None
    )


def then_close(data):
    """A route that sends something and closes the connection."""

    def route(connection, _request):
        connection.send(data)
        connection.close()

    return route


def then_reset(data):
    """A route that sends something, gives it time to arrive, and resets the connection."""

    def route(connection, _request):
        connection.send(data)
        connection.wait(0.02)  # a RST may overtake what was sent
        connection.reset()

    return route


@contextlib.contextmanager
def closed_port():
    """A port that refuses connections, as nothing else can take it."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


# nginx --------------------------------------------------------------------------------------------


class Certificates:
    """A throw-away CA and the certificates it signs, as files in a directory."""

    def __init__(self, directory):
        self.directory = directory
        self.ca = self._authority("ca")

    def _openssl(self, *args):
        subprocess.run(["openssl", *args], cwd=self.directory, check=True, capture_output=True)

    def _authority(self, name):
        self._openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-keyout", f"{name}.key", "-out", f"{name}.pem", "-days", "2", "-subj", f"/CN={name}",
        )  # fmt: skip
        return os.path.join(self.directory, f"{name}.pem")

    def sign(self, name, host, days=2, ca="ca"):
        """Writes NAME.pem and NAME.key for a host."""
        if not os.path.exists(os.path.join(self.directory, f"{ca}.pem")):
            self._authority(ca)
        self._openssl(
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={host}",
            "-addext", f"subjectAltName=DNS:{host}",
        )  # fmt: skip
        self._openssl(
            "x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", "-days", str(days),
            "-CA", f"{ca}.pem", "-CAkey", f"{ca}.key", "-CAcreateserial",
            "-copy_extensions", "copy",
        )  # fmt: skip


class Nginx:
    """An nginx with the given server blocks, {name: text}: `listen` and `server_name` are put in
    front. `ports[name]` is where each of them listens on 127.0.0.1."""

    def __init__(self, directory, servers):
        self.directory = directory
        with contextlib.ExitStack() as held:
            self.ports = {}
            for name in servers:
                # Bound here so that nobody else gets it, and by nginx too thanks to reuseport.
                sock = held.enter_context(socket.socket())
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                sock.bind(("127.0.0.1", 0))
                self.ports[name] = sock.getsockname()[1]
            blocks = "".join(
                f"server {{ listen 127.0.0.1:{self.ports[name]} {options} reuseport; {text} }}\n"
                for name, (options, text) in servers.items()
            )
            self._write(blocks)
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", "nginx"]
                + ["-p", directory, "-c", "nginx.conf", "-e", "error.log"]
            )
            self._until_it_listens()

    def _write(self, blocks):
        user = "user root;" if os.geteuid() == 0 else ""  # the directory is nobody else's
        temporary = "".join(
            f"{name}_temp_path {self.directory}/temp;"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        with open(os.path.join(self.directory, "nginx.conf"), "w", encoding="ascii") as file:
            file.write(
                f"{user} daemon off; master_process off; pid nginx.pid;\n"
                "events { worker_connections 512; }\n"
                f"http {{ access_log off; {temporary} root {self.directory}/www;\n{blocks}}}\n"
            )

    def _until_it_listens(self):
        deadline = time.monotonic() + PATIENCE
        for port in self.ports.values():
            while True:
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                if self.process.poll() is not None or time.monotonic() > deadline:
                    with open(os.path.join(self.directory, "error.log"), encoding="utf-8") as log:
                        raise AssertionError("nginx does not start: " + log.read())
                time.sleep(0.01)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(PATIENCE)


@contextlib.contextmanager
def scratch():
    directory = tempfile.mkdtemp(prefix="orchestrator-test-")
    try:
        yield directory
    finally:
        shutil.rmtree(directory)
