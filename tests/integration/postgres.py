"""A PostgreSQL server of the test's own: Debian's, in a temporary directory."""

import contextlib
import glob
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time

from servers import PATIENCE

PASSWORD = "s3cret-pass"


def _directory():
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
    return found[-1] if found else None


def _account():
    """Whom it runs as: it refuses to run as root."""
    if os.getuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise AssertionError("there is no user to run PostgreSQL as")


class Postgres:
    """Listens on a socket in its directory, where everybody is trusted, and on 127.0.0.1, where the
    user `postgres` has a password."""

    def __init__(self, **settings):
        self.bin = _directory()
        self.account = _account()
        self.dir = tempfile.mkdtemp(prefix="pg.")
        self.process = None
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        if self.account:
            os.chown(self.dir, self.account["user"], self.account["group"])
        secret = os.path.join(self.dir, "password")
        with open(secret, "w", encoding="ascii") as file:
            file.write(PASSWORD)
        os.chmod(secret, 0o644)
        self._run("initdb", "-D", self.path("data"), "-U", "postgres", "-E", "UTF8", "--locale=C",
                  "--no-sync", "--auth-local=trust", "--auth-host=scram-sha-256",
                  f"--pwfile={secret}")
        self.settings = {
            "fsync": "off", "autovacuum": "off", "shared_buffers": "16MB", "max_connections": "20",
            "unix_socket_directories": self.dir, "listen_addresses": "127.0.0.1",
            "port": str(self.port), **settings,
        }
        self.start()

    def path(self, *names):
        return os.path.join(self.dir, *names)

    def _run(self, tool, *args):
        subprocess.run([os.path.join(self.bin, tool), *args], check=True, cwd="/",
                       stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **self.account)

    def start(self):
        args = [word for name, value in self.settings.items() for word in ("-c", f"{name}={value}")]
        self.process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "QUIT", os.path.join(self.bin, "postgres"),
             "-D", self.path("data"), *args], cwd="/", stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, **self.account)
        deadline = time.monotonic() + PATIENCE
        while self.psql("SELECT 1", check=False).returncode:
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise AssertionError("PostgreSQL does not start")
            time.sleep(0.05)

    def stop(self, signum=subprocess.signal.SIGINT):
        """SIGINT ends its connections, SIGQUIT is as if the power went."""
        if self.process:
            self.process.send_signal(signum)
            self.process.wait(PATIENCE)
            self.process = None

    def close(self):
        self.stop(subprocess.signal.SIGQUIT)
        shutil.rmtree(self.dir)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def psql(self, sql, database="postgres", search_path="public", check=True):
        options = f"-c client_min_messages=warning -c search_path={search_path}"
        return subprocess.run(
            [os.path.join(self.bin, "psql"), "-h", self.dir, "-p", str(self.port), "-U", "postgres",
             "-d", database, "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql],
            check=check, capture_output=True, text=True, timeout=PATIENCE,
            env={**os.environ, "PGOPTIONS": options})

    def query(self, sql, database="postgres", **options):
        """The lines of the answer, its columns separated by |."""
        return self.psql(sql, database, **options).stdout.splitlines()

    def cpu(self):
        """What the server has used so far, in µs, when all its sessions have ended."""
        deadline = time.monotonic() + PATIENCE
        tick = 1e6 / os.sysconf("SC_CLK_TCK")
        while time.monotonic() < deadline:
            used, sessions = 0, 0
            for pid in filter(str.isdigit, os.listdir("/proc")):
                with contextlib.suppress(OSError):
                    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
                        fields = file.read().rpartition(")")[2].split()
                    if int(pid) == self.process.pid:
                        used += sum(map(int, fields[11:15]))  # with its children that have ended
                    elif int(fields[1]) == self.process.pid:
                        used += sum(map(int, fields[11:13]))
                        with open(f"/proc/{pid}/cmdline", encoding="utf-8") as file:
                            sessions += "[local]" in file.read()
            if not sessions:
                return used * tick
            time.sleep(0.01)
        raise AssertionError("sessions of PostgreSQL do not end")

    def create(self, database):
        self.query(f'CREATE DATABASE "{database}"')

    def url(self, database="postgres"):
        return f"postgres://postgres@/{database}?host={self.dir}&port={self.port}"

    def tcp_url(self, database="postgres", password=PASSWORD):
        return f"postgres://postgres:{password}@127.0.0.1:{self.port}/{database}"
