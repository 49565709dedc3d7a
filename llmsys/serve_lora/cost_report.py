"""What a ledger adds up to: cost per tenant, adapter or hour, and the line that shows that nothing is missing.

Reads what `Ledger` wrote, also after a kill. Knows nothing of engines; money is device seconds and memory at the prices
of the ledger's opening, or at others.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from llmsys.artifacts import read_lines
from llmsys.errors import BadInput, UsageFault
from llmsys.serve_lora.ledger import VERSION, Opening, Part, Window
from llmsys.serve_lora.prices import PriceList

__all__ = ["GROUPINGS", "Balance", "CostReport", "CostRow", "LedgerRun", "read_ledger", "report_cost"]

BALANCE_TOLERANCE = 1e-9
_decode = msgspec.json.Decoder(Opening | Window).decode


@dataclass(slots=True)
class LedgerRun:
    """One run of a ledger file: its opening and its windows in order."""

    opening: Opening
    windows: list[Window]


@dataclass(slots=True)
class CostRow:
    """One line of the report; `group` maps each grouping to its value."""

    group: dict[str, str]
    device_s: float = 0.0
    kv_token_s: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0
    device_cost: float = 0.0
    memory_cost: float = 0.0

    @property
    def cost(self) -> float:
        """Device and memory together."""
        return self.device_cost + self.memory_cost


@dataclass(frozen=True, slots=True)
class Balance:
    """Device money: Σ rows + overhead + idle against devices × wall × price. `holds` to 1e-9 relative, every window."""

    charged: float
    overhead: float
    idle: float
    owed: float
    holds: bool


@dataclass(frozen=True, slots=True)
class CostReport:
    """The rows by falling cost, the balance, the currency and how many lines a kill had cut."""

    rows: list[CostRow]
    balance: Balance
    currency: str
    torn_lines: int

    def as_record(self) -> dict[str, object]:
        """The report as JSON values."""
        rows = [
            row.group | {k: v for k, v in asdict(row).items() if k != "group"} | {"cost": row.cost} for row in self.rows
        ]
        return {
            "currency": self.currency,
            "rows": rows,
            "balance": asdict(self.balance),
            "torn_lines": self.torn_lines,
        }

    def table(self) -> list[dict[str, str | int | float]]:
        """One row per group, with its share of the device seconds charged."""
        charged_s = math.fsum(row.device_s for row in self.rows)
        return [
            {
                **row.group,
                "prompt_tokens": row.prompt_tokens,
                "output_tokens": row.output_tokens,
                "device_s": row.device_s,
                "share": row.device_s / charged_s if charged_s > 0 else 0.0,
                "memory_cost": row.memory_cost,
                "cost": row.cost,
            }
            for row in self.rows
        ]

    def balance_line(self) -> str:
        """The balance as one sentence."""
        sums = self.balance
        total = sums.charged + sums.overhead + sums.idle
        verdict = "balances" if sums.holds else "DOES NOT BALANCE"
        cut = f"; {self.torn_lines} line(s) cut by a kill" if self.torn_lines else ""
        return (
            f"charged {sums.charged:.9g} + overhead {sums.overhead:.9g} + idle {sums.idle:.9g} = {total:.9g} of "
            f"{sums.owed:.9g} {self.currency} (devices × time × price): {verdict}{cut}"
        )


def _hour(run: LedgerRun, window: Window, _: Part) -> str:
    moment = datetime.fromtimestamp(run.opening.unix_s + window.start_s, UTC)
    return moment.strftime("%Y-%m-%dT%H:00Z")


GROUPINGS: dict[str, Callable[[LedgerRun, Window, Part], str]] = {
    "tenant": lambda _run, _window, part: part.tenant,
    "adapter": lambda _run, _window, part: part.adapter or "(base)",
    "hour": _hour,
}


def read_ledger(path: str | Path) -> tuple[list[LedgerRun], int]:
    """The runs of a ledger file and the number of cut lines.

    A line may be cut only where a run ended: at the end of the file or before an opening; elsewhere raises BadInput.
    """
    runs: list[LedgerRun] = []
    torn: list[tuple[int, str]] = []
    torn_since_run = 0
    for number, line in read_lines(path):
        try:
            record = _decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            torn.append((number, str(error)))
            torn_since_run += 1
            continue
        if isinstance(record, Opening) and record.version == VERSION:
            runs.append(LedgerRun(record, []))
            torn_since_run = 0
        elif isinstance(record, Window) and runs and not torn_since_run:
            runs[-1].windows.append(record)
        else:
            where, wrong = torn[-1] if torn_since_run else (number, "no opening record before it")
            raise BadInput(f"{path}:{where}", wrong, "a ledger that `serve-lora run --ledger` wrote")
    if not runs:
        raise BadInput(str(path), "no opening record", "a ledger that `serve-lora run --ledger` wrote")
    return runs, len(torn)


def read_ledgers(paths: Sequence[str | Path]) -> tuple[list[LedgerRun], int]:
    """The runs of several ledger files, as replicas of one server write them, and the number of cut lines in all."""
    found = [read_ledger(path) for path in paths]
    return [run for runs, _ in found for run in runs], sum(torn for _, torn in found)


def report_cost(
    runs: Iterable[LedgerRun],
    *,
    by: list[str],
    idle: str = "platform",
    prices: PriceList | None = None,
    torn_lines: int = 0,
) -> CostReport:
    """Add up runs by the groupings named.

    `idle`: `platform` keeps idle time and overhead as lines of their own; `spread` charges them to those who ran in
    the same window, in proportion to their device seconds; `owner` charges a window in which nobody ran to those who
    ran last, too: the device was kept warm for them. Raises UsageFault for an unknown grouping or mixed currencies.
    """
    _check_groupings(by)
    totals: dict[tuple[str, ...], CostRow] = {}
    owed: list[float] = []
    overhead: list[float] = []
    unused: list[float] = []
    holds = True
    currencies = set()
    for run in runs:
        price = prices or run.opening.prices
        currencies.add(price.currency)

        def row_of(window: Window, part: Part, run: LedgerRun = run) -> CostRow:
            key = tuple(GROUPINGS[name](run, window, part) for name in by)
            return totals.setdefault(key, CostRow(dict(zip(by, key, strict=True))))

        ran_last: list[Part] = []
        for window in run.windows:
            holds &= _balances(run.opening, window)
            owed.append(price.of_device(run.opening.devices * window.wall_s))
            for part in window.parts:
                _add(row_of(window, part), part, run.opening, price)
            ran = [part for part in window.parts if part.device_s > 0]
            ran_last = ran or ran_last
            bearers = {"platform": [], "spread": ran, "owner": ran_last}[idle]
            if bearers:
                each = price.of_device(window.overhead_s + window.idle_s) / math.fsum(one.device_s for one in bearers)
                for part in bearers:
                    row_of(window, part).device_cost += each * part.device_s
            else:
                overhead.append(price.of_device(window.overhead_s))
                unused.append(price.of_device(window.idle_s))
    if len(currencies) > 1:
        raise UsageFault(f"the ledger mixes currencies {', '.join(sorted(currencies))}; give --prices FILE.toml")
    rows = sorted(totals.values(), key=lambda row: (-row.cost, tuple(row.group.values())))
    balance = Balance(
        charged=math.fsum(row.device_cost for row in rows),
        overhead=math.fsum(overhead),
        idle=math.fsum(unused),
        owed=math.fsum(owed),
        holds=holds,
    )
    return CostReport(rows, balance, next(iter(currencies), ""), torn_lines)


def _check_groupings(by: list[str]) -> None:
    unknown = [name for name in by if name not in GROUPINGS]
    if unknown or not by:
        raise UsageFault(f"cannot group by {', '.join(unknown) or 'nothing'}; groupings: {', '.join(GROUPINGS)}")


def _balances(opening: Opening, window: Window) -> bool:
    """Whether a window's seconds add up, to BALANCE_TOLERANCE."""
    spent = math.fsum(part.device_s for part in window.parts) + window.overhead_s + window.idle_s
    return math.isclose(spent, opening.devices * window.wall_s, rel_tol=BALANCE_TOLERANCE)


def _add(row: CostRow, part: Part, opening: Opening, price: PriceList) -> None:
    row.device_s += part.device_s
    row.kv_token_s += part.kv_token_s
    row.prompt_tokens += part.prompt_tokens
    row.output_tokens += part.output_tokens
    row.device_cost += price.of_device(part.device_s)
    row.memory_cost += price.of_memory(part.kv_token_s * opening.kv_token_bytes)
