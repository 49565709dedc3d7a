import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.engine.detokenizer import Detokenizer

REPLACEMENT = "\ufffd"


def decode(ids):
    return bytes(ids).decode("utf-8", "replace")


def stream(ids, **options):
    text = Detokenizer(decode, **options)
    pieces = []
    for token in ids:
        pieces.append(text.push(token))
        if text.stopped:
            break
    return [*pieces, text.flush()], text


@given(st.text(max_size=80))
def test_pieces_of_any_text_join_to_it_and_are_whole_characters(text):
    pieces, _ = stream(text.encode())

    assert "".join(pieces) == text
    assert not any(REPLACEMENT in piece for piece in pieces[:-1]) or REPLACEMENT in text


@given(st.binary(max_size=120))
def test_pieces_of_any_bytes_join_to_what_decoding_them_all_gives(data):
    pieces, _ = stream(data)

    assert "".join(pieces) == decode(data)


def test_long_outputs_are_decoded_a_window_at_a_time():
    asked = []

    def counting(ids):
        asked.append(len(ids))
        return decode(ids)

    text = Detokenizer(counting)
    joined = "".join(text.push(token) for token in ("häßlich " * 200).encode()) + text.flush()

    assert joined == "häßlich " * 200
    assert max(asked) <= 32


def test_an_incomplete_character_waits_for_its_last_byte():
    pieces, _ = stream("é".encode())

    assert pieces == ["", "é", ""]


def test_an_incomplete_character_at_the_end_is_shown_as_such():
    pieces, _ = stream("aé".encode()[:-1])

    assert pieces == ["a", "", REPLACEMENT]


@pytest.mark.parametrize(
    ("text", "stop", "include", "expected"),
    [
        ("one\n\ntwo", ["\n\n"], False, "one"),
        ("one\n\ntwo", ["\n\n"], True, "one\n\n"),
        ("one\ntwo", ["\n\n"], False, "one\ntwo"),
        ("aab", ["aaa", "ab"], False, "a"),
        ("STOP", ["STOP"], False, ""),
        ("xENDy", ["ENDING", "END"], False, "x"),
        ("xEN", ["END"], False, "xEN"),
    ],
)
def test_text_ends_at_the_first_stop_string(text, stop, include, expected):
    pieces, state = stream(text.encode(), stop=stop, include_stop=include)

    assert "".join(pieces) == expected
    assert state.stopped == any(s in text for s in stop)


@given(text=st.text("ab", max_size=40), stop=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3))
def test_no_beginning_of_a_stop_string_is_ever_shown_too_early(text, stop):
    """Oracle: at each length, what is certain is the text up to the first stop, less any end that could become one."""
    state = Detokenizer(decode, stop)
    shown = ""
    for end, token in enumerate(text.encode(), start=1):
        shown += state.push(token)
        hits = [text[:end].find(s) for s in stop if s in text[:end]]
        if hits:
            assert state.stopped
            assert shown == text[: min(hits)]
            return
        open_ends = [n for n in range(1, end + 1) if any(s.startswith(text[end - n : end]) for s in stop)]
        assert shown == text[: end - max(open_ends, default=0)]
    assert shown + state.flush() == text
    assert not state.stopped
