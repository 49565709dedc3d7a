"""The tenants file: what it may say, and what it is told when it says something else."""

import math

import pytest

from llmsys.errors import BadInput
from llmsys.fair_queue.gateway import hash_key, read_tenants
from llmsys.fair_queue.gateway.tenants import NO_LIMITS, limits_from


@pytest.fixture
def table_of(tmp_path):
    def read(text):
        path = tmp_path / "tenants.toml"
        path.write_text(text)
        return read_tenants(path)

    return read


def test_a_tenant_has_its_own_limits_and_the_defaults_for_the_rest(table_of):
    text = "[defaults]\nweight = 2\nmax_queue = 200\n[tenant.search]\nweight = 3\nrpm = 600\nttft_slo_ms = 800"
    table = table_of(text)

    assert table.of("search").weight == 3
    assert (table.of("search").max_queue, table.of("search").rpm, table.of("search").ttft_slo_ms) == (200, 600, 800)
    assert (table.of("nobody").weight, table.of("nobody").rpm) == (2, None)
    assert table.weights() == {"search": 1.5}


def test_a_key_is_found_by_its_hash_and_kept_as_nothing_else(table_of):
    table = table_of(f'[tenant.a]\nkeys = ["{hash_key("secret-1")}"]\n[tenant.b]\nkeys = ["secret-2"]')

    assert table.tenant_of_key(b"secret-1") == "a"
    assert table.tenant_of_key(b"secret-2") == "b"
    assert table.tenant_of_key(b"secret-3") is None
    assert table.tenant_of_key(hash_key("secret-1").encode()) is None
    assert "secret" not in repr(table)


def test_a_plain_key_is_taken_with_a_warning_that_does_not_tell_it(table_of):
    (warning,) = table_of('[tenant.b]\nkeys = ["hunter2"]').warnings

    assert "[tenant.b]" in warning
    assert "hash-key" in warning
    assert "hunter2" not in warning


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[tenant.a]\nweight = 0", "weight = 0"),
        ("[tenant.a]\nweight = nan", "weight = nan"),
        ("[tenant.a]\nweight = -1", "weight = -1"),
        ("[tenant.a]\nrpm = 0", "rpm = 0"),
        ("[tenant.a]\nweihgt = 1", "weihgt"),
        ("[tenant.a]\nweight = 'x'", "$.tenant[...].weight"),
        ("[tenants.a]\n", "tenants"),
        ("[tenant.a]\nkeys = ['sha256:12']", "sha256: and 64"),
        ("[tenant.a]\nkeys = ['k']\n[tenant.b]\nkeys = ['k']", "every key once"),
        ("[defaults]\nkeys = ['k']", "[tenant.NAME] only"),
        ("[tenant.a", "TOML"),
        (f"[tenant.{'x' * 129}]", "bytes"),
    ],
)
def test_a_file_that_says_something_else_is_refused_by_name(table_of, text, part):
    with pytest.raises(BadInput) as caught:
        table_of(text)

    assert "tenants.toml" in str(caught.value)
    assert part in str(caught.value)


def test_a_file_that_is_not_there_is_bad_input(tmp_path):
    with pytest.raises(BadInput, match=r"nothing\.toml"):
        read_tenants(tmp_path / "nothing.toml")


def test_limits_from_json_replace_what_they_name():
    limits = limits_from({"weight": 4, "max_queue": 0}, NO_LIMITS, "tenant 'a'")

    assert (limits.weight, limits.max_queue, limits.rpm) == (4, 0, None)


@pytest.mark.parametrize(
    "values", [{"weight": "x"}, {"weight": -1}, {"weight": math.inf}, {"keys": ["k"]}, {"x": 1}, 3]
)
def test_limits_from_json_that_make_no_sense_are_refused(values):
    with pytest.raises(BadInput, match="tenant 'a'"):
        limits_from(values, NO_LIMITS, "tenant 'a'")
