"""The installed `llmsys fair-queue gateway` as a subprocess, and the requests that tests send to it."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

KEYS = {"a": "key-a", "b": "key-b", "c": "key-c", "flood": "key-flood"}


def tenants_toml(**limits):
    """A tenants file with the test keys; limits by tenant as TOML lines."""
    tables = [f"[tenant.{name}]\nkeys = [{json.dumps(key)}]\n{limits.get(name, '')}\n" for name, key in KEYS.items()]
    return limits.get("defaults", "") + "\n" + "\n".join(tables)


class GatewayProcess:
    """Starts in `with`; listens on free ports. Options are those of the command line."""

    def __init__(self, directory, *backends, tenants=None, state="memory", options=(), listen="127.0.0.1:0"):
        self.directory = directory
        self.tenants_file = directory / "tenants.toml"
        if not self.tenants_file.exists():
            self.tenants_file.write_text(tenants or tenants_toml())
        self._command = [sys.executable, "-m", "llmsys", "fair-queue", "gateway"]
        for backend in backends:
            self._command += ["--backend", backend if isinstance(backend, str) else backend.url]
        self._command += ["--listen", listen, "--admin", "127.0.0.1:0", "--state", state]
        self._command += ["--tenants", str(self.tenants_file), *map(str, options)]
        self.errors = directory / "gateway.stderr"

    def __enter__(self):
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                self._command, stdout=subprocess.PIPE, stderr=errors, env=os.environ | {"HOME": str(self.directory)}
            )
        line = self.process.stdout.readline()
        assert line, self.errors.read_text()
        told = json.loads(line)
        self.port = int(told["listening"].rpartition(":")[2])
        self.admin_port = int(told["admin"].rpartition(":")[2])
        return self

    def __exit__(self, *_):
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait(30)
        self.process.stdout.close()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def stop(self):
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def kill(self):
        """SIGKILL."""
        self.process.kill()
        self.process.wait(30)

    def request(self, method, path, body=None, *, tenant="a", headers=None, admin=False):
        """One request on a connection of its own: (status, headers, body)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port if admin else self.port, timeout=60)
        sent = {"authorization": f"Bearer {KEYS[tenant]}"} if tenant in KEYS else {}
        raw = body if isinstance(body, bytes | None) else json.dumps(body)
        try:
            connection.request(method, path, raw, sent | (headers or {}))
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def chat(self, *, tenant="a", script=None, **body):
        """A chat completion: (status, headers, body)."""
        return self.request("POST", "/v1/chat/completions", chat_body(script, **body), tenant=tenant)

    def open_chat(self, *, tenant="a", script=None, **body):
        """Send a chat completion and return the connection without reading."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"authorization": f"Bearer {KEYS[tenant]}"}
        connection.request("POST", "/v1/chat/completions", json.dumps(chat_body(script, **body)), headers)
        return connection

    def tenants(self):
        """What the admin interface says of the tenants."""
        return json.loads(self.request("GET", "/fair/tenants", admin=True)[2])

    def metrics(self):
        """The metrics page as {line up to the value: value}."""
        text = self.request("GET", "/metrics", admin=True)[2].decode()
        lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in lines}

    def until(self, condition, timeout_s=30):
        """Poll until `condition()` is true: state of another process has no event to wait for."""
        end = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end, (self.errors.read_text(), self.tenants())
            time.sleep(0.005)


def chat_body(script=None, **body):
    """A request's JSON with the backend's script in it."""
    return {"model": "m", "messages": [{"role": "user", "content": "hi"}], "script": script or {}} | body
