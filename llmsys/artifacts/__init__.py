"""Every file format that crosses a command boundary: one module per format."""

from llmsys.artifacts.atomic import name_beside, replace_file, replace_path, sync_directory
from llmsys.artifacts.chrome_trace import Span, write_chrome_trace
from llmsys.artifacts.compressed import open_source, reading_faults, source_name, write_compressed
from llmsys.artifacts.directory import MANIFEST_NAME, FileEntry, Manifest, open_directory, write_directory
from llmsys.artifacts.events import EVENT_KINDS, Event, EventLog, TimedRecord, read_events
from llmsys.artifacts.jsonl import MAX_LINE_BYTES, decode_record, encode, read_line_blocks, read_lines, read_records
from llmsys.artifacts.npy import NpyRun, read_npy, read_npy_runs, read_npy_stream, write_npy
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
from llmsys.artifacts.tensors import DOCUMENT_KEY, TensorFile, TensorInfo, open_tensors, write_tensors
from llmsys.artifacts.trace import Name, Seconds, Tokens, TraceRecord, read_trace
from llmsys.artifacts.vecs import VECS_DTYPES, read_vecs, write_vecs
from llmsys.artifacts.vectors import Query, VectorRecord, VectorSet, read_queries, read_vectors, write_vectors

__all__ = [
    "DOCUMENT_KEY",
    "EVENT_KINDS",
    "MANIFEST_NAME",
    "MAX_LINE_BYTES",
    "VECS_DTYPES",
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
    "FileEntry",
    "Manifest",
    "Name",
    "NpyRun",
    "Query",
    "Seconds",
    "Span",
    "StreamOptions",
    "TensorFile",
    "TensorInfo",
    "TimedRecord",
    "Tokens",
    "ToolCall",
    "ToolDeclaration",
    "ToolFunction",
    "TraceRecord",
    "VectorRecord",
    "VectorSet",
    "decode_record",
    "encode",
    "name_beside",
    "open_directory",
    "open_source",
    "open_tensors",
    "read_events",
    "read_line_blocks",
    "read_lines",
    "read_npy",
    "read_npy_runs",
    "read_npy_stream",
    "read_queries",
    "read_records",
    "read_requests",
    "read_trace",
    "read_vecs",
    "read_vectors",
    "reading_faults",
    "replace_file",
    "replace_path",
    "source_name",
    "sync_directory",
    "write_chrome_trace",
    "write_compressed",
    "write_directory",
    "write_npy",
    "write_tensors",
    "write_vecs",
    "write_vectors",
]
