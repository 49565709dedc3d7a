"""Every format on real calls, cut at every place: the same events, the calls that were written, text unchanged."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.tool_serve.events import CallOpen, Malformed, Passage, Sealed, Text, Value
from llmsys.tool_serve.formats import FORMATS, format_of_template, open_parser
from tests.tool_serve.written import WRITERS

FIXTURE = Path(__file__).parents[2] / "fixtures" / "tool-serve" / "bfcl61.jsonl"
ROWS = [json.loads(line) for line in FIXTURE.read_text(encoding="utf-8").splitlines()]
BEFORE = {"hermes": "I look. ", "mistral": "I look. ", "deepseek_v3": "Hm. ", "qwen3_coder": "Hm: ", "glm45": "Hm\n"}
NAMES = [f"{name}-{write.__name__}" for name, write in WRITERS]


def schemas_of(row):
    return {tool["function"]["name"]: tool["function"]["parameters"] for tool in row["tools"]}


def events_of(name, schemas, parts):
    parser = open_parser(name, schemas)
    return [event for part in parts for event in parser.feed(part)] + parser.close()


def joined(events):
    """Events with neighbouring passages, and neighbouring texts of one path, as one; offsets left out."""
    found = []
    for event in events:
        if isinstance(event, Passage) and found and found[-1][0] == "passage":
            found[-1] = ("passage", found[-1][1] + event.text)
        elif isinstance(event, Passage):
            found.append(("passage", event.text))
        elif isinstance(event, Text) and found and found[-1][:3] == ("text", event.call, event.path):
            found[-1] = (*found[-1][:3], found[-1][3] + event.delta)
        elif isinstance(event, Text):
            found.append(("text", event.call, event.path, event.delta))
        else:
            found.append((type(event).__name__, *(getattr(event, one) for one in event.__slots__ if one != "offset")))
    return found


def cut(text, rng):
    parts, at = [], 0
    while at < len(text):
        size = rng.randint(1, 6)
        parts.append(text[at : at + size])
        at += size
    return parts


def calls_in(events):
    names = {event.call: event.name for event in events if isinstance(event, CallOpen)}
    return [{"name": names[event.call], "arguments": event.args} for event in events if isinstance(event, Sealed)]


def test_the_table_names_twelve_formats():
    assert len(FORMATS) == 12


@pytest.mark.parametrize(("name", "write"), WRITERS, ids=NAMES)
def test_real_calls_are_read_as_they_were_meant(name, write):
    for row in ROWS:
        text = BEFORE.get(name, "") + write(row["calls"], schemas_of(row))
        events = events_of(name, schemas_of(row), [text])

        assert calls_in(events) == row["calls"], row["id"]
        assert not [event for event in events if isinstance(event, Malformed)]


@pytest.mark.parametrize(("name", "write"), WRITERS, ids=NAMES)
def test_any_cuts_give_the_same_events(name, write):
    rng = random.Random(7)
    for row in ROWS:
        text = BEFORE.get(name, "") + write(row["calls"], schemas_of(row)) + ("" if name == "openai" else " done")
        whole = events_of(name, schemas_of(row), [text])

        for parts in (cut(text, rng), list(text)):
            assert joined(events_of(name, schemas_of(row), parts)) == joined(whole), row["id"]


@pytest.mark.parametrize(("name", "write"), WRITERS, ids=NAMES)
def test_values_and_pieces_of_text_add_up_to_the_arguments(name, write):
    for row in ROWS:
        args, texts = {}, {}
        for event in events_of(name, schemas_of(row), [write(row["calls"], schemas_of(row))]):
            if isinstance(event, Value) and len(event.path) == 1:
                args.setdefault(event.call, {})[event.path[0]] = event.value
            if isinstance(event, Text) and len(event.path) == 1:
                key = event.call, event.path[0]
                texts[key] = texts.get(key, "") + event.delta

        assert [args.get(number, {}) for number in range(len(row["calls"]))] == [c["arguments"] for c in row["calls"]]
        assert all(args[call][key] == text for (call, key), text in texts.items())


@pytest.mark.parametrize(("name", "write"), WRITERS, ids=NAMES)
def test_offsets_grow_and_the_last_is_within_the_text(name, write):
    row = ROWS[0] | {"calls": [{"name": "f", "arguments": {"a": "größer 😀", "b": "x"}}]}
    text = write(row["calls"], {})
    offsets = [event.offset for event in events_of(name, {}, list(text))]

    assert offsets == sorted(offsets)
    assert 0 < offsets[-1] <= len(text.encode())


@pytest.mark.parametrize(
    ("name", "write"),
    [w for w in WRITERS if w[0] not in ("openai", "functionary")],
    ids=lambda w: getattr(w, "__name__", w),
)
def test_auto_finds_the_format_by_its_first_marker(name, write):
    for row in ROWS[:10]:
        for parts in ([text := write(row["calls"], schemas_of(row))], list(text)):
            assert calls_in(events_of("auto", schemas_of(row), parts)) == row["calls"]


@given(st.text(st.sampled_from('<tool_cal>|[]{}`\n"TOOLCALLS_python agf=:'), max_size=60), st.integers(0, 9))
def test_text_without_calls_passes_unchanged(text, seed):
    for name in ("hermes", "mistral", "deepseek_v3", "qwen3_coder", "glm45", "harmony", "auto"):
        events = events_of(name, {}, cut(text, random.Random(seed)))
        if all(isinstance(event, Passage) for event in events):
            passed = "".join(event.text for event in events)
            assert passed == text or any(mark in text for mark in ("<tool_call>", "</tool_call>", "[TOOL_CALLS]"))


@given(st.text(max_size=80), st.integers(0, 99))
def test_whatever_is_written_a_turn_ends_and_cuts_do_not_matter(text, seed):
    text = (
        random.Random(seed).choice(
            ["<tool_call>", "[TOOL_CALLS]", '{"name": "f", ', "[f(", "<function=", "```python\n"]
        )
        + text
    )
    for name in FORMATS:
        if name != "openai":
            parts = cut(text, random.Random(seed))
            assert joined(events_of(name, {}, parts)) == joined(events_of(name, {}, [text])), name


@pytest.mark.parametrize(
    "text",
    [
        '```\n<tool_call>{"name": "f", "arguments": {}}</tool_call>\n```\n',
        'see ```[TOOL_CALLS][{"name": "f"}]``` there',
        "```json\n<tool_call>\n",
    ],
)
def test_a_marker_in_a_code_fence_is_text(text):
    for name in ("hermes", "mistral", "auto"):
        assert joined(events_of(name, {}, list(text))) == [("passage", text)]


def test_a_marker_within_a_string_is_part_of_the_string():
    args = {"text": 'say "</tool_call>" and <tool_call> and [TOOL_CALLS]'}
    for name, write in (("hermes", dict(WRITERS)["hermes"]), ("json", dict(WRITERS)["json"])):
        assert calls_in(events_of(name, {}, list(write([{"name": "f", "arguments": args}], {})))) == [
            {"name": "f", "arguments": args}
        ]


def test_arguments_may_be_json_within_a_string_and_come_before_the_name():
    inner = json.dumps({"a": [1, "é"]})
    text = json.dumps({"arguments": inner, "name": "f"})
    for parts in ([text], list(text)):
        events = events_of("json", {}, parts)
        assert calls_in(events) == [{"name": "f", "arguments": {"a": [1, "é"]}}]
        assert any(isinstance(event, Text) and event.path == ("a", 1) for event in events)


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a": 1,}}</tool_call>ok', "expected a key in double quotes"),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a": NaN}}</tool_call>ok', "expected a JSON value"),
        (
            "hermes",
            '<tool_call>{"name": "f", "arguments": [1]}</tool_call>ok',
            "arguments are list; expected an object",
        ),
        ("hermes", '<tool_call>{"nom": "f"}</tool_call>ok', 'an object without "name"'),
        ("hermes", '<tool_call>{"name": "f", "argu', "the text ended"),
        (
            "qwen3_coder",
            "<tool_call>\n<function=f>\n<parameter=a>\n1",
            "the text ended; expected the end of argument a",
        ),
        ("qwen3_coder", "<function=f>\n<parametr=a>1</parameter></function>", "expected <parameter= or </function>"),
        ("glm45", "<tool_call>f\n<arg_key>a</arg_key>\n<arg_val", "the text ended; expected <arg_value>"),
        ("pythonic", "[f(a=open('x'))]", "expected a literal"),
        ("pythonic", "[f(a=1", "the end of argument a"),
        ("fence:python", "```python\nprint(1)\n", "expected ``` on a line of its own"),
        ("mistral", "[TOOL_CALLS]f[ARGS]{", "the text ended"),
        ("json", '{"name": "f", "arguments": "{\\"a\\": 1"}', "within the string of arguments"),
    ],
)
def test_what_cannot_become_a_call_says_where_and_what_was_expected(name, text, why):
    for parts in ([text], list(text)):
        faults = [event for event in events_of(name, {}, parts) if isinstance(event, Malformed)]
        assert len(faults) == 1
        assert why in faults[0].why
        assert 0 < faults[0].offset <= len(text)


def test_code_in_a_fence_is_the_argument_of_python():
    text = "Let me see.\n```python\nx = '''\n  ``` no end\n'''\nprint(x)\n```\nDone."
    for parts in ([text], list(text)):
        events = events_of("fence:python", {}, parts)
        assert calls_in(events) == [{"name": "python", "arguments": {"code": "x = '''\n  ``` no end\n'''\nprint(x)\n"}}]
        assert joined(events)[-1] == ("passage", "\nDone.")


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("… <tool_call>{{ call|tojson }}</tool_call>", "hermes"),
        ("… <tool_call>\n<function={{ name }}>", "qwen3_coder"),
        ("… <tool_call>{{ name }}<arg_key>", "glm45"),
        ("[TOOL_CALLS]", "mistral"),
        ("plain", "auto"),
    ],
)
def test_a_chat_template_tells_its_format(template, name):
    assert format_of_template(template) == name


def test_an_unknown_format_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="no format 'xml'; expected auto or one of hermes, qwen3_coder"):
        open_parser("xml", {})
