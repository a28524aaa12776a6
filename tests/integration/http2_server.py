"""HTTP/2 servers that do wrong, frame by frame (RFC 9113); nothing of a library's idea of it."""

import contextlib
import socket
import ssl
import struct
import threading
import time

from servers import PATIENCE

DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, CONTINUATION = (
    0, 1, 3, 4, 5, 6, 7, 9,
)  # fmt: skip
END_STREAM, ACK, END_HEADERS = 1, 1, 4
NO_ERROR, INTERNAL_ERROR, REFUSED_STREAM, CANCEL, ENHANCE_YOUR_CALM = 0, 2, 7, 8, 11
CLOSE, PAUSE = object(), object()
STATUS_200 = b"\x88"  # RFC 7541, appendix A


def literal(name, value):
    """A header field as RFC 7541 §6.2.2 writes it, without compression."""
    return b"\x00" + prefixed(len(name)) + name.encode() + prefixed(len(value)) + value.encode()


def prefixed(n):
    """An integer in 7 bits and more (RFC 7541 §5.1)."""
    if n < 127:
        return bytes([n])
    out, n = b"\x7f", n - 127
    while n >= 128:
        out, n = out + bytes([n % 128 + 128]), n // 128
    return out + bytes([n])


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(
        ">I", stream
    ) + payload  # fmt: skip


def headers(stream, block=STATUS_200, flags=END_HEADERS):
    return frame(HEADERS, flags, stream, block)


def data(stream, payload, flags=0):
    return frame(DATA, flags, stream, payload)


def reset(stream, code):
    return frame(RST_STREAM, 0, stream, struct.pack(">I", code))


def goaway(last, code=NO_ERROR):
    return frame(GOAWAY, 0, 0, struct.pack(">II", last, code))


class Http2Server:
    """Answers every request by route(connection, stream), which gives the bytes to send, or a list
    of them in which PAUSE lets what was sent arrive and CLOSE is the end of the connection. With
    `protocol` it speaks something else: a request is then all up to an empty line."""

    def __init__(self, certificate, route, protocol="h2"):
        self.route = route
        self.requests = 0
        self.resets = []  # streams that the client gave up
        self.opened = 0
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate + ".pem", certificate + ".key")
        self.context.set_alpn_protocols([protocol])
        self.protocol = protocol
        self._sockets = []
        self._threads = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.base = f"https://localhost:{self._listener.getsockname()[1]}"
        self._accepter = threading.Thread(target=self._accept, daemon=True)
        self._accepter.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepter.join(PATIENCE)
        self._listener.close()
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)

    def _accept(self):
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.opened += 1
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets.append(sock)
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock):
        try:
            with self.context.wrap_socket(sock, server_side=True) as tls:
                connection = Http2Connection(self, tls)
                if self.protocol == "h2":
                    connection.run()
                else:
                    connection.run_as_text()
        except (OSError, EOFError):
            sock.close()


class Http2Connection:
    def __init__(self, server, tls):
        self.server, self.tls = server, tls
        self.pending = b""
        self.streams = []  # of the requests on this connection

    def _receive(self):
        more = self.tls.recv(65536)
        if not more:
            raise EOFError
        self.pending += more

    def _read(self, n):
        while len(self.pending) < n:
            self._receive()
        taken, self.pending = self.pending[:n], self.pending[n:]
        return taken

    def _close(self):
        """Closes without a word of TLS, and without a RST for what was not read."""
        self.tls.shutdown(socket.SHUT_WR)
        while self.tls.recv(65536):
            pass
        raise EOFError

    def run(self):
        self._read(24)  # the preface
        self.tls.sendall(frame(SETTINGS, 0, 0))
        while True:
            head = self._read(9)
            kind, flags = head[3], head[4]
            stream = struct.unpack(">I", head[5:])[0] & 0x7FFFFFFF
            self._read(int.from_bytes(head[:3], "big"))
            if kind == SETTINGS and not flags & ACK:
                self.tls.sendall(frame(SETTINGS, ACK, 0))
            elif kind == RST_STREAM:
                self.server.resets.append(stream)
            elif kind == HEADERS:
                self.streams.append(stream)
                self.server.requests += 1
                self._answer(stream)

    def run_as_text(self):
        while True:
            while b"\r\n\r\n" not in self.pending:
                self._receive()
            self.pending = self.pending.partition(b"\r\n\r\n")[2]
            self.server.requests += 1
            self._answer(0)

    def _answer(self, stream):
        answer = self.server.route(self, stream) or b""
        for piece in answer if isinstance(answer, list) else [answer]:
            if piece is CLOSE:
                self._close()
            if piece is PAUSE:
                time.sleep(0.02)
                continue
            self.tls.sendall(piece)
