"""Many registered adapters: the same load whatever their number, every answer counted, pauses of another's stream."""

import pytest

from llmsys.errors import UsageFault
from llmsys.serve_lora.registered_bench import RegisteredBench, RegisteredPlan, registered_plan, zipf_numbers


class Ticks:
    """A clock that advances by one with every look."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        self.now_s += 1.0
        return self.now_s


def test_every_number_of_adapters_gets_the_same_load(tiny_model):
    plan = RegisteredPlan(
        (2, 40), model=str(tiny_model), requests=30, tokens=4, batch=4, slots=3, rank=2, dtype="float32"
    )
    heard = []

    few, many = rows = RegisteredBench(plan, clock=Ticks()).rows(heard.append)

    assert heard == rows
    assert (few.registered, many.registered) == (2, 40)
    assert (few.asked, many.asked) == (2, len(set(zipf_numbers(40, 30, seed=0))))
    assert (few.resident, many.resident) == (2, 3)
    assert (few.reads, many.reads) == (few.asked, many.asked)
    assert (few.late_reads, many.late_reads) == (0, 0)
    assert few.ratio == 1.0
    assert many.ratio == pytest.approx(many.output_tok_s / few.output_tok_s)
    for row in rows:
        assert 0 < row.ttft_p50_s <= row.ttft_p99_s
        assert 0 < row.pause_p50_s <= row.pause_p99_s <= row.pause_max_s
    remark = RegisteredBench(plan).remarks(rows)
    assert "40 registered adapters, 3 of them resident" in remark


def test_popular_adapters_are_asked_for_in_proportion():
    """30,000 draws: the first has twice the share of the second; six sigmas are 4 % of it."""
    drawn = zipf_numbers(100, 30_000, seed=3)

    assert drawn.count(0) / drawn.count(1) == pytest.approx(2, rel=0.15)
    assert max(drawn) < 100


@pytest.mark.parametrize("registered", ["", "0", "a", "1,", "1000000"])
def test_numbers_that_are_none_are_refused(registered):
    with pytest.raises(UsageFault, match="--registered"):
        registered_plan(registered, model="smollm2", batch=4)
