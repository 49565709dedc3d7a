"""Readers that follow a writer, and deleted vectors whose bytes are gone."""

import numpy as np
import pytest

from llmsys.errors import UsageFault
from llmsys.vindex import Index, index_files


def seen(index, tenant):
    return sorted(index.search(np.zeros((1, 7)), tenant, 300).row(0)[0])


def test_a_follower_sees_every_change_up_to_the_seq_that_it_reports(built):
    writer, _, access = built
    with Index.open(writer.path) as reader:
        mine = [number for number, names in enumerate(access) if "t0" in names]
        writer.revoke(mine[:3], "t0")

        assert seen(reader, "t0") == mine
        assert reader.refresh() == writer.seq
        assert seen(reader, "t0") == mine[3:]

        writer.add(np.ones((1, 7)), [900], [["t0"]])
        writer.compact()
        writer.delete([mine[4]])
        assert reader.refresh() == writer.seq
        assert seen(reader, "t0") == [mine[3], *mine[5:], 900]
        assert reader.refresh() == writer.seq


def test_a_writer_has_nobody_to_follow(built):
    with pytest.raises(UsageFault, match="mode"):
        built[0].refresh()


def every_byte(place):
    """All bytes of an index; files that were unlinked while a test held them open are its caller's to read."""
    return b"".join(file.read_bytes() for file in sorted(place.rglob("*")) if file.is_file())


def test_shredding_overwrites_deleted_vectors_in_the_files_that_go(built):
    index, vectors, _ = built
    added = np.full((1, 7), 0.123456, np.float32)
    index.add(added, [900])
    index.delete([17, 900])
    held = [(file, file.open("rb")) for file in index.path.rglob("*") if file.is_file() and file.name != "lock"]
    secrets = (vectors[17].tobytes(), added.tobytes())
    assert all(secret in every_byte(index.path) for secret in secrets)

    index.compact(shred=True)

    old = b"".join(stream.read() for _, stream in held)
    assert not any(secret in old + every_byte(index.path) for secret in secrets)
    assert vectors[18].tobytes() in every_byte(index.path)
    assert not list(index.path.glob("*.shred"))
    for _, stream in held:
        stream.close()


def test_a_kill_before_shredding_leaves_it_to_the_next_writer(built, monkeypatch):
    index, vectors, _ = built
    index.delete([17])
    old = (index.path / "snap-1" / "vectors.npy").open("rb")
    with monkeypatch.context() as patched:
        patched.setattr(index_files, "remove_strays", lambda path, head: None)
        index.compact(shred=True)
    index.close()

    with Index.open(index.path, "w") as again:
        assert len(again) == 299

    assert vectors[17].tobytes() not in old.read()
    old.close()
