"""When a call may do what: five gates along the stream of a call, and which of them each step of a tool waits for.

    effect       begin     feed      finish    commit
    pure         named     named     sealed    -
    staged       named     named     sealed    turn, in call order; else rollback, once
    idempotent   named     sealed    sealed    -
    effectful    named     turn      turn      -          in call order

A policy and `--speculate` move gates later, never earlier. Knows no tool and no clock.
"""

from dataclasses import dataclass
from enum import IntEnum, StrEnum

__all__ = ["Effect", "Gate", "GatePlan", "Policy", "Speculate", "plan_gates"]


class Effect(StrEnum):
    """What a tool does to the world; `effectful` is what an undeclared tool counts as."""

    PURE = "pure"
    STAGED = "staged"
    IDEMPOTENT = "idempotent"
    EFFECTFUL = "effectful"


class Policy(StrEnum):
    """When calls start: while they are written, when they are sealed, or one by one after the turn."""

    PARTIAL = "partial"
    SEAL = "seal"
    BLOCKING = "blocking"


class Speculate(StrEnum):
    """What may happen before a call is sealed: nothing, warm-up, what pure tools do, what every tool declares."""

    OFF = "off"
    WARM = "warm"
    PURE = "pure"
    DECLARED = "declared"


class Gate(IntEnum):
    """Points that a call passes in this order: its tool is named, it is complete and valid, its message has ended."""

    NAMED = 0
    SEALED = 1
    TURN = 2


@dataclass(frozen=True, slots=True)
class GatePlan:
    """The gate that each step waits for. `commit` is None for tools that have nothing to commit."""

    begin: Gate
    feed: Gate
    finish: Gate
    commit: Gate | None = None

    def no_earlier_than(self, gate: Gate) -> "GatePlan":
        """The same with every step at `gate` or later."""
        commit = None if self.commit is None else max(gate, self.commit)
        return GatePlan(max(gate, self.begin), max(gate, self.feed), max(gate, self.finish), commit)


DECLARED = {
    Effect.PURE: GatePlan(Gate.NAMED, Gate.NAMED, Gate.SEALED),
    Effect.STAGED: GatePlan(Gate.NAMED, Gate.NAMED, Gate.SEALED, Gate.TURN),
    Effect.IDEMPOTENT: GatePlan(Gate.NAMED, Gate.SEALED, Gate.SEALED),
    Effect.EFFECTFUL: GatePlan(Gate.NAMED, Gate.TURN, Gate.TURN),
}


def plan_gates(effect: Effect, policy: Policy, speculate: Speculate = Speculate.DECLARED) -> GatePlan:
    """The gates of a tool's steps under a policy.

    >>> plan_gates(Effect.IDEMPOTENT, Policy.PARTIAL).feed.name
    'SEALED'
    """
    plan = DECLARED[effect]
    if policy is Policy.BLOCKING:
        return plan.no_earlier_than(Gate.TURN)
    if policy is Policy.SEAL or speculate is Speculate.OFF:
        return plan.no_earlier_than(Gate.SEALED)
    if speculate is Speculate.DECLARED or (speculate is Speculate.PURE and effect is Effect.PURE):
        return plan
    if effect is Effect.STAGED:  # its begin opens a transaction: more than warm-up
        return plan.no_earlier_than(Gate.SEALED)
    return GatePlan(plan.begin, max(Gate.SEALED, plan.feed), plan.finish, plan.commit)
