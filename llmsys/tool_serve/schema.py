"""Calls held against their tools' schemas while they are written: an argument that is wrong is known when it ends.

`Checked` stands between a parser and a turn: what an argument's own schema refuses makes the call Malformed at once,
and so does the whole schema at the seal. An early refusal implies the final one, unless the model writes a key twice.
Knows no tool.
"""

from collections.abc import Mapping
from typing import Any

from llmsys.gpu import require
from llmsys.tool_serve.events import CallOpen, Event, Malformed, Parser, Passage, Sealed, Value
from llmsys.tool_serve.formats import Schemas

__all__ = ["ArgumentSchema", "Checked"]


class ArgumentSchema:
    """One tool's schema, compiled. Raises ValueError for what is no JSON schema."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        kit = require("jsonschema")
        kind = kit.validators.validator_for(schema, default=kit.Draft202012Validator)
        try:
            kind.check_schema(schema)
        except kit.SchemaError as error:
            raise ValueError(f"{error.message}; expected a JSON schema") from error
        self._whole = kind(schema)
        properties = schema.get("properties", {})
        self._parts = {name: self._whole.evolve(schema=part) for name, part in properties.items()}
        self._closed = schema.get("additionalProperties") is False and "patternProperties" not in schema

    def fault_of_argument(self, name: str, value: object) -> str | None:
        """Why an argument makes the call invalid whatever else comes; None where nothing is known against it."""
        part = self._parts.get(name)
        if part is None:
            known = ", ".join(self._parts) or "none"
            return f"$.{name} is no argument; expected {known}" if self._closed else None
        return _first_fault(part, value, f"$.{name}")

    def fault(self, args: Mapping[str, Any]) -> str | None:
        """Why the arguments are not valid; None if they are."""
        return _first_fault(self._whole, dict(args), "$")


class Checked:
    """A parser whose calls are valid when they are sealed; others are Malformed, where their first fault is known."""

    def __init__(self, parser: Parser, schemas: Schemas) -> None:
        """Raises ValueError for a schema that is none, naming its tool."""
        self._parser = parser
        self._schemas: dict[str, ArgumentSchema] = {}
        for name, schema in schemas.items():
            try:
                self._schemas[name] = ArgumentSchema(schema)
            except ValueError as error:
                raise ValueError(f"tool {name}: {error}") from error
        self._names: dict[int, str] = {}
        self._refused: set[int] = set()

    def feed(self, text: str) -> list[Event]:
        """As `Parser` says."""
        return self.check(self._parser.feed(text))

    def close(self) -> list[Event]:
        """As `Parser` says."""
        return self.check(self._parser.close())

    def check(self, events: list[Event]) -> list[Event]:
        """The events, up to the first fault of each call."""
        found: list[Event] = []
        for event in events:
            if isinstance(event, Passage):
                found.append(event)
            elif event.call not in self._refused:
                if isinstance(event, CallOpen):
                    self._names[event.call] = event.name
                fault = self._fault(event)
                if fault is not None:
                    self._refused.add(event.call)
                    event = Malformed(event.call, fault, "", event.offset)  # noqa: PLW2901 (what is told in its place)
                found.append(event)
        return found

    def _fault(self, event: Event) -> str | None:
        if not isinstance(event, Value | Sealed):
            return None
        schema = self._schemas.get(self._names.get(event.call, ""))
        if schema is None:
            return None
        if isinstance(event, Sealed):
            return schema.fault(event.args)
        return schema.fault_of_argument(str(event.path[0]), event.value) if len(event.path) == 1 else None


def _first_fault(validator: Any, value: object, path: str) -> str | None:  # noqa: ANN401 (a jsonschema validator)
    fault = next(validator.iter_errors(value), None)
    if fault is None:
        return None
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault.absolute_path)
    return f"{path}{place}: {fault.message[:200]}"
