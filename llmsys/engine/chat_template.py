"""A conversation laid out by the model's own template, in the sandbox and with the words that transformers gives it.

Templates come with model files, from strangers: they run in jinja2's immutable sandbox on plain data. Doing this here
spares a server the import of transformers. Knows nothing of tokens.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import TemplateError
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import CallBlock, Node
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from llmsys.engine.errors import RequestError

__all__ = ["ChatTemplate"]


class ChatTemplate:
    """One compiled template. words: the special tokens that it may name (bos_token, eos_token, …)."""

    def __init__(self, source: str, words: Mapping[str, Any]) -> None:
        self._words = dict(words)
        try:
            self._compiled = _environment().from_string(source)
        except TemplateError as error:
            raise RequestError(f"the model's chat template cannot be read: {error}") from error

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The conversation as text, ready for the assistant's answer; fields that are None count as missing.

        Raises RequestError for messages that the template refuses.
        """
        plain = [{key: value for key, value in message.items() if value is not None} for message in messages]
        try:
            return self._compiled.render(
                messages=plain, tools=None, documents=None, add_generation_prompt=True, **self._words
            )
        except (TemplateError, ValueError, TypeError, KeyError, ArithmeticError, RecursionError) as error:
            raise RequestError(f"the model's chat template does not take these messages: {error}") from error


class _Generation(Extension):
    """`{% generation %}` marks the assistant's part for training; here it is passed through."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it so)

    def parse(self, parser: Parser) -> Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return CallBlock(self.call_method("_passed"), [], [], body).set_lineno(line)

    @staticmethod
    def _passed(caller: Macro) -> str:
        return str(caller())


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _refuse, "strftime_now": _now, "dict": _new, "namespace": _Names}
    return environment


class _Names(Namespace):
    """A template's own variables; names with an underscore in front would reach into Python."""

    def __init__(*args: Any, **attributes: Any) -> None:  # noqa: ANN401 (any name is the template's, self too)
        self, rest = args[0], args[1:]
        for name in dict(*rest, **attributes):
            _check_name(name)
        Namespace.__init__(self, *rest, **attributes)

    def __setitem__(self, name: str, value: object) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if str(name).startswith("_"):
        raise SecurityError(f"a template sets {name!r}; expected a name without an underscore in front")


def _new(*items: Any, **named: Any) -> dict[Any, Any]:  # noqa: ANN401
    """A dict, without the class and its attributes."""
    return dict(*items, **named)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Write JSON as it is: jinja2's own filter escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)
