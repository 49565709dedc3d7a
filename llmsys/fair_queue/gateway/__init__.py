"""A fair queue in front of any OpenAI-compatible server: an asyncio proxy whose order is a policy's."""

from llmsys.fair_queue.gateway.dispatch import QueueLimits
from llmsys.fair_queue.gateway.estimate import PromptEstimator
from llmsys.fair_queue.gateway.front import FrontSettings
from llmsys.fair_queue.gateway.gateway import Endpoint, Gateway, Settings, parse_endpoint
from llmsys.fair_queue.gateway.identity import Identity, parse_identity
from llmsys.fair_queue.gateway.journal import Journal, NoJournal
from llmsys.fair_queue.gateway.launch import is_redis, open_store, parse_size, secret_from, serve, serve_counters
from llmsys.fair_queue.gateway.owner import OwnerSocket, OwnerStore
from llmsys.fair_queue.gateway.redis_counters import RedisStore
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
    "OwnerSocket",
    "OwnerStore",
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
    "is_redis",
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
    "serve_counters",
    "usage_in",
]
