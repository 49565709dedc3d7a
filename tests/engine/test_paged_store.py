"""Pages of keys and values against a dictionary, under random writes, releases, prefix copies and rewinds."""

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from llmsys.engine.paged_store import PagedKV

PAGES, PAGE_TOKENS = 12, 4


def store_of(pages=PAGES, layers=2):
    return PagedKV(
        layers=layers,
        pages=pages,
        kv_heads=1,
        page_tokens=PAGE_TOKENS,
        head_dim=1,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )


class Pages(RuleBasedStateMachine):
    """The store must hold, for every sequence, exactly the tokens that were written for it."""

    def __init__(self):
        super().__init__()
        self.store = store_of()
        self.model = {}
        self.numbers = 0
        self.written = 0

    def write(self, number, start, count):
        self.store.prepare(number, start, start + count)
        for position in range(start, start + count):
            self.written += 1
            page = self.store.table(number)[position // PAGE_TOKENS]
            for index, layer in enumerate(self.store.layers):
                layer[page, :, 0, position % PAGE_TOKENS, 0] = torch.tensor([1.0, -1.0]) * (self.written + index)
            del self.model[number][position:]
            self.model[number].append(self.written)

    def fits(self, tokens):
        """Whether the worst case fits: every page that is touched copied, or taken anew."""
        return self.store.free_pages >= tokens // PAGE_TOKENS + 2

    @rule(count=st.integers(1, 11))
    def take(self, count):
        if self.fits(count):
            self.numbers += 1
            self.model[self.numbers] = []
            self.write(self.numbers, 0, count)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), count=st.integers(1, 6))
    def go_on(self, data, count):
        number = data.draw(st.sampled_from(sorted(self.model)))
        start = data.draw(st.integers(0, len(self.model[number])))
        if self.fits(count):
            self.write(number, start, count)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def release(self, data):
        number = data.draw(st.sampled_from(sorted(self.model)))
        self.store.release(number)
        del self.model[number]

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def copy_prefix(self, data):
        source = data.draw(st.sampled_from(sorted(self.model)))
        tokens = data.draw(st.integers(1, len(self.model[source])))
        if self.fits(0):
            self.numbers += 1
            self.store.copy_prefix(source, self.numbers, tokens)
            self.model[self.numbers] = self.model[source][:tokens]

    @invariant()
    def every_token_is_where_it_was_written(self):
        for number, tokens in self.model.items():
            for position, value in enumerate(tokens):
                page = self.store.table(number)[position // PAGE_TOKENS]
                for index, layer in enumerate(self.store.layers):
                    assert layer[page, :, 0, position % PAGE_TOKENS, 0].tolist() == [value + index, -value - index]

    @invariant()
    def pages_are_held_or_free(self):
        held = {page for number in self.model for page in self.store.table(number)}
        assert len(held) + self.store.free_pages == PAGES


Pages.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
TestPages = Pages.TestCase


def test_a_full_prefix_is_shared_and_takes_no_page():
    store = store_of()
    store.prepare(1, 0, 2 * PAGE_TOKENS)

    store.copy_prefix(1, 2, 2 * PAGE_TOKENS)

    assert list(store.table(2)) == list(store.table(1))
    assert store.free_pages == PAGES - 2


def test_more_tokens_than_pages_are_refused_and_release_helps():
    store = store_of(pages=2)
    store.prepare(1, 0, 2 * PAGE_TOKENS)

    with pytest.raises(ValueError, match="release a sequence"):
        store.prepare(2, 0, 1)
    store.release(1)
    store.prepare(2, 0, 2 * PAGE_TOKENS)

    assert len(store.table(2)) == 2


def test_an_unknown_sequence_is_released_without_a_word():
    store = store_of()

    store.release(7)

    assert store.free_pages == PAGES
