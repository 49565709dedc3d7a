"""A fair queue in front of any OpenAI-compatible server: an asyncio proxy whose order is a policy's."""

from llmsys.fair_queue.gateway.dispatch import QueueLimits
from llmsys.fair_queue.gateway.estimate import PromptEstimator
from llmsys.fair_queue.gateway.front import FrontSettings
from llmsys.fair_queue.gateway.gateway import Endpoint, Gateway, Settings, parse_endpoint
from llmsys.fair_queue.gateway.identity import Identity, parse_identity
from llmsys.fair_queue.gateway.journal import Journal, NoJournal
from llmsys.fair_queue.gateway.launch import open_store, parse_size, secret_from, serve
from llmsys.fair_queue.gateway.shared import RedisStore
from llmsys.fair_queue.gateway.sse import StreamMeter, Usage, usage_in
from llmsys.fair_queue.gateway.store import MemoryStore, SqliteStore, Store
from llmsys.fair_queue.gateway.tenants import TenantTable, hash_key, read_tenants
from llmsys.fair_queue.gateway.window import WindowSpec, parse_window
from llmsys.fair_queue.gateway.workers import check_workers, file_of_worker, of_worker, run_workers

__all__ = [
    "Endpoint",
    "FrontSettings",
    "Gateway",
    "Identity",
    "Journal",
    "MemoryStore",
    "NoJournal",
    "PromptEstimator",
    "QueueLimits",
    "RedisStore",
    "Settings",
    "SqliteStore",
    "Store",
    "StreamMeter",
    "TenantTable",
    "Usage",
    "WindowSpec",
    "check_workers",
    "file_of_worker",
    "hash_key",
    "of_worker",
    "open_store",
    "parse_endpoint",
    "parse_identity",
    "parse_size",
    "parse_window",
    "read_tenants",
    "run_workers",
    "secret_from",
    "serve",
    "usage_in",
]
