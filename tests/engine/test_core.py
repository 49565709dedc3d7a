import pytest

from llmsys.engine.errors import CapacityError, EngineError, RequestError
from llmsys.engine.sequence import Request, SamplingParams

GREEDY = {"temperature": 0.0, "ignore_eos": True}


def greedy(prompt, tokens=12, **fields):
    return Request(prompt, SamplingParams(max_tokens=tokens, **GREEDY), **fields)


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
    requests = [greedy(prompt, adapter=adapter) for prompt in PROMPTS for adapter in (None, "fr")]

    done = engine.generate(requests)

    for request, completion in zip(requests, done, strict=True):
        adapter = engine.slots.digest(request.adapter) if request.adapter else b""
        assert parts.expected_greedy(request.prompt, 12, adapter) == completion.token_ids
        assert completion.finish == "length"
    parts.check_blocks(engine._blocks)
    assert engine.stats().blocks.referenced == 0
    assert not +engine.slots.holds


def drain(engine, into=None):
    """Step until nothing is left, with the invariants checked in between; return all events."""
    events = [] if into is None else into
    for _ in range(2000):
        if not engine.busy:
            return events
        events += engine.step()
    raise AssertionError("the engine makes no progress")


def tokens_of(events, request_id, index=0):
    return tuple(e.token_id for e in events if (e.request_id, e.index) == (request_id, index) and e.token_id >= 0)


def test_text_and_messages_are_tokenized_and_text_comes_back(parts):
    engine = parts.make_engine()
    messages = [{"role": "user", "content": "hi"}]

    text, chat = engine.generate([greedy("hé"), greedy(messages)])

    assert parts.expected_greedy("hé".encode(), 12) == text.token_ids
    assert parts.expected_greedy([257, *b"user: hi"], 12) == chat.token_ids
    assert text.text == engine.tokenizer.decode(text.token_ids)


def test_the_streamed_pieces_join_to_the_completion(parts):
    engine = parts.make_engine()
    rid = engine.add(greedy("abc", 40))
    events = drain(engine)

    assert "".join(e.text for e in events) == engine.tokenizer.decode(tokens_of(events, rid))
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

    (done,) = engine.generate([greedy(list(range(15)), 100)])

    assert (done.finish, len(done.token_ids)) == ("length", 5)


@pytest.mark.parametrize("n", [2, 5])
@pytest.mark.parametrize("blocks", [16, 64])
def test_choices_of_one_request_share_the_prompt_and_differ_by_index(parts, n, blocks):
    engine = parts.make_engine(blocks=blocks)
    prompt = list(range(21))
    params = SamplingParams(max_tokens=10, n=n, seed=11, ignore_eos=True)

    together = engine.generate([Request(prompt, params)])
    alone = parts.make_engine(prefix_cache=False).generate([Request(prompt, params)])

    assert [c.index for c in together] == list(range(n))
    assert [c.token_ids for c in together] == [c.token_ids for c in alone]
    assert len({c.token_ids for c in together}) == n
    computed = sum(count for plan in engine.runner.plans for _, _, count, _ in plan)
    if blocks == 64:
        assert computed == 21 + (n - 1) + n * 9
    assert engine.stats().blocks.referenced == 0


def test_seeded_requests_repeat_and_unseeded_ones_follow_the_engines_seed(parts):
    def run(seed, engine_seed):
        request = Request([1, 2], SamplingParams(max_tokens=20, seed=seed, ignore_eos=True))
        return [c.token_ids for c in parts.make_engine(seed=engine_seed).generate([greedy([5]), request, request])]

    assert run(7, 0) == run(7, 1)
    assert run(None, 3) == run(None, 3) != run(None, 4)
    assert len(set(run(None, 3)[1:])) == 2


def test_a_forked_request_goes_on_where_its_origin_was(parts):
    engine = parts.make_engine()
    prompt = list(range(10))
    rid = engine.add(greedy(prompt, 30))
    events = [e for _ in range(6) for e in engine.step()]
    so_far = tokens_of(events, rid)
    same, other = engine.fork(rid, 2, suffixes=[[], [9, 9]], sampling=SamplingParams(max_tokens=5, **GREEDY))
    drain(engine, events)

    assert tokens_of(events, rid) == parts.expected_greedy(prompt, 30)
    assert tokens_of(events, same) == parts.expected_greedy([*prompt, *so_far], 5)
    assert tokens_of(events, other) == parts.expected_greedy([*prompt, *so_far, 9, 9], 5)
    assert sum(count for plan in engine.runner.plans for _, _, count, _ in plan) == 10 + 29 + 5 + 7


def test_forks_of_a_finished_request_reuse_what_is_left_of_it(parts):
    engine = parts.make_engine()
    (done,) = engine.generate([greedy(list(range(16)), 8)])
    (child,) = engine.fork(done.request_id)
    events = drain(engine)

    assert tokens_of(events, child) == parts.expected_greedy([*range(16), *done.token_ids], 8)
    assert events[-1].cached_tokens == 23


def test_a_fork_needs_a_suffix_for_each(parts):
    engine = parts.make_engine()
    rid = engine.add(greedy([1]))

    with pytest.raises(RequestError, match="1 suffixes for 2 forks"):
        engine.fork(rid, 2, suffixes=[[1]])


@pytest.mark.parametrize("when", [1, 2, 5, 9])
def test_a_parked_request_resumes_without_computing_anything_again(parts, when):
    engine = parts.make_engine()
    prompt = list(range(50))
    rid = engine.add(greedy(prompt))
    events = [e for _ in range(when) for e in engine.step()]
    engine.park(rid)

    assert engine.step() == []
    assert engine.stats().parked == 1
    engine.resume(rid)
    engine.resume(rid)
    drain(engine, events)
    assert tokens_of(events, rid) == parts.expected_greedy(prompt, 12)
    assert sum(count for plan in engine.runner.plans for _, _, count, _ in plan) == 50 + 11


def test_a_request_parked_before_it_ran_waits_again_when_resumed(parts):
    engine = parts.make_engine()
    rid = engine.add(greedy([1, 2]))
    engine.park(rid)

    assert engine.step() == []
    engine.resume(rid)
    assert tokens_of(drain(engine), rid) == parts.expected_greedy([1, 2], 12)


def test_choices_can_be_parked_and_resumed_together(parts):
    request = Request(list(range(9)), SamplingParams(max_tokens=10, n=3, seed=4, ignore_eos=True))
    expected = [c.token_ids for c in parts.make_engine().generate([request])]
    for when in range(1, 8):
        engine = parts.make_engine()
        rid = engine.add(request)
        events = [e for _ in range(when) for e in engine.step()]
        engine.park(rid)
        engine.resume(rid)
        drain(engine, events)

        assert [tokens_of(events, rid, i) for i in range(3)] == expected


def test_a_finished_request_can_be_extended_with_its_memory_kept(parts):
    engine = parts.make_engine()
    (done,) = engine.generate([greedy(list(range(6)), 5)])
    engine.extend(done.request_id, [41, 42])
    events = drain(engine)

    assert tokens_of(events, done.request_id) == parts.expected_greedy([*range(6), *done.token_ids, 41, 42], 5)
    assert engine.runner.plans[-5] == [(done.request_id, 10, 3, True)]


def test_a_parked_request_can_be_extended_and_goes_on_at_once(parts):
    engine = parts.make_engine()
    rid = engine.add(greedy(list(range(6)), 20))
    events = [e for _ in range(4) for e in engine.step()]
    so_far = tokens_of(events, rid)
    engine.park(rid)
    engine.extend(rid, [41, 42], sampling=SamplingParams(max_tokens=3, **GREEDY))
    later = drain(engine)

    assert tokens_of(later, rid) == parts.expected_greedy([*range(6), *so_far, 41, 42], 3)


def test_an_extension_survives_the_loss_of_the_memory(parts):
    engine = parts.make_engine(blocks=16, max_finished=9)
    (done,) = engine.generate([greedy(list(range(6)), 5)])
    for start in range(100, 104):
        engine.generate([greedy(list(range(start, start + 50)), 5)])
    engine.extend(done.request_id, [41])

    assert tokens_of(drain(engine), done.request_id) == parts.expected_greedy([*range(6), *done.token_ids, 41], 5)


def test_only_what_stands_still_can_be_extended(parts):
    engine = parts.make_engine(max_finished=1)
    rid = engine.add(greedy([1]))

    with pytest.raises(RequestError, match="only a parked or finished request"):
        engine.extend(rid, [1])
    drain(engine)
    engine.generate([greedy([2])])
    with pytest.raises(RequestError, match="unknown or finished too long ago"):
        engine.extend(rid, [1])
    two = engine.add(Request([1], SamplingParams(n=2)))
    with pytest.raises(RequestError, match="2 choices"):
        engine.fork(two)


@pytest.mark.parametrize("when", range(6))
def test_a_cancelled_request_is_gone_within_a_step_and_changes_no_other(parts, when):
    engine = parts.make_engine(max_batch_tokens=8)
    stays, goes = engine.add(greedy(list(range(20)))), engine.add(greedy(list(range(7, 30)), adapter="fr"))
    events = [e for _ in range(when) for e in engine.step()]
    engine.cancel(goes)
    engine.cancel(goes)
    after = engine.step()

    assert [e.finish for e in after if e.request_id == goes] == ["cancelled"]
    assert not +engine.slots.holds
    assert {number for number, _, retained in engine._blocks.tables() if not retained} <= {stays}
    drain(engine, events := [*events, *after])
    assert tokens_of(events, stays) == parts.expected_greedy(range(20), 12)
    engine.cancel(goes)
    engine.cancel(12345)
    assert engine.step() == []


def test_one_row_of_nan_ends_its_request_and_leaves_no_prefix(parts):
    engine = parts.make_engine()
    requests = [greedy(list(range(9)), adapter=a) for a in (None, "fr")]
    good, bad = [engine.add(request) for request in requests]
    engine.runner.poisoned.add(bad)
    events = drain(engine)

    (end,) = [e for e in events if e.request_id == bad]
    assert (end.finish, end.error) == ("error", "not a number in logits (adapter fr)")
    assert tokens_of(events, good) == parts.expected_greedy(range(9), 12)
    assert bad not in {number for number, _, _ in engine._blocks.tables()}
    with pytest.raises(RequestError, match="only a parked or finished"):
        engine.extend(bad, [1])


def test_adapters_never_share_prefixes_and_a_reload_is_another_adapter(parts):
    engine = parts.make_engine()
    prompt = list(range(16))
    before = engine.generate([greedy(prompt, adapter="fr"), greedy(prompt, adapter="de"), greedy(prompt)])
    engine.adapters.register("fr", "/adapters/fr-2")
    (after,) = engine.generate([greedy(prompt, adapter="fr")])

    assert len({c.token_ids for c in (*before, after)}) == 4
    assert {c.cached_tokens for c in (*before, after)} == {0}
    assert after.token_ids == parts.expected_greedy(prompt, 12, b"fr@/adapters/fr-2")


def test_a_running_request_ends_on_the_adapter_it_started_with(parts):
    engine = parts.make_engine(blocks=10)
    first = engine.add(greedy([1, 2], 30, adapter="fr"))
    events = [e for _ in range(3) for e in engine.step()]
    second = engine.add(greedy([3, 4], 30, adapter="de"))
    engine.adapters.register("de", "/adapters/de-2")
    engine.adapters.register("fr", "/adapters/fr-2")
    drain(engine, events)

    assert engine.stats().preemptions > 0
    assert tokens_of(events, first) == parts.expected_greedy([1, 2], 30, b"fr@/adapters/fr")
    assert tokens_of(events, second) == parts.expected_greedy([3, 4], 30, b"de@/adapters/de-2")


def test_a_cache_salt_keeps_tenants_apart(parts):
    engine = parts.make_engine()
    prompt = list(range(16))

    done = [engine.generate([greedy(prompt, cache_salt=salt)])[0] for salt in ("a", "a", "b")]

    assert [c.cached_tokens for c in done] == [0, 12, 0]
    assert len({c.token_ids for c in done}) == 1


def test_more_adapters_than_slots_take_turns(parts):
    engine = parts.make_engine(slots=2)
    names = ["fr", "de", "it", "es"] * 2

    done = engine.generate([greedy([1], adapter=name) for name in names])

    for name, completion in zip(names, done, strict=True):
        assert completion.token_ids == parts.expected_greedy([1], 12, engine.slots.digest(name))


def test_an_adapter_that_cannot_be_loaded_ends_only_its_request(parts):
    engine = parts.make_engine()

    bad, good = engine.generate([greedy([1], adapter="bad"), greedy([1])])

    assert (bad.finish, bad.error) == ("error", "adapter 'bad' has rank 999")
    assert good.finish == "length"


def test_a_full_queue_says_so(parts):
    events = []
    engine = parts.make_engine(max_waiting=2, on_event=events.append)
    for _ in range(2):
        engine.add(greedy([1]))

    with pytest.raises(CapacityError, match="2 requests are waiting, 1 more would pass the bound of 2") as caught:
        engine.add(greedy([1], id="late"))
    assert caught.value.request_id == 2
    assert [(e.kind, e.id) for e in events][-1] == ("reject", "late")
    assert len(engine.generate([])) == 0 if not engine.busy else drain(engine)


def test_generate_feeds_a_short_queue(parts):
    engine = parts.make_engine(max_waiting=2, max_sequences=2)
    seen = []

    done = engine.generate((greedy([n]) for n in range(20)), progress=seen.append)

    assert [c.token_ids for c in done] == [parts.expected_greedy([n], 12) for n in range(20)]
    assert sorted(c.request_id for c in seen) == list(range(20))


def test_a_bad_request_among_many_ends_them_all(parts):
    engine = parts.make_engine()

    with pytest.raises(RequestError, match="the prompt is empty"):
        engine.generate([greedy([1]), greedy([])])
    assert not engine.busy
    assert engine.stats().blocks.referenced == 0


def test_generate_wants_the_engine_for_itself(parts):
    engine = parts.make_engine()
    engine.add(greedy([1]))

    with pytest.raises(EngineError, match="idle"):
        engine.generate([greedy([2])])


def test_stats_tell_what_runs(parts):
    engine = parts.make_engine(max_sequences=2)
    for name in (None, "fr", "fr"):
        engine.add(greedy([1, 2, 3], adapter=name))
    engine.step()
    stats = engine.stats()

    assert (stats.running, stats.waiting, stats.parked, stats.steps) == (2, 1, 0, 1)
    assert stats.adapters == {"fr": 1}
    assert (stats.prompt_tokens, stats.output_tokens, stats.finished) == (6, 2, 0)
