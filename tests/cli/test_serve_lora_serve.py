"""`llmsys serve-lora serve` as a process: the line that says it is ready, curl, signals, the ledger it leaves."""

import json
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import LLMSYS, Shell
from tests.serve_lora.conftest import write_tiny_model

# one worker, so that the model is loaded once
pytestmark = pytest.mark.xdist_group("serve-lora-serve")


class Process:
    """A server, from its ready line to its end."""

    def __init__(self, shell: Shell, *args: str) -> None:
        command = [LLMSYS, "serve-lora", "serve", *args]
        self.process = subprocess.Popen(
            command, cwd=shell.directory, env=shell.env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.ready = json.loads(self.process.stdout.readline() or "null")

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    shell = Shell(tmp_path_factory.mktemp("serve"))
    write_tiny_model(shell.directory / "tiny")
    return shell


@pytest.fixture(scope="module")
def server(shell):
    process = Process(shell, "tiny", "--port", "0", "--dtype", "float32")
    yield process
    process.process.kill()
    process.process.communicate()


def curl(url, body, *options):
    command = ["curl", "-sS", "-N", "--max-time", "60", *options, url, "-d", json.dumps(body)]
    return subprocess.run(command, capture_output=True, timeout=90, check=True).stdout


def chat(**more):
    return {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8, "temperature": 0} | more


def test_curl_reads_a_stream_of_whole_events_whose_text_is_the_answer(server):
    url = f"{server.ready['url']}/v1/chat/completions"

    whole = json.loads(curl(url, chat()))
    events = curl(url, chat(stream=True)).split(b"\n\n")

    assert events[-2:] == [b"data: [DONE]", b""]
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in events[:-2]]
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == whole["choices"][0]["message"]["content"] != ""
    assert whole["usage"]["completion_tokens"] <= 8


def test_a_client_that_is_cut_off_leaves_nothing_held(server):
    url = server.ready["url"]
    cut = subprocess.run(
        f"curl -sN {url}/v1/chat/completions -d '{json.dumps(chat(stream=True, max_tokens=400))}' | head -c 300",
        shell=True,
        capture_output=True,
        timeout=60,
        check=True,
    )
    curl(f"{url}/v1/chat/completions", chat(max_tokens=1))
    metrics = subprocess.run(["curl", "-sS", f"{url}/metrics"], capture_output=True, text=True, check=True).stdout

    assert cut.stdout.startswith(b"data: {")
    assert "llmsys:num_requests_waiting 0.0" in metrics


def test_sampling_with_the_real_decoder_is_seeded(server):
    url = f"{server.ready['url']}/v1/chat/completions"

    texts = [
        json.loads(curl(url, chat(temperature=1.0, top_p=0.9, seed=5)))["choices"][0]["message"]["content"]
        for _ in range(2)
    ]

    assert texts[0] == texts[1]


def test_a_port_that_is_taken_and_a_model_that_is_absent_end_in_one_line(server, shell, one_line):
    port = server.ready["url"].rpartition(":")[2]

    taken = shell.run("serve-lora", "serve", "tiny", "--port", port)
    absent = shell.run("serve-lora", "serve", "nowhere", "--port", "0")
    outside = shell.run("serve-lora", "serve", "tiny", "--host", "0.0.0.0")

    assert (taken.returncode, absent.returncode, outside.returncode) == (69, 65, 2)
    assert "cannot listen" in one_line(taken.stderr)
    assert "nowhere" in one_line(absent.stderr)
    assert "--insecure" in outside.stderr


def test_sigterm_ends_it_with_success_and_the_ledger_balances(shell):
    process = Process(shell, "tiny", "--port", "0", "--ledger", "own.jsonl", "--dtype", "float32")
    curl(f"{process.ready['url']}/v1/chat/completions", chat(user="ann"))

    code, out, err = process.stop()
    report = shell.run("serve-lora", "cost", "report", "own.jsonl", "--by", "tenant", "--json")

    assert (code, out) == (0, ""), err
    found = json.loads(report.stdout)
    assert found["balance"]["holds"]
    assert "ann" in {row["tenant"] for row in found["rows"]}


def test_a_unix_socket_serves_and_is_gone_after_ctrl_c(shell):
    process = Process(shell, "tiny", "--uds", "s.sock", "--drain-s", "1")
    answer = curl("http://x/v1/chat/completions", chat(max_tokens=2), "--unix-socket", str(shell.directory / "s.sock"))

    code, _, err = process.stop(signal.SIGINT)

    assert json.loads(answer)["object"] == "chat.completion"
    assert process.ready["url"] == "unix:s.sock"
    assert code == 130, err
    assert not Path(shell.directory / "s.sock").exists()
