"""Text, windows and shares: the same samples in a step, whoever computes them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.errors import BadInput
from llmsys.moe_train.train import evaluation_text, read_corpus, share, step_windows


@given(step=st.integers(1, 60), batch=st.integers(1, 20), windows=st.integers(1, 30), seed=st.integers(0, 2**32))
def test_steps_walk_through_one_permutation_after_the_other(step, batch, windows, seed):
    walked = [window for one in range(1, step + 1) for window in step_windows(one, batch, windows, seed)]

    assert len(walked) == step * batch
    for lap in range(len(walked) // windows):
        assert sorted(walked[lap * windows : (lap + 1) * windows]) == list(range(windows))


def test_another_seed_gives_another_order():
    assert step_windows(1, 50, 50, 0) != step_windows(1, 50, 50, 1)


@given(items=st.lists(st.integers(), max_size=40), count=st.integers(1, 12))
def test_shares_are_contiguous_whole_and_even(items, count):
    parts = [share(items, place, count) for place in range(count)]

    assert [item for part in parts for item in part] == items
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_every_tenth_of_many_files_is_held_out(tmp_path):
    for number in range(20):
        (tmp_path / f"{number:02}.txt").write_bytes(bytes([number]) * 3)
    corpus = read_corpus([str(tmp_path)])

    assert corpus.held_out.tolist() == [9] * 3 + [19] * 3
    assert set(corpus.train.tolist()) == set(range(20)) - {9, 19}


def test_the_last_tenth_of_one_file_is_held_out(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(bytes(range(100)))
    corpus = read_corpus([str(path)])

    assert corpus.train.tolist() == list(range(90))
    assert corpus.held_out.tolist() == list(range(90, 100))
    assert evaluation_text([str(path)]).tolist() == list(range(100))


def test_the_default_text_is_pythons_help():
    corpus = read_corpus()

    assert b"import" in corpus.train.tobytes()
    assert len(corpus.train) > 300_000
    assert np.array_equal(evaluation_text(), corpus.held_out)
    assert read_corpus().digest == corpus.digest


def test_a_digest_tells_texts_and_their_cut_apart(tmp_path):
    path = tmp_path / "text"
    digests = set()
    for content in (b"a" * 100, b"a" * 101, b"b" * 100):
        path.write_bytes(content)
        digests.add(read_corpus([str(path)]).digest)

    assert len(digests) == 3


def test_windows_overlap_by_the_byte_that_is_target_first_and_input_then(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(bytes(range(20)))
    corpus = read_corpus([str(path)])

    assert corpus.windows(4) == 4
    assert corpus.window(0, 4).tolist() == [0, 1, 2, 3, 4]
    assert corpus.window(3, 4).tolist() == [12, 13, 14, 15, 16]


def test_a_text_shorter_than_a_window_is_refused(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(b"short")

    with pytest.raises(BadInput, match="5 bytes to train on; expected more than --seq 5"):
        read_corpus([str(path)]).windows(5)


def test_no_bytes_at_all_are_refused(tmp_path):
    with pytest.raises(BadInput, match="no bytes"):
        read_corpus([str(tmp_path)])
