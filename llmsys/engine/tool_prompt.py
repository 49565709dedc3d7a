"""Declared tools as a model is told of them: in the system message, in the form that Hermes models are trained on.

A model's call is JSON between `<tool_call>` tags; a tool's result comes back between `<tool_response>` tags. Models'
own templates are not asked to do this, as most have no place for tools. Knows nothing of what a model writes.
"""

from collections.abc import Mapping

import msgspec

from llmsys.artifacts import BatchBody, ChatMessage, ToolDeclaration, encode
from llmsys.engine.errors import RequestError

__all__ = ["CALL_BEGINS", "CALL_ENDS", "forced_schema", "offers_tools", "tool_messages"]

CALL_BEGINS, CALL_ENDS = "<tool_call>", "</tool_call>"
INSTRUCTION = """You may call the functions in <tools></tools>:
<tools>
{tools}
</tools>
To call one, write its name and its arguments as JSON:
<tool_call>
{{"name": "...", "arguments": {{}}}}
</tool_call>"""


class _Named(msgspec.Struct):
    name: str


class _Choice(msgspec.Struct):
    """`tool_choice` as an object: the one function that is to be called."""

    type: str
    function: _Named


def offers_tools(body: BatchBody) -> bool:
    """Whether calls are to be looked for in the answer."""
    return bool(body.tools) and body.tool_choice != "none"


def forced_schema(body: BatchBody) -> Mapping[str, object] | None:
    """The JSON that an answer must be where a call is demanded, None where it is the model's choice.

    Raises RequestError for a tool_choice that is none, or that names no declared function.
    """
    choice = body.tool_choice
    if choice in (None, "none", "auto"):
        return None
    tools = body.tools or ()
    if isinstance(choice, Mapping):
        try:
            name = msgspec.convert(choice, _Choice).function.name
        except msgspec.ValidationError as error:
            raise RequestError(f"tool_choice: {error}") from error
        tools = tuple(tool for tool in tools if tool.function.name == name)
        if not tools:
            raise RequestError(f"tool_choice names {name!r}, which is none of the tools")
    elif choice != "required":
        raise RequestError(f"tool_choice is {choice!r}; expected none, auto, required, or a function")
    if not tools:
        raise RequestError("tool_choice demands a call, and there are no tools")
    calls = [_call_schema(tool) for tool in tools]
    return calls[0] if len(calls) == 1 else {"anyOf": calls}


def tool_messages(body: BatchBody) -> list[dict[str, str]]:
    """The turns of a chat as a template takes them, with tools, calls and results written out as text.

    Raises ValueError for a part that is no text.
    """
    turns = [{"role": message.role, "content": _content(message)} for message in body.messages or ()]
    if not offers_tools(body):
        return turns
    described = "\n".join(encode(tool).decode().strip() for tool in body.tools or ())
    told = INSTRUCTION.format(tools=described)
    if turns and turns[0]["role"] == "system":
        return [{"role": "system", "content": f"{turns[0]['content']}\n\n{told}"}, *turns[1:]]
    return [{"role": "system", "content": told}, *turns]


def _content(message: ChatMessage) -> str:
    if message.role == "tool":
        return f"<tool_response>\n{message.text}\n</tool_response>"
    calls = [
        f'{CALL_BEGINS}\n{{"name": {encode(call.function.name).decode().strip()}, '
        f'"arguments": {call.function.arguments or "{}"}}}\n{CALL_ENDS}'
        for call in message.tool_calls
    ]
    return "\n".join([message.text, *calls] if message.text else calls) if calls else message.text


def _call_schema(tool: ToolDeclaration) -> dict[str, object]:
    return {
        "type": "object",
        "properties": {
            "name": {"const": tool.function.name},
            "arguments": tool.function.parameters or {"type": "object"},
        },
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }
