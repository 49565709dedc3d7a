"""Every file format that crosses a command boundary: one module per format."""

from llmsys.artifacts.atomic import replace_file, replace_path, sync_directory
from llmsys.artifacts.compressed import open_source, write_compressed
from llmsys.artifacts.events import EVENT_KINDS, Event, EventLog, TimedRecord, read_events
from llmsys.artifacts.jsonl import MAX_LINE_BYTES, decode_record, encode, read_lines, read_records
from llmsys.artifacts.requests import (
    BatchBody,
    BatchError,
    BatchRequest,
    BatchResponse,
    BatchResult,
    CalledFunction,
    ChatMessage,
    ContentPart,
    StreamOptions,
    ToolCall,
    ToolDeclaration,
    ToolFunction,
    read_requests,
)
from llmsys.artifacts.trace import TraceRecord, read_trace

__all__ = [
    "EVENT_KINDS",
    "MAX_LINE_BYTES",
    "BatchBody",
    "BatchError",
    "BatchRequest",
    "BatchResponse",
    "BatchResult",
    "CalledFunction",
    "ChatMessage",
    "ContentPart",
    "Event",
    "EventLog",
    "StreamOptions",
    "TimedRecord",
    "ToolCall",
    "ToolDeclaration",
    "ToolFunction",
    "TraceRecord",
    "decode_record",
    "encode",
    "open_source",
    "read_events",
    "read_lines",
    "read_records",
    "read_requests",
    "read_trace",
    "replace_file",
    "replace_path",
    "sync_directory",
    "write_compressed",
]
