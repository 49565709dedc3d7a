"""A Redis server of the tests' own on a free port, that can be killed and brought back."""

import shutil
import socket
import subprocess
import time

import pytest


class RedisProcess:
    """Skips, by name, where no redis-server or no redis package is installed."""

    def __init__(self, directory):
        pytest.importorskip("redis", reason="the package redis is not installed")
        self._program = shutil.which("redis-server") or shutil.which("valkey-server")
        if self._program is None:
            pytest.skip("no redis-server and no valkey-server on this machine")
        self._directory = directory
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}"

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.kill()

    def start(self):
        command = [self._program, "--port", str(self.port), "--dir", str(self._directory), "--appendonly", "yes"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                    connection.sendall(b"PING\r\n")
                    if connection.recv(7).startswith(b"+PONG"):
                        return
            except OSError:
                time.sleep(0.02)
        raise AssertionError("redis-server does not answer")

    def kill(self):
        self._process.kill()
        self._process.wait(20)
