"""Arguments that a model writes as plain text: what they are as JSON, by the tool's schema.

Knows no format.
"""

import ast
import json
from collections.abc import Mapping
from typing import Any, TypeAlias

__all__ = ["Schemas", "as_typed", "is_text"]

Schemas: TypeAlias = Mapping[str, Mapping[str, Any]]
"""The JSON schema of each tool's arguments, by the tool's name."""


def is_text(schemas: Schemas, tool: str, name: str) -> bool:
    """Whether an argument is a string, as everything is that no schema says more of."""
    return _types(schemas, tool, name) <= {"string"}


def as_typed(schemas: Schemas, tool: str, name: str, text: str) -> Any:  # noqa: ANN401 (a JSON value)
    """The value of an argument from its text: JSON or a Python literal where the schema allows one, else the text.

    >>> as_typed({"f": {"properties": {"n": {"type": "integer"}}}}, "f", "n", "3"), as_typed({}, "f", "n", "3")
    (3, '3')
    """
    if is_text(schemas, tool, name):
        return text
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return text


def _types(schemas: Schemas, tool: str, name: str) -> set[str]:
    properties = schemas.get(tool, {}).get("properties", {})
    declared = properties.get(name, {}).get("type", ()) if isinstance(properties, Mapping) else ()
    if name in properties and not declared:
        return {"any"}
    return {declared} if isinstance(declared, str) else set(declared)
