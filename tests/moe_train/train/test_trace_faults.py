"""An availability trace as the fault list of a run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.moe_train.sim import follow_counts
from llmsys.moe_train.train import follow_ticks, parse_faults, trace_faults


@given(counts=st.lists(st.integers(1, 8), min_size=1, max_size=12), workers=st.integers(1, 6))
def test_the_workers_are_as_many_as_the_nodes_of_the_trace_up_to_the_limit(counts, workers):
    ticks = follow_counts([(60.0 * place, count) for place, count in enumerate(counts)])
    begin = next(place for place, count in enumerate(counts) if count >= min(workers, max(counts)))
    faults = parse_faults(follow_ticks(ticks, workers=workers, speedup=60.0))
    there, born, numbers = set(range(min(workers, max(counts)))), min(workers, max(counts)), []
    for second in range(len(counts) - begin):
        for fault in (one for one in faults if one.at_s == second):
            assert set(fault.workers) <= there
            there = (there - set(fault.workers)) | set(range(born, born + fault.count))
            born += fault.count
        numbers.append(len(there))

    assert numbers == [min(count, workers) for count in counts[begin:]]


def test_a_file_is_followed_at_its_speed(tmp_path):
    path = tmp_path / "spot.csv"
    path.write_text("1000,add,a\n1000,add,b\n31000,remove,a\n61000,add,a\n")

    assert trace_faults(path, workers=2, speedup=10.0) == "t=3.000:kill:0;t=6.000:add:1"


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_nodes_that_come_and_go_while_they_wait_are_never_workers(tmp_path, workers):
    path = tmp_path / "counts.json"
    path.write_text('{"metadata": {"gap_seconds": 1}, "data": [3, 5, 3]}')

    assert trace_faults(path, workers=workers, speedup=1.0) == ""
