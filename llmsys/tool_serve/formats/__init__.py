"""How models write calls: one class per format, text in, events out."""

from llmsys.tool_serve.formats.openai_deltas import OpenAIDeltas
from llmsys.tool_serve.formats.table import FORMATS, format_of_template, open_parser
from llmsys.tool_serve.formats.typed import Schemas

__all__ = ["FORMATS", "OpenAIDeltas", "Schemas", "format_of_template", "open_parser"]
