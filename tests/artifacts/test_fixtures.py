"""The fixtures are what their README says: every file listed, and each in its format."""

import json
import re
from collections import Counter
from pathlib import Path

from llmsys.artifacts import encode, read_requests, read_trace

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"


def test_every_fixture_has_a_line_in_the_readme_and_every_line_a_fixture():
    listed = set(re.findall(r"^\| `([^`]+)`", (FIXTURES / "README.md").read_text(encoding="utf-8"), re.MULTILINE))
    present = {path.relative_to(FIXTURES).as_posix() for path in FIXTURES.rglob("*") if path.is_file()}
    folders = {name for name in listed if name.endswith("/")}

    assert present - listed - {"README.md"} == {name for name in present if name.startswith(tuple(folders))}
    assert all((FIXTURES / name).exists() for name in listed)


def test_the_arena_trace_reads_and_writes_the_same_bytes():
    path = FIXTURES / "arena27-first60.jsonl"
    records = list(read_trace(path))

    assert len(records) == 60
    assert 19.0 < records[-1].arrival_s < 20.0
    assert b"".join(encode(record) for record in records) == path.read_bytes()


def test_the_requests_read_and_write_the_same_lines():
    path = FIXTURES / "requests.jsonl"
    requests = list(read_requests(path))

    assert Counter(request.tenant_name for request in requests) == {"acme": 4, "bob": 2, "carol": 2}
    assert [json.loads(encode(request)) for request in requests] == [
        json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()
    ]
