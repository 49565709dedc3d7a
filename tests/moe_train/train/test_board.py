"""The store on which an epoch's members find each other."""

import threading
from datetime import timedelta

import pytest

from llmsys.moe_train.train import Board


def test_a_value_reaches_whoever_waits_for_it(tmp_path):
    found = []
    reader = threading.Thread(target=lambda: found.append(Board(tmp_path, timeout_s=60).get("rank 0/address")))
    reader.start()
    Board(tmp_path, timeout_s=60).set("rank 0/address", b"\x00 port 17")
    reader.join()

    assert found == [b"\x00 port 17"]


def test_all_keys_are_checked(tmp_path):
    board = Board(tmp_path, timeout_s=60)
    board.set("a", "text")

    assert board.check(["a"])
    assert not board.check(["a", "b"])


def test_a_wait_ends_at_its_time_limit_and_names_what_is_missing(tmp_path):
    with pytest.raises(RuntimeError, match="no absent in"):
        Board(tmp_path, timeout_s=60).wait(["absent"], timedelta(milliseconds=1))
    with pytest.raises(RuntimeError, match="no absent in"):
        Board(tmp_path, timeout_s=0.001).get("absent")


def test_closing_ends_waits_from_another_thread(tmp_path):
    board = Board(tmp_path, timeout_s=3600)
    closer = threading.Timer(0, board.close)
    closer.start()
    with pytest.raises(RuntimeError, match="no absent in"):
        board.get("absent")
    closer.join()
