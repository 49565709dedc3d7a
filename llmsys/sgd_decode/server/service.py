"""What the endpoints share: the room, the settings of each mode, who may ask, and how many may wait.

Knows nothing of HTTP's bytes.
"""

import hmac
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import ip_address

from llmsys.errors import UsageFault
from llmsys.sgd_decode.answers import Answer, Question
from llmsys.sgd_decode.auto_writer import Router
from llmsys.sgd_decode.driver import Writer, writer_for
from llmsys.sgd_decode.glimpses import AsTheyCome, InOrder, News
from llmsys.sgd_decode.server.bodies import AskBody, question_of
from llmsys.sgd_decode.server.faults import ApiFault
from llmsys.sgd_decode.server.room import Room
from llmsys.sgd_decode.settings import DecodeSettings

__all__ = ["ServerSettings", "Service", "check_exposure"]

KEPT_SETTINGS = 64


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """A server: the model's public name, how it decodes, and its limits. key: what clients must bear, None for none."""

    model: str
    decode: DecodeSettings
    router: Router | None = None
    key: str | None = None
    max_queue: int = 256
    max_body_bytes: int = 16_000_000
    drain_s: float = 30.0


class Service:
    """One room and its settings."""

    def __init__(self, room: Room, settings: ServerSettings) -> None:
        self.room = room
        self.settings = settings
        self.draining = False
        self._make: Callable[[DecodeSettings], Callable[[Question], Writer]] = lru_cache(KEPT_SETTINGS)(
            lambda decode: writer_for(decode, router=settings.router)
        )

    def admit(self, authorization: str | None) -> None:
        """Raise ApiFault for a client without the key, or where too many questions wait already."""
        key = self.settings.key
        if key is not None and not hmac.compare_digest(f"Bearer {key}".encode(), (authorization or "").encode()):
            raise ApiFault(401, "the key is missing or wrong; expected `authorization: Bearer …`", code="invalid_key")
        if self.draining:
            raise ApiFault(503, "the server stops", kind="server_error", code="stopping", retry_after_s=1)
        if self.room.open >= self.settings.max_queue:
            raise ApiFault(
                429,
                f"{self.room.open} questions are open",
                kind="rate_limit_error",
                code="queue_full",
                retry_after_s=1,
            )

    def answer(self, body: AskBody, mode: str) -> AsyncGenerator[News | Answer, None]:
        """What becomes of a request's question."""
        decode = replace(
            self.settings.decode,
            mode=mode,
            temperature=self.settings.decode.temperature if body.temperature is None else body.temperature,
            seed=self.settings.decode.seed if body.seed is None else body.seed,
        )
        view = None if not body.stream else AsTheyCome() if body.llmsys.stream == "parts" else InOrder()
        return self.room.answer(lambda number: question_of(body, number), self._make(decode), view)


def check_exposure(host: str, key: str | None, *, insecure: bool) -> None:
    """Raise UsageFault for a server that strangers could reach without a key."""
    try:
        near = ip_address(host).is_loopback
    except ValueError:
        near = host == "localhost"
    if not (near or key or insecure):
        raise UsageFault(f"--host {host} is open to others; set LLMSYS_API_KEY, or say --insecure")
