"""`calculator`: arithmetic without names, calls or unbounded work; and `sleep`, which waits.

Knows no tool but these two: neither gains anything from an early start.
"""

import ast
import asyncio
import math
import operator
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from llmsys.tool_serve.faults import ToolArgumentError
from llmsys.tool_serve.tools import tool

__all__ = ["calculator", "evaluate", "sleep"]

MAX_BITS = 4096
MAX_CHARS = 4096
MAX_SLEEP_S = 3600.0
BINARY: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
UNARY: Mapping[type[ast.unaryop], Callable[[Any], Any]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


def evaluate(expression: str) -> int | float:
    """The value of an expression of numbers, + - * / // % ** and parentheses. Raises ValueError for anything else.

    >>> evaluate("2 ** 10 - (3 + 1) / 2")
    1022.0
    """
    if len(expression) > MAX_CHARS:
        raise ValueError(f"{len(expression)} characters; expected at most {MAX_CHARS}")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
        return _value(tree.body)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"{expression!r} is no expression; expected numbers and + - * / // % **") from error
    except (ZeroDivisionError, OverflowError) as error:
        raise ValueError(str(error)) from error


def _value(node: ast.expr) -> int | float:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return _bounded(node.value)
    if isinstance(node, ast.UnaryOp) and type(node.op) in UNARY:
        return _bounded(UNARY[type(node.op)](_value(node.operand)))
    if isinstance(node, ast.BinOp) and type(node.op) in BINARY:
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Pow) and isinstance(left, int) and left.bit_length() * abs(right) > MAX_BITS:
            raise ValueError(f"a power of more than {MAX_BITS} bits")
        return _bounded(BINARY[type(node.op)](left, right))
    raise ValueError(f"{ast.unparse(node)!r}; expected numbers and + - * / // % **")


def _bounded(value: object) -> int | float:
    if not isinstance(value, int | float):
        raise ValueError(f"the result {value} is no real number")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"the result {value} is no finite number")
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise ValueError(f"a number of more than {MAX_BITS} bits")
    return value


@tool(effect="pure")
async def calculator(expression: str) -> str:
    """Evaluate an arithmetic expression such as (2 + 3) * 4."""
    try:
        return str(evaluate(expression))
    except ValueError as error:
        raise ToolArgumentError("$.expression", str(error)) from error


@tool(effect="pure", timeout_s=MAX_SLEEP_S + 60)
async def sleep(seconds: Annotated[float, "seconds"]) -> str:
    """Wait for a number of seconds, at most an hour."""
    if not (math.isfinite(seconds) and 0 <= seconds <= MAX_SLEEP_S):
        raise ToolArgumentError("$.seconds", f"{seconds}; expected 0 to {MAX_SLEEP_S:g}")
    await asyncio.sleep(seconds)
    return f"slept {seconds:g} s"
