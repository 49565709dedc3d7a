"""Every device second is somebody's, in every window, and a ledger read back says what was written."""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from llmsys.errors import BadInput, UsageFault
from llmsys.serve_lora.cost_report import read_ledger, report_cost
from llmsys.serve_lora.ledger import Ledger, Opening, Window
from llmsys.serve_lora.prices import PriceList
from llmsys.serve_lora.step_cost import StepModel, StepRow

PRICES = PriceList(currency="USD", device_per_hour=3.6, host_ram_gb_per_hour=0.36)


def opening(*, devices: int = 1, prices: PriceList = PRICES) -> Opening:
    return Opening(version=1, devices=devices, kv_token_bytes=1_000_000, prices=prices, unix_s=7200.0)


def row(request: int, tenant: str, adapter: str = "", **tokens: int) -> StepRow:
    return StepRow(request, tenant, adapter, 8 if adapter else 0, **tokens)


def balanced(devices: int, window: Window) -> bool:
    spent = math.fsum(part.device_s for part in window.parts) + window.overhead_s + window.idle_s
    return math.isclose(spent, devices * window.wall_s, rel_tol=1e-9)


class AnyRun(RuleBasedStateMachine):
    """Steps of any length and mixture, with gaps between them."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.ledger = Ledger(opening(devices=3), model=StepModel(), start_s=self.now_s)

    @rule(
        seconds=st.floats(1e-3, 3.0),
        tenants=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["", "fr"])), min_size=1, max_size=5),
        tokens=st.integers(1, 300),
    )
    def step(self, seconds, tenants, tokens):
        rows = [row(at, tenant, adapter, prefill_tokens=tokens) for at, (tenant, adapter) in enumerate(tenants)]
        self.now_s += seconds
        shares = self.ledger.charge(self.now_s, rows, output_tokens=[1] * len(rows))
        assert math.isclose(math.fsum(shares), 3 * seconds, rel_tol=1e-9)

    @rule(seconds=st.floats(0, 3.0), busy=st.booleans())
    def gap(self, seconds, busy):
        self.now_s += seconds
        self.ledger.wait(self.now_s, in_flight=busy)

    @invariant()
    def every_window_balances_and_none_overlaps(self):
        windows = self.ledger.windows
        assert all(balanced(3, window) for window in windows)
        starts = [window.start_s for window in windows]
        ends = [window.start_s + window.wall_s for window in windows]
        assert all(math.isclose(end, start, rel_tol=1e-12) for end, start in zip(ends, starts[1:], strict=False))

    def teardown(self):
        self.ledger.close()
        wall_s = math.fsum(window.wall_s for window in self.ledger.windows)
        assert math.isclose(wall_s, self.now_s, rel_tol=1e-9)


TestAnyRun = AnyRun.TestCase


def written(path, *, prices: PriceList = PRICES) -> None:
    with Ledger(opening(prices=prices), model=StepModel(), start_s=0.0, path=path) as ledger:
        ledger.charge(0.5, [row(0, "a", "fr", prefill_tokens=9), row(1, "b", decode_tokens=1)], output_tokens=[0, 1])
        ledger.wait(0.6, in_flight=True)
        ledger.wait(1.6, in_flight=False)
        ledger.charge(2.0, [row(0, "a", "fr", decode_tokens=1, context_tokens=10)], output_tokens=[1])


def test_a_ledger_read_back_balances_and_prices_each_tenant(tmp_path):
    written(tmp_path / "ledger.jsonl")
    runs, torn = read_ledger(tmp_path / "ledger.jsonl")

    report = report_cost(runs, by=["tenant", "adapter"], torn_lines=torn)

    assert [row.group for row in report.rows] == [
        {"tenant": "a", "adapter": "fr"},
        {"tenant": "b", "adapter": "(base)"},
    ]
    assert report.currency == "USD"
    assert report.balance.holds
    assert report.balance.owed == pytest.approx(2.0 * 3.6 / 3600)
    assert report.balance.idle == pytest.approx(1.0 * 3.6 / 3600)
    assert report.balance.overhead == pytest.approx(0.1 * 3.6 / 3600)
    assert report.balance.charged == pytest.approx(0.9 * 3.6 / 3600)
    assert [(row.prompt_tokens, row.output_tokens) for row in report.rows] == [(9, 1), (0, 1)]
    # 10 tokens of 1 MB for 0.4 s
    assert report.rows[0].memory_cost == pytest.approx(10e6 * 0.4 / 1e9 / 3600 * 0.36)


def test_spread_charges_idle_time_to_those_who_ran(tmp_path):
    written(tmp_path / "ledger.jsonl")
    runs, _ = read_ledger(tmp_path / "ledger.jsonl")

    report = report_cost(runs, by=["tenant"], idle="spread")

    assert report.balance.charged == pytest.approx(report.balance.owed, rel=1e-9)
    assert report.balance.idle == report.balance.overhead == 0


def test_an_owner_pays_for_the_time_in_which_the_device_was_kept_warm_for_it(tmp_path):
    with Ledger(opening(prices=PRICES), model=StepModel(), start_s=0.0, path=tmp_path / "ledger.jsonl") as ledger:
        ledger.wait(2.0, in_flight=False)
        ledger.charge(3.0, [row(0, "a", decode_tokens=1)], output_tokens=[1])
        ledger.wait(7.0, in_flight=False)
        ledger.charge(8.0, [row(1, "b", decode_tokens=1)], output_tokens=[1])
    runs, _ = read_ledger(tmp_path / "ledger.jsonl")

    paid = {}
    for idle in ("platform", "spread", "owner"):
        report = report_cost(runs, by=["tenant"], idle=idle)
        balance = report.balance
        paid[idle] = {one.group["tenant"]: one.device_cost * 1000 for one in report.rows} | {"": balance.idle * 1000}
        assert balance.charged + balance.overhead + balance.idle == pytest.approx(balance.owed, rel=1e-9)

    assert paid["platform"] == pytest.approx({"a": 1.0, "b": 1.0, "": 6.0})
    assert paid["owner"][""] == pytest.approx(2.0)
    assert paid["owner"]["a"] > paid["owner"]["b"]
    assert paid["spread"][""] > paid["owner"][""]


def test_other_prices_and_hours_can_be_asked_for(tmp_path):
    written(tmp_path / "ledger.jsonl")
    runs, _ = read_ledger(tmp_path / "ledger.jsonl")

    report = report_cost(runs, by=["hour"], prices=PriceList("EUR", device_per_hour=7200.0))

    assert [row.group["hour"] for row in report.rows] == ["1970-01-01T02:00Z"]
    assert (report.currency, report.balance.owed) == ("EUR", pytest.approx(4.0))


@given(data=st.data())
def test_a_ledger_cut_anywhere_keeps_every_whole_window(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("ledger") / "ledger.jsonl"
    written(path)
    whole = path.read_bytes()
    first_line = whole.index(b"\n") + 1
    cut = data.draw(st.integers(first_line, len(whole) - 1))
    path.write_bytes(whole[:cut])

    runs, torn = read_ledger(path)
    kept = whole[:cut].count(b"\n") - 1
    assert len(runs[0].windows) - kept in (0, 1)  # 1: only the newline is missing
    assert torn == (not whole[:cut].endswith(b"\n") and len(runs[0].windows) == kept)

    written(path)
    runs, torn_later = read_ledger(path)
    assert [len(run.windows) for run in runs] == [kept + (len(runs[0].windows) - kept), 2]
    assert torn_later == torn


def test_a_damaged_line_in_the_middle_is_refused_by_number(tmp_path):
    path = tmp_path / "ledger.jsonl"
    written(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], lines[1][: len(lines[1]) // 2] + b"\n", *lines[2:]]))

    with pytest.raises(BadInput, match=r"ledger\.jsonl:2"):
        read_ledger(path)


@pytest.mark.parametrize("content", [b"", b"{}\n", b'{"kind":"window"}\n', b"\x80\n"])
def test_a_file_that_is_no_ledger_is_refused(tmp_path, content):
    path = tmp_path / "other.jsonl"
    path.write_bytes(content)

    with pytest.raises(BadInput, match="expected a ledger"):
        read_ledger(path)


def test_mixed_currencies_need_one_price_list(tmp_path):
    path = tmp_path / "ledger.jsonl"
    written(path)
    written(path, prices=PriceList("EUR"))
    runs, _ = read_ledger(path)

    with pytest.raises(UsageFault, match="EUR, USD"):
        report_cost(runs, by=["tenant"])
    assert report_cost(runs, by=["tenant"], prices=PRICES).balance.holds


@pytest.mark.parametrize("by", [[], ["tennant"]])
def test_an_unknown_grouping_names_the_known_ones(by):
    with pytest.raises(UsageFault, match="tenant, adapter, hour"):
        report_cost([], by=by)


def test_a_window_that_does_not_balance_is_said_so(tmp_path):
    path = tmp_path / "ledger.jsonl"
    written(path)
    lines = path.read_bytes().splitlines()
    window = msgspec.json.decode(lines[1])
    window["idle_s"] += 1e-3
    path.write_bytes(b"\n".join([lines[0], msgspec.json.encode(window), *lines[2:]]) + b"\n")
    runs, _ = read_ledger(path)

    assert not report_cost(runs, by=["tenant"]).balance.holds


def test_time_that_runs_back_is_refused():
    ledger = Ledger(opening(), model=StepModel(), start_s=1.0)

    with pytest.raises(ValueError, match="runs back"):
        ledger.wait(0.5, in_flight=False)
