"""The argument scanner against jiter and orjson: every prefix, every chunking, hostile text, linear time."""

import json
import re

import jiter
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmsys.tool_serve.scanner import MAX_DEPTH, JsonScanner, ScanFault

numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
written = st.builds(
    lambda value, ascii, indent: json.dumps(value, ensure_ascii=ascii, indent=indent),
    values,
    st.booleans(),
    st.sampled_from([None, 1]),
)


def pieces(text, cuts):
    places = sorted({cut % (len(text) + 1) for cut in cuts})
    return [text[low:high] for low, high in zip([0, *places], [*places, len(text)], strict=True)]


def scanned(parts):
    """The scanner after these parts, and all that it found, with what belongs to one string joined."""
    scanner, found = JsonScanner(), []
    for part in parts:
        assert scanner.feed(part) == len(part)
        for path, value, is_piece, _ in scanner.found:
            if is_piece and found and found[-1][:2] == (path, True):
                found[-1] = (path, True, found[-1][2] + value)
            else:
                found.append((path, is_piece, value))
        scanner.found.clear()
    return scanner, found


def rebuilt(found):
    """The value that values alone add up to: the last one told is the whole."""
    return [value for path, is_piece, value in found if not is_piece and path == ()][-1]


@given(written, st.lists(st.integers(0, 400), max_size=30))
def test_any_cuts_give_the_same_events_and_the_value_that_orjson_reads(text, cuts):
    whole, at_once = scanned([text])
    cut, in_parts = scanned(pieces(text, cuts))
    for one in (whole, cut):
        one.finish()
    at_end = [entry for scanner in (whole, cut) for entry in scanner.found]

    assert at_once == in_parts
    assert repr(whole.value) == repr(cut.value)
    assert json.dumps(whole.value) == json.dumps(orjson.loads(text)) or whole.value == json.loads(text)
    assert at_once or at_end


@given(written)
@example(r'{"a": "\ud83d\ude00 \u00e9\n", "b": [1, {"c": ""}]}')
def test_each_prefix_is_known_as_jiter_knows_it(text):
    scanner = JsonScanner()
    for end in range(1, len(text) + 1):
        prefix = text[:end]
        scanner.feed(text[end - 1])
        if re.search(r"[-+0-9.eE]$", prefix) or not prefix.strip() or scanner.snapshot() is None:
            continue  # jiter takes a number that may go on for whole, and refuses what has no value yet
        assert scanner.snapshot() == jiter.from_json(prefix.encode(), partial_mode="trailing-strings")


@given(written)
def test_values_come_with_their_paths_and_pieces_add_up_to_strings(text):
    scanner, found = scanned(list(text))
    scanner.finish()
    found += [(path, is_piece, value) for path, value, is_piece, _ in scanner.found]
    value = json.loads(text)

    for path, is_piece, told in found:
        home = value
        for key in path:
            home = home[key]
        assert told == home or path_is_overwritten(text)
        assert not is_piece or isinstance(told, str)
    assert rebuilt(found) == value


def path_is_overwritten(text):
    """Whether an object has one key twice, so that what was told first is not what stays."""
    seen = []
    json.loads(text, object_pairs_hook=lambda pairs: seen.append(len(pairs) > len(dict(pairs))))
    return any(seen)


@pytest.mark.parametrize(
    "text",
    [
        "{'a': 1}", "[nuxx]", '{"a" 1}', '{"a": 1,}', "[1 2]", "[1,]", "[01]", "[1.]", "[+1]", "[NaN]", "[Infinity]",
        "[-]", "[tru]", "[truex]", '["\x01"]', '["a\nb"]', r'["\q"]', r'["\u12g4"]', r'["\ud83d"]', r'["\ud83d\u0041"]',
        r'["\ude00"]',
        "[}", "{]", "]", ",", "[" * (MAX_DEPTH + 1), '{"a": 1 "b"}', '{a: 1}', "[1e999]",
        "[" + "9" * 5000 + "]", "nul ",
    ],
)  # fmt: skip
def test_what_is_no_json_is_refused_at_its_place_however_it_is_cut(text):
    places = set()
    for parts in ([text], list(text)):
        place, why = refusal(parts)
        places.add(place)
        assert "\n" not in why

    assert len(places) == 1


def refusal(parts):
    """Where in the whole text, and why, the scanner refuses these parts."""
    scanner, before = JsonScanner(), 0
    try:
        for part in parts:
            scanner.feed(part)
            before += len(part)
        scanner.finish()
    except ScanFault as fault:
        return before + fault.at, str(fault)
    raise AssertionError(f"{parts} was taken as {scanner.value!r}")


@pytest.mark.parametrize("text", ['{"a": "x', '{"a"', "[1", "[", '"\\'])
def test_what_is_cut_off_is_not_complete(text):
    scanner = JsonScanner()
    scanner.feed(text)

    assert not scanner.done
    with pytest.raises(ScanFault, match="the text ended"):
        scanner.finish()


def test_reading_stops_behind_the_value():
    scanner = JsonScanner()

    assert scanner.feed('  {"a": [1]} {"b"') == 12
    assert scanner.value == {"a": [1]}


def test_the_last_of_equal_keys_wins():
    scanner = JsonScanner()
    scanner.feed('{"a": 1, "a": {"b": 2}}')

    assert scanner.value == {"a": {"b": 2}}


def test_the_work_for_a_long_string_does_not_grow_with_what_was_read():
    """Characters held per feed stay as many as were fed: nothing that was told is copied again."""
    scanner, told = JsonScanner(), 0
    scanner.feed('{"code": "')
    for _ in range(5000):
        scanner.feed("abcdef")
        told += sum(len(value) for _, value, is_piece, _ in scanner.found if is_piece)
        scanner.found.clear()

    assert told == 30_000
    scanner.feed('"}')
    assert scanner.value == {"code": "abcdef" * 5000}
