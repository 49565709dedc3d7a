"""Tools that run while the model still writes the call: events of its text, the bounds of what that can save."""

from llmsys.tool_serve.events import CallOpen, Event, Malformed, Parser, Passage, Sealed, Text, Unit, Value

__all__ = ["CallOpen", "Event", "Malformed", "Parser", "Passage", "Sealed", "Text", "Unit", "Value"]
