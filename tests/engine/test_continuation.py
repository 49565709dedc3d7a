"""A request whose answer began elsewhere goes on as if it had never stopped."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.engine.errors import RequestError
from llmsys.engine.sequence import Request, SamplingParams

SAMPLING = st.builds(
    SamplingParams,
    max_tokens=st.integers(2, 24),
    temperature=st.sampled_from([0.0, 0.9]),
    top_p=st.sampled_from([1.0, 0.8]),
    presence_penalty=st.sampled_from([0.0, 1.5]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    min_tokens=st.integers(0, 2),
    seed=st.integers(0, 1 << 40),
    n=st.integers(1, 3),
    stop=st.sampled_from([(), ("a",), ("zz", "\u00e9b")]),
    logprobs=st.sampled_from([None, 2]),
)


def choices_of(parts, requests):
    """Events of each choice, in order, of requests that share one batch."""
    engine = parts.make_engine()
    numbers = [engine.add(request) for request in requests]
    found = {}
    for event in parts.drain(engine):
        found.setdefault((numbers.index(event.request_id), event.index), []).append(event)
    assert engine.stats().blocks.referenced == 0
    return found


def said(events):
    return [(e.token_id, e.text, e.finish, e.logprob, e.top_logprobs) for e in events]


@given(prompt=st.lists(st.integers(0, 255), min_size=1, max_size=20), sampling=SAMPLING, data=st.data())
def test_an_answer_cut_anywhere_goes_on_with_the_same_tokens_text_and_end(parts, prompt, sampling, data):
    whole = choices_of(parts, [Request(prompt, sampling, adapter="fr")])
    cuts = {index: data.draw(st.integers(0, len(events) - 1)) for (_, index), events in whole.items()}
    single = SamplingParams(**{name: getattr(sampling, name) for name in SamplingParams.__slots__} | {"n": 1})

    resumed = choices_of(
        parts,
        [
            Request(
                prompt,
                single,
                adapter="fr",
                output=[event.token_id for event in whole[0, index][:cut]],
                choice=index,
            )
            for index, cut in sorted(cuts.items())
        ],
    )

    for at, (index, cut) in enumerate(sorted(cuts.items())):
        assert said(resumed[at, 0]) == said(whole[0, index][cut:])


@pytest.mark.parametrize(
    ("output", "n", "told"), [([1, 2], 2, "n=1"), ([1] * 8, 1, "at most 7"), ([999], 1, "999"), (["x"], 1, "mixes")]
)
def test_an_output_that_cannot_be_is_refused(parts, output, n, told):
    engine = parts.make_engine()

    with pytest.raises(RequestError, match=told):
        engine.add(Request([1], SamplingParams(max_tokens=8, n=n), output=output))


def test_what_is_computed_again_is_charged_where_it_is_computed(parts):
    engine = parts.make_engine()
    engine.add(Request([1, 2, 3], SamplingParams(max_tokens=9, temperature=0.0, ignore_eos=True), output=[4, 5]))
    parts.drain(engine)

    assert (engine.stats().prompt_tokens, engine.stats().output_tokens) == (5, 7)


def test_running_answers_wait_for_at_most_one_load_a_step(parts):
    """Four new adapters beside a running answer: each step loads one, and the answer gets a token in every step."""
    engine = parts.make_engine()
    engine.slots.register("de", "de")
    engine.slots.register("es", "es")
    greedy = SamplingParams(max_tokens=40, temperature=0.0, ignore_eos=True)
    first = engine.add(Request([1, 2], greedy))
    engine.step()
    for name in ("fr", "de", "es"):
        engine.add(Request([3, 4], greedy, adapter=name))
    tokens, holders = [], []
    for _ in range(4):
        events = engine.step()
        tokens.append(sum(event.request_id == first for event in events))
        holders.append(sum(map(bool, (+engine.slots.holds).values())))

    assert tokens == [1, 1, 1, 1]
    assert holders == [1, 2, 3, 3]


def test_adapters_load_at_once_where_nobody_waits_for_them(parts):
    engine = parts.make_engine()
    engine.slots.register("de", "de")
    greedy = SamplingParams(max_tokens=4, temperature=0.0, ignore_eos=True)
    for name in ("fr", "de"):
        engine.add(Request([3, 4], greedy, adapter=name))
    engine.step()

    assert sum(map(bool, (+engine.slots.holds).values())) == 2
