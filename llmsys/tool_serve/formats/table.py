"""The formats by the names that users of vLLM and SGLang know, and `auto`, which takes the one of the first marker.

Knows no tool.
"""

from collections.abc import Callable

from llmsys.tool_serve.events import Event, Parser
from llmsys.tool_serve.formats.code_calls import FencePython, Pythonic
from llmsys.tool_serve.formats.json_calls import Hermes, Json, Llama3Json, Mistral
from llmsys.tool_serve.formats.named_calls import DeepSeekV3, Functionary, Harmony
from llmsys.tool_serve.formats.openai_deltas import OpenAIDeltas
from llmsys.tool_serve.formats.reading import Markers, Reading
from llmsys.tool_serve.formats.tagged_calls import Glm45, Qwen3Coder
from llmsys.tool_serve.formats.typed import Schemas

__all__ = ["FORMATS", "format_of_template", "open_parser"]

FORMATS: dict[str, Callable[[Schemas], Parser]] = {
    "hermes": lambda _: Hermes(),
    "qwen3_coder": Qwen3Coder,
    "llama3_json": lambda _: Llama3Json(),
    "pythonic": lambda _: Pythonic(),
    "mistral": lambda _: Mistral(),
    "deepseek_v3": lambda _: DeepSeekV3(),
    "harmony": lambda _: Harmony(),
    "functionary": lambda _: Functionary(),
    "glm45": Glm45,
    "openai": lambda _: OpenAIDeltas(),
    "json": lambda _: Json(),
    "fence:python": lambda _: FencePython(),
}
_SHARED, _LIST = "<tool_call>", "[TOOL_CALLS]"
_FIRST = {
    Qwen3Coder.FUNCTION: "qwen3_coder",
    "<|python_tag|>": "llama3_json",
    _LIST: "mistral",
    DeepSeekV3.ALL: "deepseek_v3",
    DeepSeekV3.ONE: "deepseek_v3",
    Harmony.CHANNEL: "harmony",
    "<|python_start|>": "pythonic",
}
_IN_TEMPLATE = (
    ("<arg_key>", "glm45"), ("<function=", "qwen3_coder"), (_SHARED, "hermes"), (_LIST, "mistral"),
    (DeepSeekV3.ALL, "deepseek_v3"), (Harmony.CHANNEL, "harmony"), (">>>", "functionary"),
    ("<|python_tag|>", "llama3_json"),
)  # fmt: skip


def open_parser(name: str, schemas: Schemas) -> Parser:
    """A parser of one turn. Raises ValueError for an unknown name.

    schemas: of the tools, which formats that write arguments as plain text need for their types.
    """
    if name == "auto":
        return _Auto(schemas)
    if name not in FORMATS:
        raise ValueError(f"no format {name!r}; expected auto or one of {', '.join(FORMATS)}")
    return FORMATS[name](schemas)


def format_of_template(template: str) -> str:
    """The format that a chat template teaches; `auto` for one that shows none."""
    return next((name for mark, name in _IN_TEMPLATE if mark in template), "auto")


class _Auto(Reading):
    """Text until the first marker of any format; from there on that format reads."""

    MARKERS = Markers(_SHARED, *_FIRST)

    def __init__(self, schemas: Schemas) -> None:
        super().__init__()
        self._schemas = schemas
        self._inner: Parser | None = None
        self.step = self._first

    def feed(self, text: str) -> list[Event]:
        """As `Parser` says."""
        return super().feed(text) if self._inner is None else self._inner.feed(text)

    def close(self) -> list[Event]:
        """As `Parser` says."""
        events = super().close() if self._inner is None else []
        return events + (self._inner.close() if self._inner is not None else [])

    def _first(self) -> bool:
        """A turn that begins as JSON or as a list of calls is one."""
        bare = self.text.lstrip()
        if (not bare or bare == "[" or (bare != _LIST and _LIST.startswith(bare))) and not self.closed:
            return False
        if bare.startswith(_LIST):
            self.step = self._marked
            return True
        if bare[:1] == "{" or (bare[:1] == "[" and bare[1:].lstrip()[:1] == "{"):
            return self._delegate("json")
        if bare[:1] == "[" and (bare[1:2].isalpha() or bare[1:2] == "_"):
            return self._delegate("pythonic")
        self.step = self._marked
        return True

    def _marked(self) -> bool:
        found = self.passage_to(self.MARKERS)
        if found is None:
            return False
        self.at -= len(found)
        if found != _SHARED:
            return self._delegate(_FIRST[found])
        self.step = self._wrapped
        return True

    def _wrapped(self) -> bool:
        """Three formats share a tag: what comes next tells them apart."""
        rest = self.text[self.at + len(_SHARED) :].lstrip()
        if (
            not self.closed
            and Qwen3Coder.FUNCTION.startswith(rest[: len(Qwen3Coder.FUNCTION)])
            and len(rest) < len(Qwen3Coder.FUNCTION)
        ):
            return False
        tagged = rest.startswith(Qwen3Coder.FUNCTION)
        return self._delegate("hermes" if rest[:1] in ("{", "") else "qwen3_coder" if tagged else "glm45")

    def _delegate(self, name: str) -> bool:
        """Let a format read from here on."""
        parser = FORMATS[name](self._schemas)
        assert isinstance(parser, Reading)
        parser.start_at(self.offset(self.at))
        self._inner = parser
        self.tell(*parser.feed(self.text[self.at :]))
        self.at = len(self.text)
        return False
