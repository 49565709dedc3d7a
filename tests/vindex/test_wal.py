"""The log: what was committed comes back; a torn end is dropped and said; damage before good records is corruption."""

import os

import pytest

from llmsys.errors import LlmsysError
from llmsys.vindex import Corrupt
from llmsys.vindex.wal import Log, scan_log

PAYLOADS = [b"first", b"", b"x" * 300, b"last one"]


@pytest.fixture
def path(tmp_path):
    place = tmp_path / "wal"
    log = Log(place, 0)
    for seq, payload in enumerate(PAYLOADS, 8):
        log.append(seq, 1 + seq % 5, payload)
    log.commit()
    log.close()
    return place


def payloads(scan):
    return [record.payload for record in scan.records]


def test_what_was_committed_is_read_in_order(path):
    scan = scan_log(path, 7)

    assert payloads(scan) == PAYLOADS
    assert [(record.seq, record.kind) for record in scan.records] == [(8, 4), (9, 5), (10, 1), (11, 2)]
    assert (scan.good_bytes, scan.torn_bytes) == (path.stat().st_size, 0)


def test_what_was_not_committed_is_not_there(tmp_path):
    log = Log(tmp_path / "wal", 0)
    log.append(1, 1, b"lost")
    log.close()

    assert scan_log(tmp_path / "wal", 0).records == ()


def test_a_log_cut_anywhere_keeps_every_whole_record(path):
    whole = path.read_bytes()
    ends = [*(record.offset for record in scan_log(path, 7).records[1:]), len(whole)]

    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        kept = sum(end <= size for end in ends)
        scan = scan_log(path, 7)
        assert payloads(scan) == PAYLOADS[:kept]
        assert scan.torn_bytes == size - ([0, *ends][kept])


def test_every_flipped_bit_is_corruption_or_the_loss_of_the_last_record_alone(path):
    whole = path.read_bytes()
    last = scan_log(path, 7).records[-1].offset

    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        if bit // 8 < last:
            with pytest.raises(Corrupt, match="damaged"):
                scan_log(path, 7)
        else:
            scan = scan_log(path, 7)
            assert payloads(scan) == PAYLOADS[:-1]
            assert scan.torn_bytes == len(whole) - last


def test_a_torn_end_is_cut_before_the_next_record(path):
    path.write_bytes(path.read_bytes() + b"half a rec")
    scan = scan_log(path, 7)
    log = Log(path, scan.good_bytes)
    log.append(12, 1, b"after the crash")
    log.commit()
    log.close()

    assert payloads(scan_log(path, 7)) == [*PAYLOADS, b"after the crash"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_failed_write_names_the_log_and_stops_it(tmp_path):
    log = Log(tmp_path / "wal", 0)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, log._file)
    os.close(full)
    log.append(1, 1, b"no room")

    with pytest.raises(OSError, match="wal"):
        log.commit()
    with pytest.raises(LlmsysError, match="earlier write failed"):
        log.append(2, 1, b"never")
    log.close()
