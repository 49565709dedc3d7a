"""Control groups: limits of both versions, nested, absent and hostile."""

import pytest

from llmsys.gpu import CgroupLimits, read_limits


@pytest.fixture
def tree(tmp_path):
    """A function that writes control files and a membership, and reads the limits."""

    def read(membership: str, files: dict[str, str]) -> CgroupLimits:
        for name, text in files.items():
            place = tmp_path / "cgroup" / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
        (tmp_path / "membership").write_text(membership)
        return read_limits(tmp_path / "cgroup", tmp_path / "membership")

    return read


def test_without_control_groups_nothing_limits(tmp_path):
    assert read_limits(tmp_path / "none", tmp_path / "none") == CgroupLimits()


def test_version_2_limits_are_read_from_the_own_group(tree):
    found = tree(
        "0::/app/worker\n",
        {
            "app/worker/cpu.max": "150000 100000\n",
            "app/worker/memory.max": "1000000\n",
            "app/worker/memory.current": "600000\n",
            "app/worker/memory.stat": "anon 1\ninactive_file 100000\n",
        },
    )

    assert found == CgroupLimits(cpus=1.5, memory_bytes=1_000_000, memory_free_bytes=500_000)


def test_the_tightest_of_a_group_and_its_parents_counts(tree):
    found = tree(
        "0::/a/b\n",
        {
            "a/b/cpu.max": "max 100000",
            "a/cpu.max": "200000 100000",
            "cpu.max": "400000 100000",
            "a/b/memory.max": "9000",
            "a/b/memory.current": "1000",
            "a/memory.max": "10000",
            "a/memory.current": "9500",
        },
    )

    assert found == CgroupLimits(cpus=2.0, memory_bytes=9000, memory_free_bytes=500)


def test_version_1_limits_are_read_under_their_controllers(tree):
    found = tree(
        "4:memory:/box\n3:cpu,cpuacct:/box\n1:name=systemd:/\n",
        {
            "cpu,cpuacct/box/cpu.cfs_quota_us": "50000",
            "cpu,cpuacct/box/cpu.cfs_period_us": "100000",
            "memory/box/memory.limit_in_bytes": "4096",
            "memory/box/memory.usage_in_bytes": "5000",
        },
    )

    assert found == CgroupLimits(cpus=0.5, memory_bytes=4096, memory_free_bytes=0)


def test_a_container_that_does_not_see_its_own_path_reads_the_mount(tree):
    found = tree("0::/../../host/slice\n", {"cpu.max": "300000 100000", "memory.max": "77"})

    assert found == CgroupLimits(cpus=3.0, memory_bytes=77, memory_free_bytes=77)


@pytest.mark.parametrize(
    "files",
    [
        {"cpu.max": "max 100000", "memory.max": "max"},
        {"cpu.max": "", "memory.max": ""},
        {"cpu.max": "soon 100000", "memory.max": "a lot"},
        {"cpu.max": "100000 0", "memory.max": "nan"},
        {"cpu.max": "-1 100000"},
        {"cpu.max": "max"},
    ],
)
def test_no_limit_and_nonsense_count_as_no_limit(tree, files):
    assert tree("0::/\n", files) == CgroupLimits()


def test_the_largest_number_of_version_1_means_no_limit(tree):
    found = tree(
        "4:memory:/\n3:cpu:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712", "cpu/cpu.cfs_quota_us": "-1"}
    )

    assert found == CgroupLimits()


@pytest.mark.parametrize("membership", ["", "\n\n", "nonsense", "0:", "0::", ":::::"])
def test_a_membership_of_nonsense_does_not_raise(tree, membership):
    assert tree(membership, {}) == CgroupLimits()


def test_a_membership_that_is_no_text_does_not_raise(tmp_path):
    (tmp_path / "membership").write_bytes(b"\xff\xfe\x00")

    assert read_limits(tmp_path, tmp_path / "membership") == CgroupLimits()
