import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from llmsys.engine.block_manager import BlockManager, prefix_root

BASE = prefix_root(b"model", b"", "")


class Ledger:
    """A store that remembers which rows exist and what was copied."""

    def __init__(self):
        self.released, self.copies = [], []

    def release(self, sequence_id):
        self.released.append(sequence_id)

    def copy_prefix(self, source_id, target_id, tokens):
        self.copies.append((source_id, target_id, tokens))


def manager(*, blocks=8, block_tokens=4, rows=8, **options):
    store = Ledger()
    return BlockManager(store, blocks=blocks, block_tokens=block_tokens, rows=rows, **options), store


def run(blocks, sequence_id, ids, *, root=BASE, reserve=None):
    cached = blocks.allocate(sequence_id, root, ids, reserve or len(ids))
    if cached is not None:
        blocks.advance(sequence_id, ids, len(ids))
    return cached


def test_a_finished_sequence_leaves_its_prefix_for_the_next(parts):
    blocks, store = manager()
    run(blocks, 1, list(range(10)))
    blocks.free(1)

    assert blocks.counts.cached == 3
    assert run(blocks, 2, [*range(8), 99, 98]) == 8
    assert store.copies == [(1, 2, 8)]
    parts.check_blocks(blocks)


def test_the_last_token_is_always_left_to_compute():
    blocks, _ = manager()
    run(blocks, 1, list(range(8)))

    assert run(blocks, 2, list(range(8))) == 4


@pytest.mark.parametrize(
    "other",
    [prefix_root(b"other", b"", ""), prefix_root(b"model", b"fr@1", ""), prefix_root(b"model", b"", "salt")],
    ids=["model", "adapter", "salt"],
)
def test_another_model_adapter_or_salt_shares_nothing(other):
    blocks, store = manager()
    run(blocks, 1, list(range(8)))

    assert run(blocks, 2, list(range(9)), root=other) == 0
    assert not store.copies


def test_roots_do_not_run_into_each_other():
    assert prefix_root(b"ab", b"c", "") != prefix_root(b"a", b"bc", "")
    assert prefix_root(b"a", b"", "b") != prefix_root(b"a", b"b", "")


def test_equal_blocks_after_different_beginnings_are_not_the_same_prefix():
    blocks, store = manager()
    run(blocks, 1, [1, 1, 1, 1, 5, 6, 7, 8])

    assert run(blocks, 2, [2, 2, 2, 2, 5, 6, 7, 8, 9]) == 0
    assert not store.copies


def test_tokens_that_are_not_computed_yet_are_not_offered():
    blocks, _ = manager()
    blocks.allocate(1, BASE, list(range(8)), 8)
    blocks.advance(1, list(range(8)), 5)

    assert run(blocks, 2, list(range(9))) == 4


def test_the_least_recently_used_prefix_goes_first():
    blocks, store = manager(blocks=6)
    for number, ids in enumerate(([1] * 8, [2] * 8)):
        run(blocks, number, ids)
        blocks.free(number)
    run(blocks, 2, [1] * 4 + [3])
    blocks.free(2)

    assert blocks.allocate(3, BASE, [9] * 8, 8) == 0
    assert store.released == [1]


def test_copies_are_charged_and_shared_blocks_are_counted_once(parts):
    for shared, referenced in ((False, 6), (True, 4)):
        blocks, _ = manager(shared=shared)
        run(blocks, 1, list(range(9)))
        run(blocks, 2, [*range(8), 77])

        assert referenced == blocks.counts.referenced
        parts.check_blocks(blocks)


def test_a_fork_takes_over_the_half_filled_block_too():
    blocks, store = manager(prefix_cache=False)
    run(blocks, 1, list(range(7)))

    assert blocks.allocate(2, BASE, list(range(8)), 8, source=(1, 7)) == 7
    assert store.copies == [(1, 2, 7)]


def test_a_fork_takes_nothing_past_the_point_where_it_left():
    blocks, _ = manager(prefix_cache=False)
    run(blocks, 1, list(range(12)))

    assert blocks.allocate(2, BASE, [*range(5), 90, 91], 7, source=(1, 5)) == 5


def test_a_retained_sequence_that_comes_back_needs_no_copy():
    blocks, store = manager()
    run(blocks, 1, list(range(7)))
    blocks.free(1)

    assert blocks.allocate(1, BASE, list(range(9)), 9) == 7
    assert not store.copies


def test_a_retained_sequence_that_comes_back_with_another_adapter_starts_anew():
    blocks, store = manager()
    run(blocks, 1, list(range(7)))
    blocks.free(1)

    assert blocks.allocate(1, prefix_root(b"model", b"fr@2", ""), list(range(9)), 9) == 0
    assert store.released == [1]


def test_no_room_changes_nothing():
    blocks, store = manager(blocks=4)
    run(blocks, 1, list(range(12)))
    before = blocks.counts, list(blocks.tables())

    assert blocks.allocate(2, BASE, [5] * 8, 8) is None
    assert not blocks.grow(1, 20)
    assert before == (blocks.counts, list(blocks.tables()))
    assert not store.released


def test_a_sequence_that_fits_alone_fits_even_if_its_own_prefix_is_in_the_way():
    blocks, store = manager(blocks=4)
    run(blocks, 1, list(range(12)))
    blocks.free(1)

    assert blocks.allocate(2, BASE, [*range(8), *range(50, 57)], 16) == 0
    assert store.released == [1]


def test_rows_are_a_limit_of_their_own():
    blocks, store = manager(blocks=100, rows=2)
    run(blocks, 1, [1] * 4)
    run(blocks, 2, [2] * 4)

    assert blocks.allocate(3, BASE, [3] * 4, 4) is None
    blocks.free(1)
    assert blocks.allocate(3, BASE, [3] * 4, 4) == 0
    assert store.released == [1]


@pytest.mark.parametrize(("keep", "prefix_cache"), [(False, True), (True, False)])
def test_what_must_not_be_kept_is_gone_at_once(keep, prefix_cache):
    blocks, store = manager(prefix_cache=prefix_cache)
    run(blocks, 1, list(range(8)))
    blocks.free(1, keep=keep)

    assert (blocks.counts.free, blocks.counts.cached, blocks.counts.referenced) == (8, 0, 0)
    assert store.released == [1]
    assert run(blocks, 2, list(range(9))) == 0


def test_a_table_in_use_cannot_be_allocated_twice():
    blocks, _ = manager()
    run(blocks, 1, [1])

    with pytest.raises(ValueError, match="already has a table"):
        blocks.allocate(1, BASE, [1], 1)


@pytest.mark.parametrize("field", ["blocks", "block_tokens", "rows"])
def test_sizes_below_one_are_refused(field):
    with pytest.raises(ValueError, match="expected 1 or more"):
        manager(**{field: 0})


def machine(check_blocks, *, shared):
    """Random calls against a model that knows each live sequence's tokens and what its row holds."""

    class Machine(RuleBasedStateMachine):
        def __init__(self):
            super().__init__()
            self.rows = {}
            self.blocks = BlockManager(self, blocks=12, block_tokens=3, rows=5, shared=shared)
            self.live = {}
            self.left = {}
            self.number = 0

        def release(self, sequence_id):
            self.rows.pop(sequence_id, None)

        def copy_prefix(self, source_id, target_id, tokens):
            self.rows[target_id] = self.rows[source_id][:tokens]
            assert tokens == len(self.rows[target_id])

        def start(self, number, ids, root, source=None):
            cached = self.blocks.allocate(number, root, ids, len(ids) + 1, source=source)
            if cached is None:
                return False
            assert cached < len(ids)
            held = self.rows.setdefault(number, [])
            assert [(root, t) for t in ids[:cached]] == held[:cached]
            self.live[number] = (ids, root, cached)
            return True

        @rule(ids=st.lists(st.integers(0, 1), min_size=1, max_size=20), root=st.sampled_from([BASE, b"other"]))
        def add(self, ids, root):
            self.number += 1
            self.start(self.number, ids, root)

        @precondition(lambda self: self.live)
        @rule(data=st.data())
        def compute(self, data):
            number = data.draw(st.sampled_from(sorted(self.live)))
            ids, root, done = self.live[number]
            done = data.draw(st.integers(done, len(ids)))
            self.rows[number] = [(root, t) for t in ids[:done]]
            self.blocks.advance(number, ids, done)
            self.live[number] = (ids, root, done)

        @precondition(lambda self: self.live)
        @rule(data=st.data(), token=st.integers(0, 1))
        def decode(self, data, token):
            number = data.draw(st.sampled_from(sorted(self.live)))
            ids, root, done = self.live[number]
            if self.blocks.grow(number, len(ids) + 1):
                self.live[number] = ([*ids, token], root, done)

        @precondition(lambda self: self.live)
        @rule(data=st.data(), token=st.integers(0, 1))
        def fork(self, data, token):
            number = data.draw(st.sampled_from(sorted(self.live)))
            ids, root, _ = self.live[number]
            self.number += 1
            self.start(self.number, [*ids, token], root, (number, len(ids)))

        @precondition(lambda self: self.live)
        @rule(data=st.data(), keep=st.booleans())
        def free(self, data, keep):
            number = data.draw(st.sampled_from(sorted(self.live)))
            ids, root, _ = self.live.pop(number)
            self.left[number] = (ids, root)
            self.blocks.free(number, keep=keep)

        @precondition(lambda self: self.left)
        @rule(data=st.data(), token=st.integers(0, 1))
        def come_back(self, data, token):
            number = data.draw(st.sampled_from(sorted(self.left)))
            ids, root = self.left[number]
            if self.start(number, [*ids, token], root):
                del self.left[number]

        @invariant()
        def counts_are_exact(self):
            check_blocks(self.blocks)

        @invariant()
        def rows_are_those_with_tables(self):
            tables = {number for number, _, _ in self.blocks.tables()}
            assert set(self.live) <= tables
            assert set(self.rows) <= tables
            assert len(tables) <= 5
            assert all(self.blocks.in_use(number) == (number in self.live) for number in tables)

    return Machine


@pytest.mark.parametrize("shared", [False, True])
def test_accounting_is_exact_under_any_order_of_calls(parts, shared):
    run_state_machine_as_test(
        machine(parts.check_blocks, shared=shared),
        settings=settings(max_examples=80, stateful_step_count=40, deadline=None),
    )
