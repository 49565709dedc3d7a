import pytest

from llmsys.engine.block_manager import BlockManager
from llmsys.engine.policy import FirstComeFirstServed
from llmsys.engine.scheduler import Limits, Scheduler
from llmsys.engine.sequence import Request, Sequence, State


class Rows:
    def release(self, sequence_id):
        pass

    def copy_prefix(self, source_id, target_id, tokens):
        pass


class NoAdapters:
    def release(self, slot):
        raise AssertionError("no adapter was ever acquired")

    def shed(self):
        return False


def scheduler(*, blocks=32, batch=16, sequences=4, preemptions=2, chunked=True):
    memory = BlockManager(Rows(), blocks=blocks, block_tokens=4, rows=8, prefix_cache=False)
    limits = Limits(batch, sequences, preemptions, chunked)
    return Scheduler(memory, NoAdapters(), FirstComeFirstServed(), limits, model=b""), memory


def queue(target, number, length, output=8):
    ids = list(range(length))
    request = Request(tuple(ids), request_id=number, arrival_s=float(number))
    sequence = Sequence(number, request, ids, length, max_tokens=output, uncharged_tokens=length)
    target.queue(sequence)
    return sequence


def run(target):
    """Plan, pretend to compute, append tokens that were sampled; return the plan as (id, start, count, samples)."""
    turn = target.plan(0.0)
    target.advance(turn.plan)
    for chunk in turn.chunks:
        if chunk.samples:
            chunk.sequence.token_ids.append(0)
    return [(c.sequence.id, c.start, c.count, c.samples) for c in turn.chunks]


def test_decodes_come_first_then_prompts_under_way_then_admissions():
    target, _ = scheduler()
    queue(target, 0, 3)
    run(target)
    queue(target, 1, 40)
    queue(target, 2, 5)

    assert run(target) == [(0, 3, 1, True), (1, 0, 15, False)]
    assert run(target) == [(0, 4, 1, True), (1, 15, 15, False)]
    assert run(target) == [(0, 5, 1, True), (1, 30, 10, True), (2, 0, 5, True)]


def test_without_chunks_a_long_prompt_goes_whole_beside_the_decodes_but_with_no_other_prompt():
    target, _ = scheduler(chunked=False)
    queue(target, 0, 3)
    run(target)
    queue(target, 1, 40)
    queue(target, 2, 5)

    assert run(target) == [(0, 3, 1, True), (1, 0, 40, True)]
    assert run(target) == [(0, 4, 1, True), (1, 40, 1, True), (2, 0, 5, True)]


@pytest.mark.parametrize(("batch", "sequences", "running"), [(16, 4, 4), (3, 4, 3)])
def test_no_more_run_than_get_a_token_in_every_step(batch, sequences, running):
    target, _ = scheduler(batch=batch, sequences=sequences)
    for number in range(6):
        queue(target, number, 1)
    for _ in range(3):
        plan = run(target)

    assert len(plan) == running
    assert len(target.waiting) == 6 - running


def test_a_shortage_preempts_the_newest_which_comes_back_before_new_arrivals():
    target, memory = scheduler(blocks=5)
    old, new = queue(target, 0, 4), queue(target, 1, 4)
    while not new.preemptions:
        run(target)
    late = queue(target, 2, 1)

    assert (old.state, new.state, late.state) == (State.RUNNING, State.WAITING, State.WAITING)
    assert list(target.returning) == [new]
    target.finish(old, keep=False)
    assert [entry[0] for entry in run(target)] == [1, 2]
    assert memory.in_use(1)


def test_whoever_was_preempted_too_often_reserves_its_whole_length():
    target, memory = scheduler(blocks=6, preemptions=1)
    queue(target, 0, 4, output=12)
    unlucky = queue(target, 1, 4, output=12)
    while not unlucky.preemptions:
        run(target)
    target.finish(target.running[0], keep=False)
    run(target)

    held = {number: blocks for number, blocks, _ in memory.tables()}
    assert len(held[1]) == 4


def test_parked_memory_goes_before_anyone_is_preempted():
    target, memory = scheduler(blocks=4)
    parked, other = queue(target, 0, 4), queue(target, 1, 4)
    run(target)
    target.park(parked)
    for _ in range(8):
        run(target)

    assert not memory.in_use(parked.id)
    assert (parked.computed_tokens, other.preemptions) == (0, 0)


def test_a_plan_that_could_not_run_is_made_again_with_half_the_tokens():
    target, _ = scheduler()
    queue(target, 0, 40)
    turn = target.plan(0.0)
    again = target.replan(turn)

    assert [(c.start, c.count) for c in turn.chunks] == [(0, 16)]
    assert [(c.start, c.count) for c in again.chunks] == [(0, 8)]
    assert again.admitted == turn.admitted
