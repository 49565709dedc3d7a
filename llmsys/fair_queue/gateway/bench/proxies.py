"""The proxies of the bench: how each is started in front of one backend, and whether it is here.

Peers are programs on PATH. A peer that is not there is named, never left out in silence.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from llmsys.errors import LlmsysError

__all__ = ["PROXIES", "Proxy", "Running", "free_port", "running_backend"]

START_TIMEOUT_S = 120.0
KEY = "sk-bench"
NGINX = """
daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log {directory}/error.log;
events {{ worker_connections 2048; }}
http {{
  access_log off; client_body_temp_path {directory}; proxy_temp_path {directory};
  fastcgi_temp_path {directory}; uwsgi_temp_path {directory}; scgi_temp_path {directory};
  keepalive_requests 1000000;
  upstream model {{ server 127.0.0.1:{backend}; keepalive 256; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{
      proxy_pass http://model; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_read_timeout 600s;
    }}
  }}
}}
"""
LITELLM = """
model_list:
  - model_name: m
    litellm_params: {{model: openai/m, api_base: "http://127.0.0.1:{backend}/v1", api_key: none}}
"""


@dataclass(frozen=True, slots=True)
class Running:
    """A started program: where it listens, the key that it wants, and its CPU time so far."""

    port: int
    process: "subprocess.Popen[bytes]"
    key: str = ""

    def cpu_s(self) -> float:
        """CPU seconds of the program and all its children, user and system."""
        total = 0.0
        root = psutil.Process(self.process.pid)
        for process in (root, *root.children(recursive=True)):
            times = process.cpu_times()
            total += times.user + times.system
        return total


@dataclass(frozen=True, slots=True)
class Proxy:
    """One proxy by name; `program` is looked for on PATH."""

    name: str
    program: str
    key: str = ""

    @property
    def missing(self) -> str | None:
        """Why it cannot run here, or None."""
        return None if shutil.which(self.program) else f"{self.program} is not on PATH"

    @contextmanager
    def in_front_of(self, backend: int, directory: Path) -> Iterator[Running]:
        """Start it; yields once it passes a request on. Raises LlmsysError if it never does."""
        port = free_port()
        with _started(_command(self, backend, port, directory), directory / f"{self.name}.log") as process:
            _await_answer(self, port, process, directory / f"{self.name}.log")
            yield Running(port, process, self.key)


PROXIES = (
    Proxy("llmsys", sys.executable),
    Proxy("nginx", "nginx"),
    Proxy("sglang-router", "sglang-router"),
    Proxy("litellm", "litellm", key=KEY),
)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_backend(directory: Path) -> Iterator[Running]:
    """The server behind the proxies, in a process of its own."""
    port = free_port()
    program = f"from llmsys.fair_queue.gateway.bench.answering import serve_answers; serve_answers({port})"
    with _started([sys.executable, "-c", program], directory / "backend.log") as process:
        _await_answer(Proxy("backend", sys.executable), port, process, directory / "backend.log")
        yield Running(port, process)


def _command(proxy: Proxy, backend: int, port: int, directory: Path) -> list[str]:
    if proxy.name == "nginx":
        config = directory / "nginx.conf"
        config.write_text(NGINX.format(directory=directory, backend=backend, port=port))
        return ["nginx", "-p", str(directory), "-c", str(config), "-e", str(directory / "error.log")]
    if proxy.name == "sglang-router":
        workers = ["--worker-urls", f"http://127.0.0.1:{backend}", "--policy", "round_robin"]
        ports = ["--port", str(port), "--prometheus-port", str(free_port())]
        return ["sglang-router", "launch", "--host", "127.0.0.1", *ports, *workers, "--log-level", "error"]
    if proxy.name == "litellm":
        config = directory / "litellm.yaml"
        config.write_text(LITELLM.format(backend=backend))
        return ["litellm", "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    options = ["--backend", f"http://127.0.0.1:{backend}", "--listen", f"127.0.0.1:{port}", "--admin", "127.0.0.1:0"]
    state = ["--state", f"sqlite:{directory / 'state'}", "--window", "1024", "--allow-anonymous"]
    return [sys.executable, "-m", "llmsys", "fair-queue", "gateway", *options, *state]


@contextmanager
def _started(command: list[str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    environment = os.environ | {"LITELLM_MASTER_KEY": KEY}
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        yield process
    finally:
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.terminate()
        for child in children:
            if child.is_running():
                child.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_answer(proxy: Proxy, port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    from llmsys.fair_queue.gateway.bench.asking import Load, ask_all

    end_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end_s and process.poll() is None:
        try:
            if not ask_all(port, Load("probe", 1, 1, stream=False), key=proxy.key).failed:
                return
        except OSError:
            pass
        time.sleep(0.1)
    tail = " ".join(log.read_text(errors="replace").split()[-40:])
    raise LlmsysError(f"{proxy.name} did not pass a request on within {START_TIMEOUT_S:g} s: {tail}")
