"""The serving engine: one base model, many requests of many tenants in one running batch.

The life of a request, and where to read about each part of it:

1. `Engine.add` (`core`) gives it a number; `intake` makes token ids of its prompt and refuses what can never run.
2. It waits. The policy (`policy`) hears of its arrival and picks who goes next, as long as `admit` says yes.
3. `scheduler` admits it: its adapter, read aside by `adapter_loader` while others run, holds a slot (`adapter_pool`);
   `block_manager` reserves the prompt and one block, and a prefix that someone computed before, under the same model,
   adapter and salt, is copied (rows, on a CPU) or shared (pages, on a GPU) instead of computed. `memory_budget`, if the
   engine has one, makes slots and blocks give way to each other.
4. Each step plans tokens within one budget: a token for every running decode, then chunks of prompts (`sequence.Plan`).
5. `forward` has the runner compute the plan, all requests and adapters in one pass; out of memory means a smaller step.
   On a GPU, steps of decoding base rows replay a captured one (`decode_graphs`).
6. Where a prompt is complete, `sampler` draws the next token from the row's logits, after what `logits` does to them.
7. `stream` and `detokenizer` make text of it and find its end; `journal` charges the policy and tells the world.
8. It ends: slot and blocks are given back, but its row is retained as a prefix until someone needs the memory. Before
   that it may be preempted and computed again, parked and resumed, forked, or, once ended, extended.

`AsyncEngine` (`server_loop`) runs all this in a thread of its own and gives each request an asynchronous stream.

The model side (`loader`, `model`, `runner`, `adapter_pool`) knows nothing of requests, and this side nothing of models:
they meet in `parts`.
"""

from llmsys.engine.config import EngineConfig
from llmsys.engine.core import Engine
from llmsys.engine.errors import AdapterBusy, AdapterError, CapacityError, EngineError, ModelError, RequestError
from llmsys.engine.outputs import Completion, EngineEvent, EngineStats
from llmsys.engine.policy import FirstComeFirstServed, Policy
from llmsys.engine.sequence import Finish, Message, Request, SamplingParams, TokenEvent
from llmsys.engine.server_loop import AsyncEngine

__all__ = [
    "AdapterBusy",
    "AdapterError",
    "AsyncEngine",
    "CapacityError",
    "Completion",
    "Engine",
    "EngineConfig",
    "EngineError",
    "EngineEvent",
    "EngineStats",
    "Finish",
    "FirstComeFirstServed",
    "Message",
    "ModelError",
    "Policy",
    "Request",
    "RequestError",
    "SamplingParams",
    "TokenEvent",
]
