"""Recorded texts in virtual time: the law of batches, prompts that are found in a cache, stops, limits and faults."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.errors import BadInput
from llmsys.sgd_decode import Match, PacedBackend, PairBackend, Rule, ScriptBackend, StepTime, read_script
from llmsys.sgd_decode.backends import Job

LAW = StepTime(1.0, 0.5)


def job(name="0/1", text="Why?", tokens=100, **fields):
    return Job(name, [{"role": "user", "content": text}], tokens, **fields)


def run(backend, *jobs):
    """What every job wrote, when it ended, and how."""
    for one in jobs:
        backend.start(one)
    found = {}
    while deltas := backend.wait():
        for delta in deltas:
            text, _, _ = found.get(delta.job, ("", 0.0, None))
            found[delta.job] = (text + delta.text, delta.t_s, delta.end)
    return found


@given(st.lists(st.integers(1, 20), min_size=1, max_size=6))
def test_every_step_takes_the_time_of_its_width(lengths):
    """Checked against a count of who still writes at each step; a job's end takes a step of its own."""
    backend = ScriptBackend(
        [Rule(Match(f"job {at}."), tokens=count) for at, count in enumerate(lengths)], step_time=LAW
    )
    found = run(backend, *(job(f"0/{at}", f"job {at}.") for at in range(len(lengths))))
    clock, ends = 0.0, {}
    for step in range(max(lengths) + 1):
        clock += LAW.of(sum(count >= step for count in lengths))
        ends |= {f"0/{at}": clock for at, count in enumerate(lengths) if count == step}

    assert {name: at for name, (_, at, _) in found.items()} == pytest.approx(ends)


@given(st.text("ab \n", max_size=30), st.integers(1, 12))
def test_a_text_is_played_back_up_to_the_limit(text, limit):
    rule = Rule(text=text, tokens=0)
    (found,) = run(ScriptBackend([rule]), job(tokens=limit)).values()
    pieces = rule.pieces()

    assert "".join(pieces) == text
    assert found[0] == "".join(pieces[:limit])
    assert found[2] == ("stop" if len(pieces) < limit else "length")


@pytest.mark.parametrize(
    ("stop", "left"),
    [((" two",), "one "), (("\n3.",), "one two three\n2. four\n"), (("x", "thr"), "one two "), ((), None)],
)
def test_a_stop_string_ends_a_text_and_what_was_heard_of_it_before_stays(stop, left):
    text = "one two three\n2. four\n3. five"
    (found,) = run(ScriptBackend([Rule(text=text)]), job(stop=stop)).values()

    assert found[0] == (text if left is None else left)


def test_the_first_rule_that_fits_counts_and_a_rule_may_be_used_up():
    rules = [Rule(Match("Why"), "once", times=1), Rule(Match("Why"), "then"), Rule(Match("How"), error="no")]
    backend = ScriptBackend(rules)

    assert [run(backend, job(text=text))["0/1"][0] for text in ("Why?", "Why?", "Why?")] == ["once", "then", "then"]
    assert run(backend, job(text="How?"))["0/1"][2] == "error"
    assert run(backend, job(text="Who?"))["0/1"][2] == "error"


@pytest.mark.parametrize(
    ("match", "fits"),
    [
        (Match("last"), True),
        (Match("first"), False),
        (Match(anywhere="first"), True),
        (Match("last", lacks="first"), False),
        (Match("last", lacks="third"), True),
        (Match(lacks=""), False),
        (Match(), True),
    ],
)
def test_a_rule_looks_at_the_last_message_or_at_any(match, fits):
    asked = Job("0/1", [{"role": "user", "content": "first"}, {"role": "user", "content": "last"}], 9)

    assert match.fits(asked) == fits


def test_a_prompt_that_began_like_another_is_read_from_where_they_part():
    backend = ScriptBackend([Rule(text="x")], step_time=LAW, prefill_s=1.0)
    words = "a b c d e f g h"
    backend.start(job("0/1", words))
    deltas = [delta for _ in range(9) for delta in backend.wait()]
    first = next(delta for delta in deltas if delta.end)
    again = run_ends(backend, job("0/2", words + " i"))
    apart = run_ends(backend, job("0/3", words, share_prefix=False))

    assert (first.prompt_tokens, first.cached_tokens) == (10, 0)
    assert again.cached_tokens == 9  # <user> and eight words
    assert apart.cached_tokens == 0


def run_ends(backend, one):
    backend.start(one)
    while deltas := backend.wait():
        if deltas[-1].end:
            return deltas[-1]
    raise AssertionError("the job never ended")


def test_the_first_token_comes_after_its_delay():
    (found,) = run(ScriptBackend([Rule(text="x", ttft_s=5.0)], step_time=LAW), job()).values()

    assert found[1] == pytest.approx(5.0 + 2 * LAW.of(1))


def test_a_cancelled_job_says_nothing_more_and_frees_its_place_in_the_step():
    backend = ScriptBackend([Rule(tokens=3)], step_time=LAW)
    backend.start(job("0/1"))
    backend.start(job("0/2"))
    backend.wait()
    backend.cancel("0/1")
    backend.cancel("0/9")
    before = backend.now_s()

    assert [delta.job for delta in backend.wait()] == ["0/2"]
    assert backend.now_s() - before == LAW.of(1)


@pytest.mark.parametrize("line", ["{}x", '{"texts": "a"}', '{"match": {"has": "a"}}', "7"])
def test_a_script_that_is_none_is_refused_with_its_line(tmp_path, line):
    path = tmp_path / "s.jsonl"
    path.write_text('{"text": "fine"}\n' + line + "\n")

    with pytest.raises(BadInput, match=r"s\.jsonl:2"):
        read_script(path)


def test_a_pair_in_virtual_time_plays_both_models_in_the_order_of_their_events():
    fast = ScriptBackend([Rule(tokens=4)], step_time=StepTime(1.0, 0.0))
    slow = ScriptBackend([Rule(tokens=2)], step_time=StepTime(3.0, 0.0))
    pair = PairBackend(slow, fast)
    pair.start(job("0/l", model="large"))
    pair.start(job("0/s", model="small"))
    times = []
    while deltas := pair.wait():
        times += [(delta.t_s, delta.job) for delta in deltas]

    assert times == sorted(times, key=lambda entry: entry[0])
    assert [at for at, name in times if name == "0/s"] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert [at for at, name in times if name == "0/l"] == [3.0, 6.0, 9.0]
    assert pair.now_s() == 9.0


def test_a_job_of_a_pair_that_is_cancelled_is_heard_no_more_of_either():
    pair = PairBackend(ScriptBackend([Rule(tokens=4)]), ScriptBackend([Rule(tokens=4)]))
    pair.start(job("0/l", model="large"))
    pair.start(job("0/s", model="small"))
    pair.cancel("0/s")
    pair.cancel("0/s")
    heard = set()
    while deltas := pair.wait():
        heard |= {delta.job for delta in deltas}

    assert heard == {"0/l"}
    assert pair.wait() == []


def test_a_paced_script_says_nothing_before_its_time_and_the_same_in_the_end():
    backend = PacedBackend(ScriptBackend([Rule(text="a b c")], step_time=StepTime(0.02, 0.0)))
    backend.start(job())

    assert backend.wait(0.0) == []
    assert backend.step_time() == StepTime(0.02, 0.0)
    text = ""
    while deltas := backend.wait():
        text += "".join(delta.text for delta in deltas)
        assert backend.now_s() >= deltas[-1].t_s
    assert text == "a b c"
    backend.close()
    assert backend.wait() == []


def test_a_paced_job_can_be_cancelled():
    backend = PacedBackend(ScriptBackend([Rule(tokens=1000)], step_time=StepTime(0.001, 0.0)))
    backend.start(job())
    backend.wait()
    backend.cancel("0/1")

    assert backend.wait() == []
    assert backend.next_s() >= 0.0
    assert backend.slots == 8


def test_two_paced_models_take_turns_on_the_wall_clock():
    lanes = [PacedBackend(ScriptBackend([Rule(text=text)], step_time=StepTime(0.001, 0.0))) for text in ("l", "s")]
    pair = PairBackend(*lanes)
    pair.start(job("0/l", model="large"))
    pair.start(job("0/s", model="small"))
    texts = {}
    while deltas := pair.wait(5.0):
        for delta in deltas:
            texts[delta.job] = texts.get(delta.job, "") + delta.text

    assert texts == {"0/l": "l", "0/s": "s"}
    pair.close()
