"""What a process may use, read from the files of machines that we do not have."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hatchway.loader.machine import available_memory_bytes, cpu_limits, cpu_quota, memory_limits

GIB = 1 << 30
V1_MOUNTS = """\
30 23 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
"""
V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A machine of 8 cores and 64 GiB, 48 of them available, without cgroups."""
    return write(
        tmp_path,
        {
            "proc/meminfo": f"MemTotal:  {64 << 20} kB\nMemFree: 1 kB\nMemAvailable: {48 << 20} kB",
            "proc/self/status": "Name:\tpython\nCpus_allowed:\tff\nCpus_allowed_list:\t0-7\n",
            "sys/devices/system/cpu/online": "0-7\n",
        },
    )


def test_without_cgroups_the_machine_is_the_limit(host: Path) -> None:
    assert available_memory_bytes(host) == 48 * GIB
    assert memory_limits(host).cgroup_limit_bytes is None
    assert cpu_quota(host) == 8.0
    assert cpu_limits(host).cgroup_quota is None


def test_a_version_2_limit_leaves_what_is_not_used_and_counts_dropped_cache(host: Path) -> None:
    group = "sys/fs/cgroup/job.slice"
    write(
        host,
        {
            "proc/self/cgroup": "0::/job.slice\n",
            "proc/self/mountinfo": V2_MOUNT,
            f"{group}/memory.max": f"{8 * GIB}\n",
            f"{group}/memory.current": f"{5 * GIB}\n",
            f"{group}/memory.stat": f"anon {3 * GIB}\ninactive_file {2 * GIB}\n",
        },
    )
    assert available_memory_bytes(host) == 5 * GIB
    assert memory_limits(host).cgroup_limit_bytes == 8 * GIB


def test_a_limit_further_up_binds(host: Path) -> None:
    write(
        host,
        {
            "proc/self/cgroup": "0::/pod/container\n",
            "proc/self/mountinfo": V2_MOUNT,
            "sys/fs/cgroup/pod/container/memory.max": "max\n",
            "sys/fs/cgroup/pod/container/cpu.max": "max 100000\n",
            "sys/fs/cgroup/pod/memory.max": f"{4 * GIB}\n",
            "sys/fs/cgroup/pod/memory.current": f"{GIB}\n",
            "sys/fs/cgroup/pod/cpu.max": "250000 100000\n",
        },
    )
    assert available_memory_bytes(host) == 3 * GIB
    assert cpu_quota(host) == 2.5


def test_the_level_where_throttling_starts_binds_like_a_limit(host: Path) -> None:
    write(
        host,
        {
            "proc/self/cgroup": "0::/job\n",
            "proc/self/mountinfo": V2_MOUNT,
            "sys/fs/cgroup/job/memory.max": f"{8 * GIB}\n",
            "sys/fs/cgroup/job/memory.high": f"{6 * GIB}\n",
            "sys/fs/cgroup/job/memory.current": f"{GIB}\n",
        },
    )
    assert available_memory_bytes(host) == 5 * GIB


def test_version_1_limits_are_read_from_their_own_hierarchies(host: Path) -> None:
    write(
        host,
        {
            "proc/self/cgroup": "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:pids:/\n",
            "proc/self/mountinfo": V1_MOUNTS,
            "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": f"{2 * GIB}\n",
            "sys/fs/cgroup/memory/docker/abc/memory.usage_in_bytes": f"{GIB}\n",
            "sys/fs/cgroup/memory/docker/abc/memory.stat": f"total_inactive_file {GIB // 2}\n",
            "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "150000\n",
            "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000\n",
        },
    )
    assert available_memory_bytes(host) == 3 * GIB // 2
    assert cpu_quota(host) == 1.5


def test_version_1_writes_no_limit_as_a_huge_number_and_minus_one(host: Path) -> None:
    write(
        host,
        {
            "proc/self/cgroup": "5:memory:/\n4:cpu,cpuacct:/\n",
            "proc/self/mountinfo": V1_MOUNTS,
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{GIB}\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
    )
    assert memory_limits(host).cgroup_limit_bytes is None
    assert cpu_limits(host).cgroup_quota is None


def test_a_container_finds_its_limit_at_the_mount_of_its_own_cgroup(host: Path) -> None:
    # Without a cgroup namespace the path is the host's, the mount shows only ours.
    write(
        host,
        {
            "proc/self/cgroup": "5:memory:/docker/abc/job\n",
            "proc/self/mountinfo": V1_MOUNTS.replace(
                "/ /sys/fs/cgroup/memory", "/docker/abc /sys/fs/cgroup/memory"
            ),
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{3 * GIB}\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{5 * GIB}\n",
        },
    )
    assert memory_limits(host).cgroup_limit_bytes == 3 * GIB


@pytest.mark.parametrize("path", ["/../sibling", "/elsewhere"])
def test_a_path_outside_the_namespace_falls_back_to_the_mount(host: Path, path: str) -> None:
    write(
        host,
        {
            "proc/self/cgroup": f"0::{path}\n",
            "proc/self/mountinfo": V2_MOUNT.replace("/ /sys", "/inside /sys"),
            "sys/fs/cgroup/cpu.max": "100000 100000\n",
        },
    )
    assert cpu_quota(host) == 1.0


def test_a_group_over_its_limit_leaves_nothing(host: Path) -> None:
    write(
        host,
        {
            "proc/self/cgroup": "0::/job\n",
            "proc/self/mountinfo": V2_MOUNT,
            "sys/fs/cgroup/job/memory.max": f"{GIB}\n",
            "sys/fs/cgroup/job/memory.current": f"{2 * GIB}\n",
        },
    )
    assert available_memory_bytes(host) == 0


def test_cores_in_the_mask_that_are_not_online_do_not_count(host: Path) -> None:
    write(
        host,
        {
            "proc/self/status": "Cpus_allowed_list:\t0,2-127\n",
            "sys/devices/system/cpu/online": "0-3\n",
        },
    )
    limits = cpu_limits(host)
    assert (limits.num_online, limits.num_affinity) == (4, 3)


def test_a_machine_that_shows_nothing_still_gets_sane_answers(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) >= 1
    assert available_memory_bytes(tmp_path) > 0


def test_malformed_files_mean_no_limit(host: Path) -> None:
    write(
        host,
        {
            "proc/self/cgroup": "nonsense\n0::/job\n",
            "proc/self/mountinfo": "short line\n- cgroup2\n" + V2_MOUNT,
            "proc/self/status": "Cpus_allowed_list:\tall\n",
            "sys/fs/cgroup/job/memory.max": "many\n",
            "sys/fs/cgroup/job/cpu.max": "100000\n",
        },
    )
    assert available_memory_bytes(host) == 48 * GIB
    assert cpu_quota(host) == 8.0


def test_this_machine_grants_no_more_cores_than_the_scheduler_does() -> None:
    assert cpu_limits().num_affinity == len(os.sched_getaffinity(0))
