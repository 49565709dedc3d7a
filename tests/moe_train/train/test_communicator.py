"""The group that survives: dead, hung and absent members, and nothing left behind by fifty rebuilds."""

import os
import signal

import pytest

from llmsys.moe_train.train import Communicator


def test_every_collective_does_what_it_says_between_processes(ranks):
    with ranks("communicate", 3) as found:
        for rank in found:
            rank.ask("collect", 0, [0, 1, 2])
        answers = [rank.answer() for rank in found]

    for number, answer in enumerate(answers):
        assert answer["gathered"] == [[[0.0, 1.0]], [[100.0, 101.0]], [[200.0, 201.0]]]
        assert answer["exchanged"] == [
            [100.0 * other + 2 * number, 100.0 * other + 2 * number + 1] for other in range(3)
        ]
        assert answer["uneven"] == [float(other) for other in range(number) for _ in range(other)]
        assert answer["nothing"] == (0, 2)
        assert answer["broadcast"] == 2.0
        assert answer["sum"] == 3


def loop(found, epoch, members):
    for number in members:
        found[number].ask("loop", epoch, members)
    for number in members:
        assert found[number].answer() == "looping"
        assert found[number].answer() == "built"


@pytest.mark.parametrize("victims", [{1}, {0, 3}])
def test_survivors_of_a_kill_build_the_next_epoch_in_the_same_processes(ranks, victims):
    members = [0, 1, 2, 3]
    survivors = [number for number in members if number not in victims]
    with ranks("communicate", 4) as found:
        loop(found, 0, members)
        for number in victims:
            os.kill(found[number].pid, signal.SIGKILL)
        for number in survivors:
            found[number].ask("interrupt", 1)
        over = [found[number].answer() for number in survivors]
        for number in survivors:
            found[number].ask("sum", 1, survivors)
        sums = [found[number].answer() for number in survivors]

    assert over == [("over", 1)] * len(survivors)
    assert sums == [float(sum(survivors))] * len(survivors)


def test_a_death_reaches_its_peers_without_any_word_from_outside(ranks):
    with ranks("communicate", 3) as found:
        loop(found, 4, [0, 1, 2])
        os.kill(found[1].pid, signal.SIGKILL)

        assert found[0].answer() == ("over", 5)
        assert found[2].answer() == ("over", 5)


def test_a_hung_member_that_cannot_be_fenced_holds_nobody(ranks):
    with ranks("communicate", 3) as found:
        loop(found, 0, [0, 1, 2])
        os.kill(found[2].pid, signal.SIGSTOP)
        for number in (0, 1):
            found[number].ask("interrupt", 1)
        over = [found[number].answer() for number in (0, 1)]
        for number in (0, 1):
            found[number].ask("sum", 1, [0, 1])

        assert over == [("over", 1), ("over", 1)]
        assert [found[number].answer() for number in (0, 1)] == [1.0, 1.0]


def test_a_member_that_never_comes_is_not_waited_for_once_interrupted(ranks):
    with ranks("communicate", 3) as found:
        for number in (0, 1):
            found[number].ask("loop", 0, [0, 1, 2])
            assert found[number].answer() == "looping"
        for number in (0, 1):
            found[number].ask("interrupt", 7)

        assert [found[number].answer() for number in (0, 1)] == [("over", 7), ("over", 7)]


def test_a_member_that_never_comes_ends_the_epoch_at_the_time_limit(ranks):
    with ranks("communicate", 2, timeout_s=1.0) as found:
        found[0].ask("sum", 3, [0, 1])

        assert found[0].answer() == ("over", 4)


def test_a_stale_epoch_is_refused(ranks):
    with ranks("communicate", 1) as found:
        found[0].ask("interrupt", 3)
        found[0].ask("sum", 2, [0])
        refused = found[0].answer()
        found[0].ask("sum", 3, [0])

        assert refused == ("over", 3)
        assert found[0].answer() == 0.0


def test_fifty_epochs_leave_no_socket_file_or_thread_behind(ranks):
    with ranks("communicate", 2) as found:
        counts = []
        for epoch in range(51):
            for rank in found:
                rank.ask("sum", epoch, [0, 1])
            assert [rank.answer() for rank in found] == [1.0, 1.0]
            found[0].ask("census")
            counts.append(found[0].answer())

    assert counts[-1] == counts[0]


@pytest.mark.parametrize("members", [[1, 2], [2, 0], [0, 0]])
def test_members_must_ascend_and_hold_this_worker(members, tmp_path):
    with pytest.raises(ValueError, match="ascending ids"):
        Communicator(0, tmp_path).build(0, members)
