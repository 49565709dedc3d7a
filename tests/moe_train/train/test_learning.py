"""The model learns on real text: 300 steps on CPython's help against the byte model that looks two bytes back."""

import math
from collections import Counter, defaultdict

import pytest

from llmsys.moe_train.train import ModelShape, RunConfig, Trainer, evaluate, open_run, read_corpus

SMOOTHINGS = (0.003, 0.01, 0.03, 0.1, 1.0)


def order_two_bits(train, held_out):
    """Bits per byte of the best additive smoothing of P(byte | two bytes before)."""
    table = defaultdict(Counter)
    for before, last, byte in zip(train, train[1:], train[2:], strict=False):
        table[before, last][byte] += 1
    sums = {key: row.total() for key, row in table.items()}

    def bits(added):
        found = 0.0
        for before, last, byte in zip(held_out, held_out[1:], held_out[2:], strict=False):
            row = table.get((before, last), Counter())
            found -= math.log2((row[byte] + added) / (sums.get((before, last), 0) + 256 * added))
        return found / (len(held_out) - 2)

    return min(map(bits, SMOOTHINGS))


def test_the_order_two_model_finds_what_two_bytes_tell():
    text = list(b"abcd" * 1000)

    assert order_two_bits(text, text) < 0.01
    assert order_two_bits(list(range(256)) * 4, list(b"zyxw" * 9)) > 7.9


@pytest.mark.slow
def test_three_hundred_steps_beat_the_order_two_model_on_held_out_text(nursery, tmp_path):
    config = RunConfig(
        model=ModelShape(),
        steps=300,
        seq=128,
        batch=16,
        lr=4e-3,
        workers=2,
        min_replicas=1,
        heartbeat_s=60.0,
        faults="150:kill:1;151:add:1",
        slots=8,
        out=str(tmp_path),
    )
    events = list(Trainer(config).run(nursery))
    corpus = read_corpus()
    found = evaluate(open_run(tmp_path)[0], corpus.held_out)
    floor = order_two_bits(corpus.train.tolist(), corpus.held_out.tolist())

    assert events[-1]["steps"] == found.step == 300
    assert found.bits_per_byte < floor - 0.2
