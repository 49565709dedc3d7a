import pytest

from llmsys.engine.errors import CapacityError, EngineError, RequestError
from llmsys.engine.sequence import Request, SamplingParams

GREEDY = {"temperature": 0.0, "ignore_eos": True}


PROMPTS = [[7, 8, 9], list(range(40)), [*list(range(37)), 99], [5], list(range(20))]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("prefix_cache", [False, True])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("block_tokens", [1, 4, 16])
@pytest.mark.parametrize("room", [64, 200])
def test_tokens_are_the_same_whatever_memory_and_chunks(parts, shared, prefix_cache, chunked, block_tokens, room):
    engine = parts.make_engine(
        blocks=room // block_tokens,
        block_tokens=block_tokens,
        prefix_cache=prefix_cache,
        chunked_prefill=chunked,
        shared=shared,
    )
    requests = [parts.greedy_request(prompt, adapter=adapter) for prompt in PROMPTS for adapter in (None, "fr")]

    done = engine.generate(requests)

    for request, completion in zip(requests, done, strict=True):
        adapter = engine.slots.digest(request.adapter) if request.adapter else b""
        assert parts.expected_greedy(request.prompt, 12, adapter) == completion.token_ids
        assert completion.finish == "length"
    parts.check_blocks(engine._blocks)
    assert engine.stats().blocks.referenced == 0
    assert not +engine.slots.holds


def test_text_and_messages_are_tokenized_and_text_comes_back(parts):
    engine = parts.make_engine()
    messages = [{"role": "user", "content": "hi"}]

    text, chat = engine.generate([parts.greedy_request("hé"), parts.greedy_request(messages)])

    assert parts.expected_greedy("hé".encode(), 12) == text.token_ids
    assert parts.expected_greedy([257, *b"user: hi"], 12) == chat.token_ids
    assert text.text == engine.tokenizer.decode(text.token_ids)


def test_the_streamed_pieces_join_to_the_completion(parts):
    engine = parts.make_engine()
    rid = engine.add(parts.greedy_request("abc", 40))
    events = parts.drain(engine)

    assert "".join(e.text for e in events) == engine.tokenizer.decode(parts.tokens_of(events, rid))
    assert [e.finish for e in events] == [None] * 39 + ["length"]
    assert (events[-1].prompt_tokens, events[-1].cached_tokens) == (3, 0)


def test_an_end_token_ends_the_answer_without_its_text(parts):
    expected = parts.expected_greedy([3], 30)
    end = expected[7]
    engine = parts.make_engine()
    params = SamplingParams(max_tokens=30, temperature=0.0, stop_token_ids=[end])

    (done,) = engine.generate([Request([3], params)])

    assert done.finish == "stop"
    assert done.token_ids == expected[: expected.index(end) + 1]
    assert done.text == engine.tokenizer.decode(done.token_ids[:-1])


def test_min_tokens_keeps_the_end_away(parts):
    engine = parts.make_engine()
    biased = {"logit_bias": {parts.EOS: 100.0}, "temperature": 0.0, "max_tokens": 20}

    short, long = engine.generate([Request([3], SamplingParams(min_tokens=m, **biased)) for m in (0, 9)])

    assert (len(short.token_ids), len(long.token_ids)) == (1, 10)


def test_a_stop_string_ends_the_answer(parts):
    engine = parts.make_engine()
    params = SamplingParams(max_tokens=30, temperature=0.0, stop="zz", logit_bias={ord("z"): 100.0})

    (done,) = engine.generate([Request("x", params)])

    assert (done.finish, done.text, len(done.token_ids)) == ("stop", "", 2)


def test_the_last_length_ends_the_answer_when_the_model_is_full(parts):
    engine = parts.make_engine(max_len=20)

    (done,) = engine.generate([parts.greedy_request(list(range(15)), 100)])

    assert (done.finish, len(done.token_ids)) == ("length", 5)


def test_seeded_requests_repeat_and_unseeded_ones_follow_the_engines_seed(parts):
    def run(seed, engine_seed):
        request = Request([1, 2], SamplingParams(max_tokens=20, seed=seed, ignore_eos=True))
        return [
            c.token_ids
            for c in parts.make_engine(seed=engine_seed).generate([parts.greedy_request([5]), request, request])
        ]

    assert run(7, 0) == run(7, 1)
    assert run(None, 3) == run(None, 3) != run(None, 4)
    assert len(set(run(None, 3)[1:])) == 2


def test_one_row_of_nan_ends_its_request_and_leaves_no_prefix(parts):
    engine = parts.make_engine()
    requests = [parts.greedy_request(list(range(9)), adapter=a) for a in (None, "fr")]
    good, bad = [engine.add(request) for request in requests]
    engine.runner.poisoned.add(bad)
    events = parts.drain(engine)

    (end,) = [e for e in events if e.request_id == bad]
    assert (end.finish, end.error) == ("error", "not a number in logits (adapter fr)")
    assert parts.tokens_of(events, good) == parts.expected_greedy(range(9), 12)
    assert bad not in {number for number, _, _ in engine._blocks.tables()}
    with pytest.raises(RequestError, match="only a parked or finished"):
        engine.extend(bad, [1])


def test_adapters_never_share_prefixes_and_a_reload_is_another_adapter(parts):
    engine = parts.make_engine()
    prompt = list(range(16))
    before = engine.generate(
        [
            parts.greedy_request(prompt, adapter="fr"),
            parts.greedy_request(prompt, adapter="de"),
            parts.greedy_request(prompt),
        ]
    )
    engine.adapters.register("fr", "/adapters/fr-2")
    (after,) = engine.generate([parts.greedy_request(prompt, adapter="fr")])

    assert len({c.token_ids for c in (*before, after)}) == 4
    assert {c.cached_tokens for c in (*before, after)} == {0}
    assert after.token_ids == parts.expected_greedy(prompt, 12, b"fr@/adapters/fr-2")


def test_a_running_request_ends_on_the_adapter_it_started_with(parts):
    engine = parts.make_engine(blocks=10)
    first = engine.add(parts.greedy_request([1, 2], 30, adapter="fr"))
    events = [e for _ in range(3) for e in engine.step()]
    second = engine.add(parts.greedy_request([3, 4], 30, adapter="de"))
    engine.adapters.register("de", "/adapters/de-2")
    engine.adapters.register("fr", "/adapters/fr-2")
    parts.drain(engine, events)

    assert engine.stats().preemptions > 0
    assert parts.tokens_of(events, first) == parts.expected_greedy([1, 2], 30, b"fr@/adapters/fr")
    assert parts.tokens_of(events, second) == parts.expected_greedy([3, 4], 30, b"de@/adapters/de-2")


def test_a_cache_salt_keeps_tenants_apart(parts):
    engine = parts.make_engine()
    prompt = list(range(16))

    done = [engine.generate([parts.greedy_request(prompt, cache_salt=salt)])[0] for salt in ("a", "a", "b")]

    assert [c.cached_tokens for c in done] == [0, 12, 0]
    assert len({c.token_ids for c in done}) == 1


def test_more_adapters_than_slots_take_turns(parts):
    engine = parts.make_engine(slots=2)
    names = ["fr", "de", "it", "es"] * 2

    done = engine.generate([parts.greedy_request([1], adapter=name) for name in names])

    for name, completion in zip(names, done, strict=True):
        assert completion.token_ids == parts.expected_greedy([1], 12, engine.slots.digest(name))


def test_an_adapter_that_cannot_be_loaded_ends_only_its_request(parts):
    engine = parts.make_engine()

    bad, good = engine.generate([parts.greedy_request([1], adapter="bad"), parts.greedy_request([1])])

    assert (bad.finish, bad.error) == ("error", "adapter 'bad' has rank 999")
    assert good.finish == "length"


def test_a_full_queue_says_so(parts):
    events = []
    engine = parts.make_engine(max_waiting=2, on_event=events.append)
    for _ in range(2):
        engine.add(parts.greedy_request([1]))

    with pytest.raises(CapacityError, match="2 requests are waiting, 1 more would pass the bound of 2") as caught:
        engine.add(parts.greedy_request([1], id="late"))
    assert caught.value.request_id == 2
    assert [(e.kind, e.id) for e in events][-1] == ("reject", "late")
    assert len(engine.generate([])) == 0 if not engine.busy else parts.drain(engine)


def test_generate_feeds_a_short_queue(parts):
    engine = parts.make_engine(max_waiting=2, max_sequences=2)
    seen = []

    done = engine.generate((parts.greedy_request([n]) for n in range(20)), progress=seen.append)

    assert [c.token_ids for c in done] == [parts.expected_greedy([n], 12) for n in range(20)]
    assert sorted(c.request_id for c in seen) == list(range(20))


def test_a_bad_request_among_many_ends_them_all(parts):
    engine = parts.make_engine()

    with pytest.raises(RequestError, match="the prompt is empty"):
        engine.generate([parts.greedy_request([1]), parts.greedy_request([])])
    assert not engine.busy
    assert engine.stats().blocks.referenced == 0


def test_generate_wants_the_engine_for_itself(parts):
    engine = parts.make_engine()
    engine.add(parts.greedy_request([1]))

    with pytest.raises(EngineError, match="idle"):
        engine.generate([parts.greedy_request([2])])


def test_stats_tell_what_runs(parts):
    engine = parts.make_engine(max_sequences=2)
    for name in (None, "fr", "fr"):
        engine.add(parts.greedy_request([1, 2, 3], adapter=name))
    engine.step()
    stats = engine.stats()

    assert (stats.running, stats.waiting, stats.parked, stats.steps) == (2, 1, 0, 1)
    assert stats.adapters == {"fr": 1}
    assert (stats.prompt_tokens, stats.output_tokens, stats.finished) == (6, 2, 0)
