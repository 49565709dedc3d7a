"""Lines in, lines out: both forms of questions, the API's response object, and the timeline."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.errors import BadInput
from llmsys.sgd_decode import (
    Answer,
    DecodeSettings,
    Match,
    Plan,
    Rule,
    ScriptBackend,
    StepTime,
    TokenCount,
    answer_all,
    answer_line,
    read_questions,
    summary_row,
    write_timeline,
    writer_for,
)
from tests.sgd_decode.stand_ins import question

PLAN = "1. Alpha | needs - | level 1\n2. Beta | needs 1 | level 1\n3. Gamma | needs - | level 1\nend"


@pytest.fixture
def file(tmp_path):
    def write(*records):
        path = tmp_path / "q.jsonl"
        path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in records), "utf-8")
        return path

    return write


def batch(body, **fields):
    return {"custom_id": "b", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m", **body}, **fields}


def answered(text="Text.", **fields):
    rules = [Rule(Match("Write an outline"), PLAN), Rule(Match("about part"), text)]
    chosen = DecodeSettings(step_time=StepTime(1.0, 0.1), min_gain=0.0, **fields)
    (done,) = answer_all([question(0)], ScriptBackend(rules), writer_for(chosen))
    return done


def test_a_bare_question_has_an_id_a_category_and_a_tenant(file):
    first, second = read_questions(
        file({"question": "Why?"}, {"id": "x", "question": "How?", "category": "maths", "tenant": "acme"})
    )

    assert (first.number, first.id, first.category, first.tenant) == (0, "line-1", "", "default")
    assert (second.number, second.id, second.category, second.tenant) == (1, "x", "maths", "acme")
    assert second.messages == [{"role": "user", "content": "How?"}]


def test_a_batch_line_keeps_its_conversation_limit_stop_and_tenant(file):
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "Why?"}]}]
    body = {"messages": talk, "max_completion_tokens": 7, "max_tokens": 9, "stop": "\n", "user": "u"}
    (one,) = read_questions(file(batch(body)))
    (other,) = read_questions(file(batch({**body, "stop": ["a", "b"]}, tenant="t")))

    assert one.messages == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    assert (one.id, one.max_tokens, one.stop, one.tenant) == ("b", 7, ("\n",), "u")
    assert (other.stop, other.tenant) == (("a", "b"), "t")


@pytest.mark.parametrize(
    "line",
    [
        {"id": "a"},
        {"question": 7},
        {"question": ""},
        batch({}),
        batch({"messages": []}),
        batch({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
        batch({"messages": [{"role": "user", "content": " \n"}]}),
        {"custom_id": "b", "body": {}},
        "[]",
        "{",
        '"text"',
    ],
)
def test_a_line_of_neither_form_is_told_with_its_number(file, line):
    with pytest.raises(BadInput, match=r"q\.jsonl:2"):
        list(read_questions(file({"question": "fine"}, line)))

    skipped = []
    kept = list(read_questions(file({"question": "fine"}, line), on_error="skip", on_skip=skipped.append))
    assert (len(kept), len(skipped)) == (1, 1)


@given(st.text(min_size=1).filter(lambda text: text.strip()))
def test_any_question_comes_through_as_it_is(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("q") / "q.jsonl"
    path.write_text(json.dumps({"question": text}) + "\n", "utf-8")
    (found,) = read_questions(path)

    assert found.messages[0]["content"] == text


def test_an_answer_line_is_the_apis_response_with_the_graph_in_it():
    done = answered()
    body = answer_line(done, "m").response.body
    graph = body["llmsys"]

    assert (body["object"], body["model"]) == ("chat.completion", "m")
    assert body["choices"][0]["message"]["content"] == done.text
    assert body["usage"]["completion_tokens"] == done.tokens.plan + done.tokens.answer
    assert body["usage"]["prompt_tokens"] == done.tokens.prefill + done.tokens.prefill_saved
    assert set(graph["plan"]["nodes"][0]) == {
        *("id", "title", "needs", "level", "model", "tokens", "start_s", "end_s", "logprob", "fault")
    }
    assert graph["t_ar_est_s"] == pytest.approx(done.tokens.answer * 1.1)
    assert graph["critical_path_tokens"] > 0


def test_an_answer_that_could_not_be_written_is_an_error_line():
    failed = Answer(question(3), "", "ar", Plan(), finish="error", fault="down", tokens=TokenCount())
    line = answer_line(failed, "m")

    assert line.response is None
    assert (line.custom_id, line.error.message) == ("q3", "down")
    assert failed.failed


def test_without_step_times_nothing_is_forecast():
    rules = [Rule(Match("Write an outline"), PLAN), Rule(Match("about part"), "x")]
    (done,) = answer_all([question(0)], ScriptBackend(rules), writer_for(DecodeSettings()))

    assert "t_ar_est_s" not in answer_line(done, "m").response.body["llmsys"]
    assert summary_row(done)["speed-up"] is None


def test_the_row_of_an_answer_sets_the_forecast_beside_what_it_took():
    done = answered("one two three four five")
    row = summary_row(done)

    assert (row["parts"], row["depth"], row["width"], row["missing"]) == (3, 2, 2, 0)
    assert row["speed-up"] == pytest.approx(row["AR s"] / row["total s"])
    assert row["of bound"] > 0


def test_the_timeline_has_a_row_for_the_plan_and_one_for_every_part(tmp_path):
    done = answered()
    write_timeline(tmp_path / "t.json", [done])
    bars = [e for e in json.loads((tmp_path / "t.json").read_text())["traceEvents"] if e["ph"] == "X"]
    by_name = {bar["name"]: bar for bar in bars}

    assert set(by_name) == {"plan", "Alpha", "Beta", "Gamma"}
    for part in done.parts:
        assert by_name[part.title]["ts"] == pytest.approx(part.start_s * 1e6)
        assert by_name[part.title]["dur"] == pytest.approx((part.end_s - part.start_s) * 1e6)
