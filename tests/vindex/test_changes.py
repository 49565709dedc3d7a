"""Streams of changes: acknowledged in order once durable, and everything before a bad line kept."""

import json

import numpy as np
import pytest

from llmsys.errors import BadInput
from llmsys.vindex import Index
from llmsys.vindex.changes import Acknowledged, apply_changes
from llmsys.vindex.tenant_list import TenantList


@pytest.fixture
def stream(tmp_path):
    def write(*lines):
        place = tmp_path / "changes.jsonl"
        place.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
        return str(place)

    return write


def test_ten_thousand_changes_are_acknowledged_in_order_and_survive(built, stream):
    index, _, _ = built
    source = stream(
        *({"op": ("grant", "revoke")[at % 2], "id": at // 2 % 300, "tenant": "x", "ref": at} for at in range(10_000))
    )

    acknowledged = list(apply_changes(index, source))

    assert acknowledged == [Acknowledged(at + 1, at) for at in range(10_000)]
    assert Index.open(index.path).seq == 10_000
    assert Index.open(index.path).state.tenant("x") is None


def test_an_acknowledged_change_is_on_disk(built, stream):
    index = built[0]
    source = stream({"op": "grant", "id": 1, "tenant": "x"}, {"op": "revoke", "id": 1, "tenant": "x"})

    for acknowledged in apply_changes(index, source):
        assert Index.open(index.path).seq >= acknowledged.seq


def test_adding_again_replaces_the_vector_and_keeps_its_tenants(built, stream):
    index, _, access = built
    source = stream({"op": "add", "id": 7, "vector": [9.0] * 7})

    assert [one.seq for one in apply_changes(index, source)] == [1]
    slot = index.state.store.slot_of[7]
    assert index.state.store.vectors[slot].tolist() == [9.0] * 7
    assert index.state.tenants_of(slot) == access[7]


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("{", "JSON"),
        ({"op": "merge", "id": 1}, "merge"),
        ({"op": "grant", "id": 1}, "no `tenant`"),
        ({"op": "grant", "tenant": "x"}, "without `id`"),
        ({"op": "add", "id": 1}, "no `vector`"),
        ({"op": "add", "id": 1, "vector": [1.0]}, "vectors of 1 numbers"),
        ({"op": "add", "id": "text", "vector": [1.0] * 7}, "type int"),
        ({"op": "add", "ids": [1, 2], "vector": [1.0] * 7}, "2 ids for 1 vectors"),
        ({"op": "delete", "id": 4711}, "not in the index"),
        ({"op": "grant", "id": 1, "tenant": ""}, "not a name"),
        ({"op": "grant", "id": 1, "tenant": "x" * 513}, "not a name"),
        ({"op": "drop_tenant"}, "no `tenant`"),
    ],
)
def test_a_bad_line_is_named_after_the_ones_before_it_were_acknowledged(built, stream, line, named):
    index = built[0]
    good = {"op": "grant", "id": 1, "tenant": "x", "ref": "kept"}
    source = stream(good, line, {"op": "drop_tenant", "tenant": "x"})
    changes = apply_changes(index, source)

    assert next(changes).ref == "kept"
    with pytest.raises(BadInput) as caught:
        next(changes)
    assert f"{source}:2: " in str(caught.value)
    assert named in str(caught.value)
    assert len(Index.open(index.path).state.tenant("x")) == 1


def test_a_skipped_line_is_named_and_the_stream_goes_on(built, stream):
    skipped = []
    source = stream({"op": "delete", "id": 4711}, "nonsense", {"op": "delete", "id": 1, "ref": 3})

    acknowledged = list(apply_changes(built[0], source, on_skip=skipped.append))

    assert acknowledged == [Acknowledged(1, 3)]
    assert [f"{source}:{number}" in str(fault) for number, fault in enumerate(skipped, 1)] == [True, True]


def test_a_stream_that_cannot_be_read_is_an_error(built, tmp_path):
    with pytest.raises(FileNotFoundError):
        list(apply_changes(built[0], str(tmp_path / "none.jsonl")))


def test_tails_are_merged_and_long_streams_stay_sorted(built, stream):
    index = built[0]
    source = stream(*({"op": "grant", "id": one, "tenant": "x"} for one in range(300)))
    list(apply_changes(index, source))
    found = index.state.tenant("x")

    assert len(found) == 300
    assert len(found.tail) <= 64
    assert (np.diff(index.state.store.leaf[found.slots]) >= 0).all()


def test_many_slots_together_are_looked_up_and_removed_as_one_by_one(generator):
    leaf = generator.integers(0, 9, 300).astype(np.int32)
    together, alone = TenantList(), TenantList()
    for slots in (generator.permutation(300)[:120].tolist(), [299, 298]):
        for found in (together, alone):
            new = [slot for slot in slots if not found.holds(slot, leaf)]
            found.add(new, leaf)
    asked = generator.permutation(300)[:80].tolist()

    assert together.held(asked, leaf) == [alone.holds(slot, leaf) for slot in asked]
    together.remove_all(asked, leaf)
    for slot in asked:
        alone.remove(slot, leaf)
    assert together.slots.tolist() == alone.slots.tolist()
    assert together.tail == alone.tail


def test_dropping_a_tenant_can_take_along_what_nobody_else_sees(built):
    index, _, access = built
    alone = {row for row, names in enumerate(access) if names == ["t2"]}

    changed = index.drop_tenant("t2", orphans="delete")

    assert changed == {"revoked": sum("t2" in names for names in access), "deleted": len(alone)}
    assert set(range(300)) - set(index.state.store.slot_of) == alone
    assert set(Index.open(index.path).state.store.slot_of) == set(index.state.store.slot_of)
