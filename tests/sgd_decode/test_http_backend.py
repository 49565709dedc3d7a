"""Jobs on a server that answers as told: pieces, usage, refusals, busy servers, streams that break off."""

import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread

import pytest

from llmsys.errors import Unavailable
from llmsys.sgd_decode import DecodeSettings, HttpBackend, PairBackend, ScriptBackend, answer_all, writer_for
from llmsys.sgd_decode.backends import Job
from tests.sgd_decode.stand_ins import question

PLAN = "1. Alpha | needs - | level 1\n2. Beta | needs 1 | level 1\n3. Gamma | needs - | level 1\nend"
USAGE = {"prompt_tokens": 20, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 15}}


def chunk(text=None, finish=None, **more):
    choice = {"index": 0, "delta": {} if text is None else {"content": text}, "finish_reason": finish}
    return "data: " + json.dumps({"choices": [choice], **more})


def stream(*texts, finish="stop", usage=USAGE):
    """The lines of a whole answer."""
    lines = [chunk(text) for text in texts]
    return [*lines, chunk(finish=finish), "data: " + json.dumps({"choices": [], "usage": usage}), "data: [DONE]"]


class Told:
    """What a server is told to answer: (status, lines, headers) by turn, or by a function of the request's body."""

    def __init__(self, *turns, by=None):
        self.turns = list(turns)
        self.by = by
        self.bodies = []
        self.headers = []
        self.left = Event()

    def next(self, body):
        self.bodies.append(body)
        return self.by(body) if self.by is not None else self.turns.pop(0)


@contextmanager
def server(told):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            told.headers.append(dict(self.headers))
            status, lines, headers = told.next(body)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            try:
                for line in lines:
                    self.wfile.write(line.encode() + b"\n\n")
                    self.wfile.flush()
            except OSError:
                told.left.set()

        def do_GET(self):
            self.send_response(200 if self.path.endswith("/models") and told.turns else 404)
            self.end_headers()
            self.wfile.write(json.dumps({"data": [{"id": "first-model"}]}).encode())

        def log_message(self, *args):
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=listening.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}/v1"
    finally:
        listening.shutdown()
        listening.server_close()


def run(told, *jobs, **settings):
    """All deltas of jobs, by job."""
    with server(told) as url:
        backend = HttpBackend(f"{url}#m", slots=4, **settings)
        for job in jobs:
            backend.start(job)
        found = {}
        while deltas := backend.wait():
            for delta in deltas:
                found.setdefault(delta.job, []).append(delta)
        backend.close()
    return found


def job(name="7/1", **fields):
    return Job(name, [{"role": "user", "content": "Why?"}], 16, **fields)


def fine(*texts, **fields):
    return 200, stream(*texts, **fields), {}


def test_pieces_come_as_they_are_sent_and_the_usage_with_the_end():
    (deltas,) = run(Told(fine("One ", "two")), job()).values()

    assert "".join(delta.text for delta in deltas) == "One two"
    assert sum(delta.tokens for delta in deltas) == 2
    assert (deltas[-1].end, deltas[-1].prompt_tokens, deltas[-1].cached_tokens) == ("stop", 20, 15)


def test_a_chunk_of_several_tokens_is_counted_by_the_usage():
    (deltas,) = run(Told(fine("five tokens in one chunk", usage={"completion_tokens": 5})), job()).values()

    assert sum(delta.tokens for delta in deltas) == 5


def test_a_request_says_what_the_job_is():
    told = Told(fine("x"))
    run(told, job(stop=("\n3.",), temperature=0.5, seed=3, min_tokens=2, grammar="plan", max_parts=4))
    (body,) = told.bodies

    assert body["messages"] == [{"role": "user", "content": "Why?"}]
    assert (body["model"], body["max_tokens"], body["temperature"], body["seed"]) == ("m", 16, 0.5, 3)
    assert (body["stop"], body["min_tokens"], body["prompt_cache_key"]) == (["\n3."], 2, "sgd-7")
    assert "needs" in body["structured_outputs"]["regex"]


def test_fields_that_a_server_refuses_are_left_out_from_then_on():
    def strict(body):
        return (400, ["unknown field"], {}) if "prompt_cache_key" in body else fine("ok")

    told = Told(by=strict)
    with server(told) as url:
        backend = HttpBackend(f"{url}#m", slots=1)
        for name in ("0/1", "0/2"):
            backend.start(job(name, grammar="plan"))
            while backend.wait():
                pass

    assert ["prompt_cache_key" in body for body in told.bodies] == [True, False, False]
    assert "structured_outputs" not in told.bodies[-1]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again_after_as_long_as_it_says(status):
    (deltas,) = run(Told((status, ["slow down"], {"retry-after": "0"}), fine("ok")), job()).values()

    assert "".join(delta.text for delta in deltas) == "ok"
    assert deltas[-1].end == "stop"


def test_a_server_that_stays_busy_fails_the_job_with_what_it_said():
    told = Told(by=lambda body: (429, ["too\nmany"], {"retry-after": "0"}))
    (deltas,) = run(told, job(), retries=2).values()

    assert len(told.bodies) == 3
    assert (deltas[-1].end, deltas[-1].error) == ("error", "status 429: too many")
    assert not deltas[-1].refused


def test_a_prompt_that_is_too_long_is_refused_for_good():
    told = Told(by=lambda body: (400, ["maximum context length is 4096"], {}))
    (deltas,) = run(told, job()).values()

    assert deltas[-1].end == "error"
    assert deltas[-1].refused
    assert "maximum context length" in deltas[-1].error


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([chunk("half a")], "broke off"),
        ([chunk("half a"), 'data: {"choices": [{"del'], "no chunk"),
        ([chunk("half a"), "data: 7"], "no chunk"),
        ([chunk("half a"), 'data: {"choices": [7]}'], "no chunk"),
        ([chunk("half a"), 'data: {"error": {"message": "died"}}'], "broke off"),
    ],
)
def test_a_stream_that_breaks_off_in_the_middle_is_an_error_and_not_an_answer(lines, why):
    told = Told(by=lambda body: (200, lines, {}))
    (deltas,) = run(told, job()).values()

    assert deltas[0].text == "half a"
    assert deltas[-1].end == "error"
    assert why in deltas[-1].error
    assert len(told.bodies) == 1


def test_comments_and_blank_lines_in_a_stream_are_passed_over():
    (deltas,) = run(Told((200, [": ping", "", "event: x", *stream("ok")], {})), job()).values()

    assert "".join(delta.text for delta in deltas) == "ok"


def test_log_probabilities_are_the_mean_of_a_chunks_tokens():
    scored = json.loads(chunk("ab").removeprefix("data: "))
    scored["choices"][0]["logprobs"] = {"content": [{"logprob": -1.0}, {"logprob": -3.0}]}
    (deltas,) = run(Told((200, ["data: " + json.dumps(scored), *stream()], {})), job()).values()

    assert deltas[0].logprob == -2.0


def test_an_answer_at_its_limit_says_so():
    (deltas,) = run(Told(fine("x", finish="length")), job()).values()

    assert deltas[-1].end == "length"


def test_a_cancelled_job_is_heard_no_more_and_its_connection_ends():
    go_on = Event()

    def endless(body):
        def lines():
            yield chunk("first")
            go_on.wait(30)
            while not told.left.is_set():
                yield chunk("more " * 1000)

        return 200, lines(), {}

    told = Told(by=endless)
    with server(told) as url:
        backend = HttpBackend(f"{url}#m", slots=1)
        backend.start(job())
        (first, *_) = backend.wait()
        backend.cancel("7/1")
        go_on.set()

        assert first.text == "first"
        assert told.left.wait(30)
        assert backend.wait(0.0) == []


def test_without_a_name_the_first_model_of_the_server_is_taken_and_none_is_a_fault():
    told = Told(fine("ok"))
    with server(told) as url:
        backend = HttpBackend(url, slots=1)
        backend.start(job())
        while backend.wait():
            pass
        told.turns.clear()
        with pytest.raises(Unavailable, match="URL#model"):
            HttpBackend(url, slots=1)

    assert told.bodies[0]["model"] == "first-model"
    with pytest.raises(Unavailable, match="lists no models"):
        HttpBackend(url, slots=1)


def test_the_key_of_the_environment_goes_with_every_request(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    told = Told(fine("ok"))
    run(told, job())

    assert told.headers[0]["authorization"] == "Bearer secret"


def graph_server(body):
    """A server that plans, and writes parts; part 1 fails every time."""
    asked = body["messages"][-1]["content"]
    if "Write an outline" in asked:
        return fine(*PLAN.splitlines(keepends=True))
    if "about part 1," in asked:
        return 500, ["node down"], {"retry-after": "0"}
    return fine("Part ", "text.")


def test_a_whole_graph_over_http_keeps_the_parts_that_were_written_when_one_fails():
    told = Told(by=graph_server)
    with server(told) as url:
        backend = HttpBackend(f"{url}#m", slots=4, retries=0)
        (done,) = answer_all([question(0)], backend, writer_for(DecodeSettings(retries=1)))
        backend.close()

    assert done.text == "[part 1 unavailable]\n\nPart text.\n\nPart text."
    assert done.missing == [1]
    assert {body["prompt_cache_key"] for body in told.bodies} == {"sgd-0"}


def test_the_beginnings_of_parts_are_the_planners_byte_for_byte():
    told = Told(by=graph_server)
    with server(told) as url:
        backend = HttpBackend(f"{url}#m", slots=4, retries=0)
        list(answer_all([question(0)], backend, writer_for(DecodeSettings(retries=0))))
        backend.close()
    planner, *parts = told.bodies

    assert all(part["messages"][:2] == planner["messages"] for part in parts)
    assert all(PLAN.startswith(part["messages"][2]["content"]) for part in parts)


def test_a_server_that_fails_is_stood_in_for_by_the_other_model_of_a_pair():
    from llmsys.sgd_decode import Match, Routing, Rule

    told = Told(by=graph_server)
    small = ScriptBackend([Rule(Match("about part 1,"), "Saved.")])
    with server(told) as url:
        pair = PairBackend(HttpBackend(f"{url}#m", slots=4, retries=0), small)
        settings = DecodeSettings(retries=0, routing=Routing(pair=True, threshold=0))
        (done,) = answer_all([question(0)], pair, writer_for(settings))
        pair.close()

    assert done.text == "Saved.\n\nPart text.\n\nPart text."
    assert done.parts[0].model == "small"
