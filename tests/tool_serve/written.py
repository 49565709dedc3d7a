"""Calls as models of each format write them, for tests."""

import json

from llmsys.tool_serve.formats.typed import is_text


def hermes(calls, schemas):
    return "".join(f"<tool_call>\n{json.dumps(call)}\n</tool_call>\n" for call in calls)


def llama3_json(calls, schemas):
    return "<|python_tag|>" + "; ".join(json.dumps({"name": c["name"], "parameters": c["arguments"]}) for c in calls)


def mistral(calls, schemas):
    return "[TOOL_CALLS]" + json.dumps(calls)


def mistral_named(calls, schemas):
    return "".join(f"[TOOL_CALLS]{c['name']}[ARGS]{json.dumps(c['arguments'])}" for c in calls)


def bare_json(calls, schemas):
    return json.dumps(calls)


def deepseek_v3(calls, schemas):
    one = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{}\n```json\n{}\n```<｜tool▁call▁end｜>"
    body = "\n".join(one.format(c["name"], json.dumps(c["arguments"], ensure_ascii=False)) for c in calls)
    return f"<｜tool▁calls▁begin｜>{body}<｜tool▁calls▁end｜>"


def harmony(calls, schemas):
    one = "<|start|>assistant<|channel|>commentary to=functions.{} <|constrain|>json<|message|>{}<|call|>"
    return "".join(one.format(c["name"], json.dumps(c["arguments"])) for c in calls)


def functionary(calls, schemas):
    return "".join(f"<function={c['name']}>{json.dumps(c['arguments'])}</function>" for c in calls)


def functionary_recipient(calls, schemas):
    return "".join(f">>>{c['name']}\n{json.dumps(c['arguments'])}" for c in calls)


def plain(schemas, call, key, value):
    return value if is_text(schemas, call["name"], key) and isinstance(value, str) else json.dumps(value)


def qwen3_coder(calls, schemas):
    text = ""
    for call in calls:
        values = call["arguments"].items()
        body = "".join(f"<parameter={key}>\n{plain(schemas, call, key, v)}\n</parameter>\n" for key, v in values)
        text += f"<tool_call>\n<function={call['name']}>\n{body}</function>\n</tool_call>"
    return text


def glm45(calls, schemas):
    text = ""
    for call in calls:
        pairs = call["arguments"].items()
        body = "".join(
            f"<arg_key>{key}</arg_key>\n<arg_value>{plain(schemas, call, key, v)}</arg_value>\n" for key, v in pairs
        )
        text += f"<tool_call>{call['name']}\n{body}</tool_call>"
    return text


def pythonic(calls, schemas):
    one = [f"{c['name']}({', '.join(f'{key}={value!r}' for key, value in c['arguments'].items())})" for c in calls]
    return f"[{', '.join(one)}]"


def openai(calls, schemas):
    lines = []
    for index, call in enumerate(calls):
        arguments = json.dumps(call["arguments"])
        parts = [{"index": index, "id": f"c{index}", "function": {"name": call["name"], "arguments": ""}}]
        parts += [
            {"index": index, "function": {"arguments": arguments[at : at + 5]}} for at in range(0, len(arguments), 5)
        ]
        lines += [json.dumps({"choices": [{"delta": {"tool_calls": [part]}}]}) for part in parts]
    return "\n".join(lines) + "\n"


WRITERS = [
    ("hermes", hermes),
    ("llama3_json", llama3_json),
    ("mistral", mistral),
    ("mistral", mistral_named),
    ("json", bare_json),
    ("deepseek_v3", deepseek_v3),
    ("harmony", harmony),
    ("functionary", functionary),
    ("functionary", functionary_recipient),
    ("qwen3_coder", qwen3_coder),
    ("glm45", glm45),
    ("pythonic", pythonic),
    ("openai", openai),
]
"""(format, how its models write calls given the tools' schemas)."""
