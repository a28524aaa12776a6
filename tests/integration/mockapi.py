"""Starts a mockapi for a test and asks it for things."""

import http.client
import json
import os
import subprocess
import time
import urllib.parse

BINARY = os.environ["MOCKAPI_BIN"]


class MockApi:
    """A running mockapi; use it as a context manager."""

    def __init__(self):
        self.process = subprocess.Popen([BINARY], stdout=subprocess.PIPE, text=True)
        self.base = self.process.stdout.readline().strip()
        self.address = urllib.parse.urlsplit(self.base)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdout.close()
        status = self.process.wait(timeout=10)
        assert status == 0, f"mockapi ended with {status}"

    def request(self, target, method="GET", body=None, headers=None):
        """One exchange on a connection of its own: status, headers (lower case), body bytes."""
        connection = http.client.HTTPConnection(self.address.netloc, timeout=30)
        try:
            connection.request(method, target, body, headers or {})
            answer = connection.getresponse()
            named = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, named, answer.read()
        finally:
            connection.close()

    def json(self, target):
        return json.loads(self.request(target)[2])

    def ledger(self):
        return self.json("/ledger")


def ended(pid, within=5.0):
    """Whether a process that is not our child is gone (or a zombie) within that time."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
                if stat.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.01)
    return False
