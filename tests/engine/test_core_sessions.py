"""Requests whose life is not a straight line: forked, parked, resumed, extended, cancelled, of several choices."""

import pytest

from llmsys.engine.errors import RequestError
from llmsys.engine.sequence import Request, SamplingParams

GREEDY = {"temperature": 0.0, "ignore_eos": True}


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


def test_a_forked_request_goes_on_where_its_origin_was(parts):
    engine = parts.make_engine()
    prompt = list(range(10))
    rid = engine.add(parts.greedy_request(prompt, 30))
    events = [e for _ in range(6) for e in engine.step()]
    so_far = parts.tokens_of(events, rid)
    same, other = engine.fork(rid, 2, suffixes=[[], [9, 9]], sampling=SamplingParams(max_tokens=5, **GREEDY))
    parts.drain(engine, events)

    assert parts.tokens_of(events, rid) == parts.expected_greedy(prompt, 30)
    assert parts.tokens_of(events, same) == parts.expected_greedy([*prompt, *so_far], 5)
    assert parts.tokens_of(events, other) == parts.expected_greedy([*prompt, *so_far, 9, 9], 5)
    assert sum(count for plan in engine.runner.plans for _, _, count, _ in plan) == 10 + 29 + 5 + 7


def test_forks_of_a_finished_request_reuse_what_is_left_of_it(parts):
    engine = parts.make_engine()
    (done,) = engine.generate([parts.greedy_request(list(range(16)), 8)])
    (child,) = engine.fork(done.request_id)
    events = parts.drain(engine)

    assert parts.tokens_of(events, child) == parts.expected_greedy([*range(16), *done.token_ids], 8)
    assert events[-1].cached_tokens == 23


def test_a_fork_needs_a_suffix_for_each(parts):
    engine = parts.make_engine()
    rid = engine.add(parts.greedy_request([1]))

    with pytest.raises(RequestError, match="1 suffixes for 2 forks"):
        engine.fork(rid, 2, suffixes=[[1]])


@pytest.mark.parametrize("when", [1, 2, 5, 9])
def test_a_parked_request_resumes_without_computing_anything_again(parts, when):
    engine = parts.make_engine()
    prompt = list(range(50))
    rid = engine.add(parts.greedy_request(prompt))
    events = [e for _ in range(when) for e in engine.step()]
    engine.park(rid)

    assert engine.step() == []
    assert engine.stats().parked == 1
    engine.resume(rid)
    engine.resume(rid)
    parts.drain(engine, events)
    assert parts.tokens_of(events, rid) == parts.expected_greedy(prompt, 12)
    assert sum(count for plan in engine.runner.plans for _, _, count, _ in plan) == 50 + 11


def test_a_request_parked_before_it_ran_waits_again_when_resumed(parts):
    engine = parts.make_engine()
    rid = engine.add(parts.greedy_request([1, 2]))
    engine.park(rid)

    assert engine.step() == []
    engine.resume(rid)
    assert parts.tokens_of(parts.drain(engine), rid) == parts.expected_greedy([1, 2], 12)


def test_choices_can_be_parked_and_resumed_together(parts):
    request = Request(list(range(9)), SamplingParams(max_tokens=10, n=3, seed=4, ignore_eos=True))
    expected = [c.token_ids for c in parts.make_engine().generate([request])]
    for when in range(1, 8):
        engine = parts.make_engine()
        rid = engine.add(request)
        events = [e for _ in range(when) for e in engine.step()]
        engine.park(rid)
        engine.resume(rid)
        parts.drain(engine, events)

        assert [parts.tokens_of(events, rid, i) for i in range(3)] == expected


def test_a_finished_request_can_be_extended_with_its_memory_kept(parts):
    engine = parts.make_engine()
    (done,) = engine.generate([parts.greedy_request(list(range(6)), 5)])
    engine.extend(done.request_id, [41, 42])
    events = parts.drain(engine)

    assert parts.tokens_of(events, done.request_id) == parts.expected_greedy([*range(6), *done.token_ids, 41, 42], 5)
    assert engine.runner.plans[-5] == [(done.request_id, 10, 3, True)]


def test_a_parked_request_can_be_extended_and_goes_on_at_once(parts):
    engine = parts.make_engine()
    rid = engine.add(parts.greedy_request(list(range(6)), 20))
    events = [e for _ in range(4) for e in engine.step()]
    so_far = parts.tokens_of(events, rid)
    engine.park(rid)
    engine.extend(rid, [41, 42], sampling=SamplingParams(max_tokens=3, **GREEDY))
    later = parts.drain(engine)

    assert parts.tokens_of(later, rid) == parts.expected_greedy([*range(6), *so_far, 41, 42], 3)


def test_an_extension_survives_the_loss_of_the_memory(parts):
    engine = parts.make_engine(blocks=16, max_finished=9)
    (done,) = engine.generate([parts.greedy_request(list(range(6)), 5)])
    for start in range(100, 104):
        engine.generate([parts.greedy_request(list(range(start, start + 50)), 5)])
    engine.extend(done.request_id, [41])

    assert parts.tokens_of(parts.drain(engine), done.request_id) == parts.expected_greedy(
        [*range(6), *done.token_ids, 41], 5
    )


def test_only_what_stands_still_can_be_extended(parts):
    engine = parts.make_engine(max_finished=1)
    rid = engine.add(parts.greedy_request([1]))

    with pytest.raises(RequestError, match="only a parked or finished request"):
        engine.extend(rid, [1])
    parts.drain(engine)
    engine.generate([parts.greedy_request([2])])
    with pytest.raises(RequestError, match="unknown or finished too long ago"):
        engine.extend(rid, [1])
    two = engine.add(Request([1], SamplingParams(n=2)))
    with pytest.raises(RequestError, match="2 choices"):
        engine.fork(two)


@pytest.mark.parametrize("when", range(6))
def test_a_cancelled_request_is_gone_within_a_step_and_changes_no_other(parts, when):
    engine = parts.make_engine(max_batch_tokens=8)
    stays = engine.add(parts.greedy_request(list(range(20))))
    goes = engine.add(parts.greedy_request(list(range(7, 30)), adapter="fr"))
    events = [e for _ in range(when) for e in engine.step()]
    engine.cancel(goes)
    engine.cancel(goes)
    after = engine.step()

    assert [e.finish for e in after if e.request_id == goes] == ["cancelled"]
    assert not +engine.slots.holds
    assert {number for number, _, retained in engine._blocks.tables() if not retained} <= {stays}
    parts.drain(engine, events := [*events, *after])
    assert parts.tokens_of(events, stays) == parts.expected_greedy(range(20), 12)
    engine.cancel(goes)
    engine.cancel(12345)
    assert engine.step() == []
