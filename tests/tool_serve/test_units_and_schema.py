"""Units of arguments as they are written, and arguments held to their schemas: early refusals are final ones."""

import json
import random

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.tool_serve.events import CallOpen, Malformed, Sealed, Text, Unit, Value
from llmsys.tool_serve.formats import open_parser
from llmsys.tool_serve.schema import ArgumentSchema, Checked
from llmsys.tool_serve.tools import Partial
from llmsys.tool_serve.units import Lines, SqlStatements, Units, UrlHost
from tests.tool_serve.test_formats import ROWS, cut, schemas_of
from tests.tool_serve.written import hermes

TRIGGER = "CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT 1; END;"
SQL = f"SELECT ';' -- a;b\n FROM t; /* ; */ INSERT INTO t VALUES (\"x;y\");{TRIGGER} x"


@pytest.mark.parametrize(
    ("splitter", "text", "parts"),
    [
        (Lines, "a\nb\n\nc", ["a\n", "b\n", "\n"]),
        (
            SqlStatements,
            SQL,
            [
                "SELECT ';' -- a;b\n FROM t;",
                ' /* ; */ INSERT INTO t VALUES ("x;y");',
                TRIGGER,
            ],
        ),
        (UrlHost, "https://example.org:80/a/b?c", ["https://example.org:80"]),
        (UrlHost, "no url at all", []),
        (UrlHost, "x" * 2000 + "://h/", []),
    ],
)
def test_parts_are_those_of_the_text_however_it_is_cut(splitter, text, parts):
    for pieces in ([text], list(text), cut(text, random.Random(1))):
        one = splitter()
        assert [part for piece in pieces for part in one.feed(piece)] == parts


def test_units_come_behind_the_text_of_the_argument_that_is_declared_and_no_other():
    call = {"name": "python", "arguments": {"note": "a\nb\n", "code": "x = 1\ny = 2\nprint(x)"}}
    parser = Units(open_parser("hermes", {}), {"python": Partial.parse("statements:code")})
    events = [event for char in hermes([call, call | {"name": "other"}], {}) for event in parser.feed(char)]
    units = [event for event in events if isinstance(event, Unit)]

    assert [(one.call, one.path, one.kind, one.text) for one in units] == [
        (0, ("code",), "statement", "x = 1\n"),
        (0, ("code",), "statement", "y = 2\n"),
    ]
    assert all(isinstance(events[events.index(one) - 1], Text) for one in units)


def checked(schema, call, cuts=None):
    parser = Checked(open_parser("json", {}), {"f": schema})
    text = json.dumps({"name": "f", "arguments": call})
    return [event for part in (cuts or [text]) for event in parser.feed(part)] + parser.close()


SCHEMA = {
    "type": "object",
    "properties": {
        "n": {"type": "integer", "minimum": 0},
        "kind": {"enum": ["a", "b"]},
        "name": {"type": "string", "pattern": "^x"},
        "ref": {"$ref": "#/$defs/pair"},
    },
    "required": ["n"],
    "additionalProperties": False,
    "$defs": {"pair": {"type": "array", "maxItems": 2}},
}


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ({"n": -1}, "$.n: -1 is less than the minimum of 0"),
        ({"n": "1"}, "$.n: '1' is not of type 'integer'"),
        ({"kind": "c", "n": 1}, "$.kind: 'c' is not one of ['a', 'b']"),
        ({"name": "y", "n": 1}, "$.name: 'y' does not match '^x'"),
        ({"ref": [1, 2, 3], "n": 1}, "$.ref: [1, 2, 3] is too long"),
        ({"other": 1, "n": 1}, "$.other is no argument; expected n, kind, name, ref"),
    ],
)
def test_a_wrong_argument_is_known_before_the_call_is_complete(args, why):
    events = checked(SCHEMA, args, list(json.dumps({"name": "f", "arguments": args})))
    faults = [event for event in events if isinstance(event, Malformed)]

    assert [fault.why for fault in faults] == [why]
    assert faults[0].offset < len(json.dumps({"name": "f", "arguments": args})) - 1 or len(args) == 1
    assert events[-1] is faults[0]


def test_what_is_missing_is_known_at_the_seal():
    events = checked(SCHEMA, {"kind": "a"})

    assert isinstance(events[-1], Malformed)
    assert events[-1].why == "$: 'n' is a required property"


values = st.integers(-2, 2) | st.booleans() | st.text("abx", max_size=2) | st.lists(st.integers(), max_size=3)


@given(st.dictionaries(st.sampled_from(["n", "kind", "name", "ref", "other"]), values), st.data())
def test_the_verdict_is_that_of_jsonschema_and_an_early_one_is_final(args, data):
    closed = data.draw(st.booleans())
    schema = SCHEMA if closed else {key: value for key, value in SCHEMA.items() if key != "additionalProperties"}
    valid = jsonschema.Draft202012Validator(schema).is_valid(args)
    events = checked(schema, args)

    assert any(isinstance(event, Sealed) for event in events) == valid
    assert any(isinstance(event, Malformed) for event in events) != valid


def test_real_calls_are_valid_and_their_events_pass_unchanged():
    for row in ROWS:
        text, schemas = hermes(row["calls"], schemas_of(row)), schemas_of(row)
        plain = open_parser("hermes", schemas)
        held = Checked(open_parser("hermes", schemas), schemas)
        assert held.feed(text) + held.close() == plain.feed(text) + plain.close()


def test_a_tool_without_a_schema_takes_anything():
    parser = Checked(open_parser("json", {}), {})
    events = parser.feed('{"name": "g", "arguments": {"a": [1]}}')

    assert [type(event) for event in events] == [CallOpen, Value, Value, Sealed]


def test_a_schema_that_is_none_is_refused_by_the_name_of_its_tool():
    with pytest.raises(ValueError, match="tool f: 'whole' is not valid under any of the given schemas"):
        Checked(open_parser("json", {}), {"f": {"type": "whole"}})
    assert ArgumentSchema({}).fault({"a": 1}) is None
