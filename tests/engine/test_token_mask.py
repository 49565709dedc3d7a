"""Bits of allowed tokens made into logits, against a mask spread bit by bit; and what is imported for it."""

import ctypes
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmsys.engine.token_mask import TokenMask


class Allowing:
    """A matcher that allows these tokens."""

    def __init__(self, tokens):
        self.tokens = tokens

    def unsafe_compute_mask_ptr(self, trg_pointer, trg_bytes):
        bits = sum(1 << token for token in self.tokens)
        ctypes.memmove(trg_pointer, bits.to_bytes(trg_bytes, "little"), trg_bytes)


@given(data=st.data(), vocab=st.integers(1, 200))
def test_allowed_tokens_keep_their_logits_to_the_bit_and_no_other_can_be_drawn(data, vocab):
    mask, logits = TokenMask(vocab), torch.randn(vocab)
    for _ in range(2):  # the second answer must not see the first one's bits
        allowed = data.draw(st.sets(st.integers(0, vocab - 1)))
        found = logits.clone()
        mask.apply(Allowing(allowed), found)

        expected = [float(logits[token]) if token in allowed else -float("inf") for token in range(vocab)]
        assert found.tolist() == expected


def test_a_row_longer_than_the_mask_is_refused():
    with pytest.raises(ValueError, match="a row of 65 logits; expected at most 64"):
        TokenMask(64).apply(Allowing({1}), torch.zeros(65))


def test_masks_of_llguidance_do_not_import_torchs_compiler():
    """Two threads that import the compiler at once see half of it: a server's first JSON answers did."""
    program = (
        "import sys, torch\n"
        "from types import SimpleNamespace\n"
        "from llmsys.engine.json_grammar import JsonGrammar\n"
        "tokenizer = SimpleNamespace(as_json=lambda: 'byte', eos_ids={261})\n"
        "mask = JsonGrammar(tokenizer).mask({'type': 'object'}, prompt_tokens=1, vocab=262)\n"
        "logits = torch.zeros(262)\n"
        "mask((5,), logits)\n"
        "print(logits.isfinite().nonzero().flatten().tolist(), 'torch._dynamo' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)

    assert (done.stdout, done.returncode) == ("[123] False\n", 0), done.stderr
