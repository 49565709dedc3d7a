"""Backends that die, refuse, come back; and that no request is served twice."""

import asyncio
import json
from collections import Counter

import pytest
from gateway_process import GatewayProcess
from scripted_backend import ScriptedBackend

from llmsys.fair_queue.gateway.backend import fetch
from llmsys.fair_queue.gateway.upstream import BackendAddress, BackendPool


@pytest.fixture
def pair():
    with ScriptedBackend() as one, ScriptedBackend() as two:
        yield one, two


def free_port():
    with ScriptedBackend() as gone:
        return gone.port


def test_a_backend_that_cannot_be_reached_costs_no_request(tmp_path, backend):
    with GatewayProcess(tmp_path, f"http://127.0.0.1:{free_port()}", backend, options=("--window", 4)) as gateway:
        assert [gateway.chat()[0] for _ in range(6)] == [200] * 6
        assert len(backend.served) == 6
        assert gateway.metrics()[f'fair_backend_up{{backend="{backend.url}"}}'] == 1


@pytest.mark.parametrize("status", [502, 503])
def test_a_request_that_a_backend_turns_away_goes_to_another_once(tmp_path, pair, status):
    one, two = pair
    with GatewayProcess(tmp_path, one, two) as gateway:
        answer = gateway.chat(script={"status": status})

        assert answer[0] == status
        assert (len(one.served), len(two.served)) == (1, 1)


@pytest.mark.parametrize("status", [500, 429, 400])
def test_any_other_answer_is_the_clients(tmp_path, pair, status):
    one, two = pair
    with GatewayProcess(tmp_path, one, two) as gateway:
        assert gateway.chat(script={"status": status})[0] == status
        assert len(one.served) + len(two.served) == 1


def test_a_backend_that_dies_before_the_first_byte_is_not_asked_again_elsewhere(tmp_path, pair):
    one, two = pair
    with GatewayProcess(tmp_path, one, two) as gateway:
        waiting = gateway.open_chat(script={"gate": "never"})
        gateway.until(lambda: len(one.served) + len(two.served) == 1)
        (one if one.served else two).stop()
        answer = waiting.getresponse()

        assert answer.status == 502
        assert json.loads(answer.read())["error"]["code"] == "backend_lost"
        assert len(one.served) + len(two.served) == 1
        assert gateway.chat()[0] == 200


def test_a_stream_whose_backend_dies_ends_with_an_error_and_never_with_done(gateway):
    status, _, body = gateway.chat(script={"tokens": 9, "die": 4}, stream=True)
    *tokens, last, _ = body.split(b"\n\n")

    assert status == 200
    assert len(tokens) == 5
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "backend_lost"
    assert b"[DONE]" not in body
    assert gateway.tenants()["a"]["output_tokens"] == 4
    assert gateway.metrics()["fair_inflight"] == 0


def test_without_a_backend_the_queue_holds_until_one_comes_back(tmp_path):
    port = free_port()
    with GatewayProcess(tmp_path, f"http://127.0.0.1:{port}", options=("--window", 4)) as gateway:
        assert gateway.chat(tenant="b")[0] == 502  # how the gateway finds out
        held = gateway.open_chat()
        gateway.until(lambda: gateway.tenants()["a"]["queued"] == 1)
        assert gateway.request("GET", "/health", admin=True)[0] == 503
        assert gateway.request("GET", "/v1/models")[0] == 503
        with ScriptedBackend(port=port) as back:
            assert held.getresponse().status == 200
            assert gateway.request("GET", "/health", admin=True)[0] == 200
            assert len(back.served) == 1


def test_a_backend_whose_health_check_fails_gets_no_more_requests(tmp_path, pair):
    one, two = pair
    with GatewayProcess(tmp_path, one, two, options=("--window", 4)) as gateway:
        up = f'fair_backend_up{{backend="{one.url}"}}'
        one.healthy = False
        one_down = gateway.open_chat(script={"status": 503})
        one_down.getresponse()
        gateway.until(lambda: gateway.metrics()[up] == 0)
        before = len(one.served)
        assert [gateway.chat()[0] for _ in range(5)] == [200] * 5
        assert len(one.served) == before
        one.healthy = True
        gateway.until(lambda: gateway.metrics()[up] == 1)


def test_requests_go_to_the_backend_that_runs_least(tmp_path, pair):
    with GatewayProcess(tmp_path, *pair, options=("--window", 8)) as gateway:
        open_ones = [gateway.open_chat(script={"gate": "g"}) for _ in range(8)]
        gateway.until(lambda: sum(len(one.served) for one in pair) == 8)
        counts = [len(one.served) for one in pair]
        for one in pair:
            one.open_gate("g")

        assert counts == [4, 4]
        assert [one.getresponse().status for one in open_ones] == [200] * 8


def test_a_backend_restarted_again_and_again_serves_no_request_twice(tmp_path):
    from load import crowd

    steady, port = ScriptedBackend(), free_port()
    seen = []
    with steady, GatewayProcess(tmp_path, steady, f"http://127.0.0.1:{port}", options=("--window", 8)) as gateway:
        for _ in range(4):
            with ScriptedBackend(port=port) as shaky:
                gateway.until(lambda: gateway.metrics()[f'fair_backend_up{{backend="http://127.0.0.1:{port}"}}'] == 1)
                answers = crowd(gateway.port, [("a", 8, {"tokens": 2}, {"stream": True})], rounds=10)["a"]
                seen += shaky.served
            assert {status for status, _ in answers.whole} <= {200, 502}
            gateway.chat()
    times = Counter(one.headers["x-request-id"] for one in (*steady.served, *seen))

    assert len(seen) > 0
    assert max(times.values()) == 1


def test_a_health_check_leaves_its_connection_to_whoever_takes_it_next(backend):
    """The connection is back in the pool before the check's task runs on: a request may be on it already."""

    async def run():
        pool = BackendPool(BackendAddress.parse(backend.url))
        check = asyncio.ensure_future(fetch(pool, b"/health"))
        while (connection := pool.take(asyncio.get_running_loop().time())) is None:
            await asyncio.sleep(0)
        answer = Collected()
        connection.send(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n", answer)
        assert (await check)[0] == 200
        await asyncio.wait_for(answer.ended, 20)
        pool.close()
        return answer.statuses

    assert asyncio.run(run()) == [200]


class Collected:
    """A receiver that notes statuses and the end."""

    def __init__(self):
        self.statuses, self.ended = [], asyncio.get_running_loop().create_future()

    def received(self, head, data, *, end):
        if head is not None:
            self.statuses.append(head.status)
        if end:
            self.ended.set_result(None)

    def lost(self, reason):
        self.ended.set_exception(ConnectionError(reason))


def test_connections_to_a_backend_are_used_again(gateway, backend):
    for _ in range(20):
        gateway.chat()

    assert backend.connections <= 4
