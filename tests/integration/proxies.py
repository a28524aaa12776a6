"""Proxies for the tests: squid, and a SOCKS5 server of our own (RFC 1928, RFC 1929)."""

import contextlib
import os
import shutil
import socket
import struct
import subprocess
import threading
import time

from servers import PATIENCE

SQUID = shutil.which("squid", path=os.environ["PATH"] + ":/usr/sbin")


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Squid:
    """A squid that lets user-1, user-2 and so on in with the password, writes down what they ask
    for, and knows some names. `port` speaks plainly, `tls_port` TLS with the given certificate."""

    def __init__(self, directory, password, names, certificate):
        self.directory = os.path.join(directory, "squid")
        os.mkdir(self.directory)
        os.chmod(directory, 0o711)  # started by root, it becomes another user
        os.chmod(self.directory, 0o777)
        hashed = _hashed(password)
        self._write("passwords", "".join(f"user-{i}:{hashed}\n" for i in range(1, 100)))
        self._write("hosts", "".join(f"127.0.0.1 {name}\n" for name in names))
        for _ in range(3):  # nobody holds the ports for it
            self.port, self.tls_port = free_port(), free_port()
            self._write("squid.conf", self._configuration(certificate))
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", SQUID, "-N", "-f", self._path("squid.conf")],
                cwd=self.directory,
                stderr=subprocess.DEVNULL,
            )
            if self._listens():
                return
            self.process.wait(PATIENCE)
        with open(self._path("cache.log"), encoding="utf-8") as log:
            raise AssertionError("squid does not start: " + log.read())

    def _path(self, name):
        return os.path.join(self.directory, name)

    def _write(self, name, text):
        with open(self._path(name), "w", encoding="ascii") as file:
            file.write(text)

    def _configuration(self, certificate):
        return f"""
            http_port 127.0.0.1:{self.port}
            https_port 127.0.0.1:{self.tls_port} \\
                tls-cert={certificate}.pem tls-key={certificate}.key
            logformat ledger %un %>rm %>ru %{{Authorization}}>h
            access_log stdio:{self._path("access.log")} ledger
            cache_log {self._path("cache.log")}
            hosts_file {self._path("hosts")}
            auth_param basic program /usr/lib/squid/basic_ncsa_auth {self._path("passwords")}
            auth_param basic children 1 startup=1
            acl users proxy_auth REQUIRED
            acl forbidden port 1
            http_access deny forbidden
            http_access allow users
            http_access deny all
            cache deny all
            cache_mem 0
            cache_store_log none
            coredump_dir {self.directory}
            max_filedescriptors 512
            netdb_filename none
            pid_filename none
            pinger_enable off
            shutdown_lifetime 0 seconds
            visible_hostname squid.test
        """

    def _listens(self):
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                for port in (self.port, self.tls_port):
                    socket.create_connection(("127.0.0.1", port)).close()
                return True
            time.sleep(0.01)
        return False

    def ledger(self, user, count):
        """What a user asked for, [method, target, Authorization] each; waits until there are so
        many, as a tunnel is written down when it ends."""
        deadline = time.monotonic() + PATIENCE
        while True:
            entries = []
            with contextlib.suppress(FileNotFoundError), open(self._path("access.log")) as log:
                entries = [line.split() for line in log if line.endswith("\n")]
            found = [(entry[1], entry[2], entry[3]) for entry in entries if entry[0] == user]
            if len(found) >= count or time.monotonic() > deadline:
                return sorted(found)
            time.sleep(0.01)

    def stop(self):
        self.process.terminate()
        self.process.wait(PATIENCE)


def _hashed(password):
    run = subprocess.run(
        ["openssl", "passwd", "-apr1", "-stdin"],
        input=password.encode(),
        capture_output=True,
        check=True,
    )
    return run.stdout.decode().strip()


class Socks5:
    """Connects to whatever it is asked for on 127.0.0.1. With `user`, a (name, password), it lets
    nobody else in. `asked` lists (kind of address, host, port)."""

    def __init__(self, user=None):
        self.user, self.asked = user, []
        self._stopping = False
        self._threads, self._sockets = [], []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._run(self._accept)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stopping = True
        for sock in [self._listener, *self._sockets]:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _run(self, function, *args):
        thread = threading.Thread(target=function, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(client)
            self._run(self._serve, client)

    def _serve(self, client):
        with contextlib.suppress(OSError, EOFError):
            if self._let_in(client):
                self._connect(client)
                return
        client.close()

    def _let_in(self, client):
        _, count = _take(client, 2)
        methods = _take(client, count)
        wanted = 2 if self.user else 0
        if wanted not in methods:
            client.sendall(b"\5\xff")
            return False
        client.sendall(bytes([5, wanted]))
        if not self.user:
            return True
        _, size = _take(client, 2)
        name = _take(client, size).decode()
        password = _take(client, _take(client, 1)[0]).decode()
        good = (name, password) == self.user
        client.sendall(bytes([1, 0 if good else 1]))
        return good

    def _connect(self, client):
        _, _, _, kind = _take(client, 4)
        if kind == 3:
            host = _take(client, _take(client, 1)[0]).decode()
        else:
            family, size = (socket.AF_INET, 4) if kind == 1 else (socket.AF_INET6, 16)
            host = socket.inet_ntop(family, _take(client, size))
        (port,) = struct.unpack(">H", _take(client, 2))
        self.asked.append(({1: "ipv4", 3: "name", 4: "ipv6"}[kind], host, port))
        refused = bytes([5, 5, 0, 1]) + bytes(6)
        try:
            target = socket.create_connection(("127.0.0.1", port))
        except OSError:
            client.sendall(refused)
            raise
        self._sockets.append(target)
        client.sendall(bytes([5, 0, 0, 1]) + bytes(6))
        self._run(_pass_on, client, target)
        _pass_on(target, client)


def _take(sock, size):
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def _pass_on(source, sink):
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for sock in (source, sink):
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
