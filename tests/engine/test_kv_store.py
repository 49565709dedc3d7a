"""Rows of keys and values against a dictionary, under random takes, releases, writes and prefix copies."""

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from llmsys.engine.kv_store import RowKV

ROWS = 5


class Rows(RuleBasedStateMachine):
    """The store must hold, for every sequence, exactly the tokens that were written for it."""

    def __init__(self):
        super().__init__()
        self.store = RowKV(layers=2, rows=ROWS, kv_heads=1, max_len=64, head_dim=16, dtype=torch.float32)
        self.model = {}
        self.numbers = 0

    @precondition(lambda self: len(self.model) < ROWS)
    @rule(length=st.integers(1, 64))
    def take(self, length):
        self.numbers += 1
        row = self.store.row(self.numbers)
        values = torch.randn(length, generator=torch.Generator().manual_seed(self.numbers))
        for layer in range(2):
            self.store.keys[layer][row, 0, :length, 0] = values + layer
            self.store.values[layer][row, 0, :length, 0] = -values - layer
        self.store.filled(self.numbers, length)
        self.model[self.numbers] = values

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def release(self, data):
        number = data.draw(st.sampled_from(sorted(self.model)))
        self.store.release(number)
        del self.model[number]

    @precondition(lambda self: 0 < len(self.model) < ROWS)
    @rule(data=st.data())
    def copy_prefix(self, data):
        source = data.draw(st.sampled_from(sorted(self.model)))
        tokens = data.draw(st.integers(1, len(self.model[source])))
        self.numbers += 1
        self.store.copy_prefix(source, self.numbers, tokens)
        self.model[self.numbers] = self.model[source][:tokens]

    @invariant()
    def every_sequence_reads_what_was_written(self):
        assert set(self.store.held()) == set(self.model)
        rows = {number: self.store.row(number) for number in self.model}
        assert sorted(rows.values()) == list(range(len(rows)))
        for number, values in self.model.items():
            for layer in range(2):
                assert torch.equal(values + layer, self.store.keys[layer][rows[number], 0, : len(values), 0])
                assert torch.equal(-values - layer, self.store.values[layer][rows[number], 0, : len(values), 0])


TestRows = Rows.TestCase
TestRows.settings = settings(max_examples=60, deadline=None)


def test_a_released_row_is_handed_back_to_the_machine():
    store = RowKV(layers=1, rows=2, kv_heads=1, max_len=64, head_dim=16, dtype=torch.float32)
    store.keys[0][store.row(7)] = 1.0

    store.release(7)

    assert float(store.keys[0].abs().sum()) == 0.0


def test_an_unknown_sequence_is_released_without_complaint():
    store = RowKV(layers=1, rows=1, kv_heads=1, max_len=64, head_dim=16, dtype=torch.float32)
    store.release(99)

    assert store.held() == ()
