"""The PostgreSQL server that all trials share."""

import os
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))

from postgres import Postgres  # noqa: E402


class Cluster:
    """Starts when it is first used."""

    def __init__(self):
        self._server = None
        self._lock = threading.Lock()

    @property
    def server(self):
        with self._lock:
            if not self._server:
                self._server = Postgres(max_connections="40")
            return self._server

    def url(self, database):
        return self.server.url(database)

    def rows(self, database, query):
        try:
            return self.server.query(query, database)
        except subprocess.CalledProcessError as problem:
            raise OSError(problem.stderr.strip()) from None

    def recreate(self, database, template="template0"):
        """Makes a database anew, as a copy of another one, whoever is connected to either: the
        server takes a moment to find out that a program was killed."""
        self.rows("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                              f"WHERE datname = '{template}'")
        self.rows("postgres", f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
        for left in range(20, -1, -1):
            try:
                self.rows("postgres", f"CREATE DATABASE {database} TEMPLATE {template}")
                return
            except OSError:  # another session is still ending
                if not left:
                    raise
                time.sleep(0.05)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._server:
            self._server.close()
