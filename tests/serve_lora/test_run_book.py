"""A run's book: every step charged to those in it, every event logged, and both agree with what the engine emitted."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.artifacts import Event, EventLog, read_events
from llmsys.engine.sequence import Request, SamplingParams
from llmsys.serve_lora.batch_session import MeteredEngine
from llmsys.serve_lora.ledger import VERSION, Ledger, Opening
from llmsys.serve_lora.plan_tap import PlanTap
from llmsys.serve_lora.prices import PriceList
from llmsys.serve_lora.run_book import RunBook
from llmsys.serve_lora.step_cost import StepModel
from llmsys.serve_lora.tenant_totals import quantile
from tests.serve_lora.stand_ins import Clock, Speller, engine_of

PRICES = PriceList(device_per_hour=3600.0)
STEP_S, GAP_S = 0.25, 0.125


class Metered:
    """A metered engine whose steps take STEP_S on a clock of its own."""

    def __init__(self, *, events=None, model=None):
        self.clock = Clock()
        opening = Opening(VERSION, devices=1, kv_token_bytes=1, prices=PRICES, unix_s=0.0)
        self.ledger = Ledger(opening, model=model or StepModel(), start_s=0.0)
        self.book = RunBook(self.ledger, events=events)
        self.tap = PlanTap(Speller(lambda: self.clock.pass_s(STEP_S)), rank_of={"fr": 8, "json": 16}.__getitem__)
        self.inner = engine_of(self.tap, adapters=("fr", "json"), clock=self.clock, on_event=self.book.on_event)
        self.engine = MeteredEngine(self.inner, self.tap, self.book, self.clock)

    def add(self, text, *, tenant="a", adapter=None, max_tokens=50):
        greedy = SamplingParams(temperature=0.0, max_tokens=max_tokens)
        return self.engine.add(Request(text, greedy, adapter=adapter, tenant=tenant, id=f"{tenant}:{text}"))

    def run(self):
        tokens = 0
        while self.inner.busy:
            tokens += sum(event.token_id >= 0 for event in self.engine.step())
            self.clock.pass_s(GAP_S)
        self.ledger.close()
        return tokens


requests = st.lists(
    st.tuples(
        st.text("abc", min_size=1, max_size=9), st.sampled_from(["a", "b", "c"]), st.sampled_from([None, "fr", "json"])
    ),
    min_size=1,
    max_size=12,
)


@settings(deadline=None, max_examples=40)
@given(requests)
def test_the_ledger_holds_every_second_and_every_token(given_requests):
    metered = Metered()
    for text, tenant, adapter in given_requests:
        metered.add(text, tenant=tenant, adapter=adapter)
    tokens = metered.run()

    windows = metered.ledger.windows
    parts = [part for window in windows for part in window.parts]
    charged_s = math.fsum(part.device_s for part in parts)
    other_s = math.fsum(window.overhead_s + window.idle_s for window in windows)
    assert math.isclose(charged_s + other_s, math.fsum(window.wall_s for window in windows), rel_tol=1e-9)
    assert sum(part.output_tokens for part in parts) == tokens
    summary = metered.book.summary(PRICES)
    cached = sum(row["cached_tokens"] for row in summary["tenants"])
    assert sum(part.prompt_tokens for part in parts) + cached == sum(len(text) for text, _, _ in given_requests)
    assert summary["output_tokens"] == tokens
    assert math.isclose(math.fsum(row["cost"] for row in summary["tenants"]), charged_s, rel_tol=1e-9)
    assert math.isclose(math.fsum(row["share"] for row in summary["tenants"]), 1.0, rel_tol=1e-9)


def test_time_between_steps_is_overhead_and_time_without_requests_is_idle():
    metered = Metered()
    metered.clock.pass_s(1.0)
    metered.add("ab")
    metered.run()
    metered.clock.pass_s(2.0)
    metered.add("a")
    metered.run()

    windows = metered.ledger.windows
    # "ab" and its end take 3 steps, "a" and its end 2; the gap after the last step is idle time, or not booked yet
    assert math.fsum(window.overhead_s for window in windows) == pytest.approx((2 + 1) * GAP_S)
    assert math.fsum(window.idle_s for window in windows) == pytest.approx(1.0 + 2.0 + GAP_S)
    assert sum(part.device_s for window in windows for part in window.parts) == pytest.approx(5 * STEP_S)


def test_a_tenant_alone_in_a_step_pays_all_of_it_and_two_alike_pay_half():
    metered = Metered()
    metered.add("aa", tenant="a", adapter="fr")
    metered.add("bb", tenant="b", adapter="fr")
    metered.run()

    rows = {row["tenant"]: row for row in metered.book.totals.rows(PRICES)}
    assert rows["a"]["cost"] == pytest.approx(rows["b"]["cost"])
    assert rows["a"]["cost"] == pytest.approx(4 * STEP_S / 2)  # the mark, two letters and the end: 4 steps


def test_a_higher_rank_costs_more():
    metered = Metered()
    metered.add("aa", tenant="small", adapter="fr")
    metered.add("bb", tenant="large", adapter="json")
    metered.run()

    rows = {row["tenant"]: row["cost"] for row in metered.book.totals.rows(PRICES)}
    assert rows["large"] > rows["small"]


def test_the_event_log_is_in_order_and_its_tokens_add_up(tmp_path):
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        log.write(Event(t_s=0.0, event="meta", policy="fcfs"))
        metered = Metered(events=log)
        metered.add("abc", tenant="a", adapter="fr", max_tokens=3)
        metered.add("d", tenant="b")
        tokens = metered.run()

    events = list(read_events(path))
    assert [event.event for event in events[:3]] == ["meta", "arrive", "arrive"]
    assert (events[1].adapter, events[1].n, events[1].prompt_tokens) == ("fr", 3, 3)
    assert sum(event.n for event in events if event.event == "token") == tokens == 5
    assert {(event.id, event.reason) for event in events if event.event == "finish"} == {
        ("a:abc", "length"),
        ("b:d", "stop"),
    }


def test_the_timeline_has_a_bar_per_step_and_per_request():
    metered = Metered()
    metered.add("ab", tenant="a")
    metered.run()

    spans = list(metered.book.spans())
    assert [(span.name, span.track) for span in spans] == [
        ("step", "engine"),
        ("step", "engine"),
        ("step", "engine"),
        ("a:ab waits", "a"),
        ("a:ab", "a"),
    ]
    assert spans[-2].start_s == 0.0
    assert spans[-2].duration_s + spans[-1].duration_s == pytest.approx(3 * STEP_S + 2 * GAP_S)


def test_first_tokens_are_timed_from_arrival():
    metered = Metered()
    metered.add("ab")
    metered.clock.pass_s(1.0)
    metered.run()

    (row,) = metered.book.totals.rows(PRICES)
    assert row["ttft_p50_s"] == row["ttft_p95_s"] == pytest.approx(1.0 + STEP_S)


def test_refused_requests_are_counted_for_their_tenant():
    metered = Metered()
    metered.book.refused("a")

    (row,) = metered.book.totals.table(PRICES)
    assert (row["requests"], row["failed"], row["ttft p50"]) == (1, 1, None)


@pytest.mark.parametrize(("q", "expected"), [(0.0, 1.0), (0.2, 1.0), (0.21, 2.0), (0.5, 3.0), (0.95, 5.0), (1.0, 5.0)])
def test_a_quantile_is_the_smallest_value_that_covers_its_share(q, expected):
    assert quantile([5.0, 3.0, 1.0, 2.0, 4.0], q) == expected
