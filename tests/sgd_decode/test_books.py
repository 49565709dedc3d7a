"""What is learnt and kept from run to run: lengths, confidence, step times; and texts as they grow."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.sgd_decode import ConfidenceBook, LengthBook, Node, StepTime, known_step_time
from llmsys.sgd_decode.calibration import machine_key
from llmsys.sgd_decode.lengths import LIMITS
from llmsys.sgd_decode.plan_levels import level_of
from llmsys.sgd_decode.writing import REPEATS, WINDOW, Text, at_sentence_end

POINTS = [(1, 0.02), (2, 0.021), (4, 0.023), (8, 0.027)]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "llmsys" / "step-times"


def test_step_times_are_measured_once_and_kept(home):
    calls = []

    def measure():
        calls.append(1)
        return POINTS

    first, second = known_step_time("key", measure), known_step_time("key", measure)

    assert first == second == StepTime.fit(POINTS)
    assert len(calls) == 1
    assert [tuple(point) for point in json.loads((home / "key.json").read_text())] == POINTS


def test_without_a_key_nothing_is_kept(home):
    assert known_step_time("", lambda: POINTS) == StepTime.fit(POINTS)
    assert not home.exists()


@pytest.mark.parametrize("damage", ["", "{}", "[1]", '[["a", "b"]]', "[[1, 0.02]]", "null", "\x00"])
def test_a_damaged_file_is_measured_anew(home, damage):
    home.mkdir(parents=True)
    (home / "key.json").write_text(damage)

    assert known_step_time("key", lambda: POINTS) == StepTime.fit(POINTS)
    assert known_step_time("key", lambda: pytest.fail("measured again")) == StepTime.fit(POINTS)


def test_one_width_is_no_law(home):
    assert known_step_time("key", lambda: [(1, 0.02)]) is None
    assert not home.exists()


def test_models_and_thread_counts_have_keys_of_their_own(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    one, other = machine_key("a"), machine_key("b")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")

    assert len({one, other, machine_key("a")}) == 3


@pytest.mark.xdist_group("smollm2")
def test_the_engines_step_times_are_of_every_width_it_runs():
    from llmsys.engine import Engine, EngineConfig
    from llmsys.sgd_decode import measure_step_time

    config = EngineConfig(device="cpu", max_sequences=2, max_batch_tokens=256, max_len=128, spare_rows=8)
    points = measure_step_time(Engine.load("smollm2", config=config), widths=(1, 2, 4), steps=2, rounds=1)

    assert [width for width, _ in points] == [1, 2]
    assert all(seconds > 0 for _, seconds in points)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=20), st.integers(1, 5))
def test_lengths_are_the_running_mean_of_a_level_and_never_past_its_limit(seen, level):
    book, node = LengthBook(), Node(1, "a", level=level)
    for tokens in seen:
        book.learn(node, tokens)

    assert book.of(node) == pytest.approx(min(sum(seen) / len(seen), LIMITS[level]))
    assert book.of(Node(2, "b", level=level % 5 + 1)) == book.first_guess(Node(2, "b", level=level % 5 + 1))
    assert book.first_guess(node) == LengthBook().first_guess(node)


@given(st.integers(1, 500), st.integers(1, 5))
def test_a_given_limit_stands_for_every_level(limit, level):
    book, node = LengthBook(limit), Node(1, "a", level=level)

    assert book.most(node) == limit
    assert book.first_guess(node) <= limit


@given(st.lists(st.floats(-20, 0), min_size=10, max_size=60))
def test_about_a_fifth_of_parts_lies_below_the_learnt_bound(logprobs):
    book = ConfidenceBook()
    for value in logprobs:
        book.doubts(value)
    below = sorted(logprobs)[int(0.20 * len(logprobs))]

    assert not ConfidenceBook(below).doubts(below)
    assert book.doubts(below - 1.0)
    assert not book.doubts(max(logprobs))


@given(st.one_of(st.none(), st.text(max_size=12), st.integers(), st.floats(allow_nan=False)))
def test_any_statement_of_a_level_is_one_to_five(stated):
    level, as_written = level_of(stated)

    assert 1 <= level <= 5
    assert not as_written or str(stated).strip() == str(level)


@given(st.lists(st.sampled_from("ab"), max_size=12))
def test_a_text_is_its_pieces_and_loops_only_where_a_window_comes_again_and_again(pieces):
    text = Text()
    for piece in pieces:
        text.add(piece)

    assert str(text) == "".join(pieces)
    assert not text.loops  # shorter than two windows


def test_a_text_loops_at_the_third_time_of_the_same_window():
    text, window = Text(), [f"w{number} " for number in range(WINDOW)]
    for _ in range(REPEATS - 1):
        for piece in window:
            text.add(piece)
    assert not text.loops
    for piece in window:
        text.add(piece)
    assert text.loops


def test_nothing_is_no_piece():
    text = Text()
    for _ in range(100):
        text.add("")

    assert not text.loops


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("One. Two", "One."),
        ("One! Two? Thr", "One! Two?"),
        ('He said "No." And th', 'He said "No."'),
        ("It is 3.14 and so", "It is 3.14 and so"),
        ("", ""),
        ("nothing ends", "nothing ends"),
        ("日本語です。 次", "日本語です。"),
    ],
)
def test_what_a_limit_cut_ends_at_its_last_sentence(text, kept):
    assert at_sentence_end(text) == kept
