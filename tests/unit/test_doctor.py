"""Each line of the doctor says what was found and what follows from it."""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path

import pytest

from hatchway.cli import main
from hatchway.cli.doctor.finding import Finding, Mark, to_json
from hatchway.cli.doctor.host import (
    assess_cpu,
    assess_descriptors,
    assess_memory,
    assess_shared_memory,
    assess_start_methods,
    shared_memory_bytes,
)
from hatchway.cli.doctor.kernel import Probe, assess_kernel, probe_psi
from hatchway.cli.doctor.software import (
    Gpu,
    Tool,
    Torch,
    assess_gpu,
    assess_native,
    assess_python,
    assess_tool,
    assess_torch,
    find_tool,
)
from hatchway.loader.machine import CpuLimits, MemoryLimits

GIB = 1 << 30
WORKS = Probe(True, "works")
REFUSED = Probe(False, "not permitted")


@pytest.mark.parametrize(
    ("limits", "mark", "said"),
    [
        (CpuLimits(8, 8, None), Mark.OK, "up to 8 workers"),
        (CpuLimits(8, 8, 1.5), Mark.LIMITED, "grants 1.5 cores' worth"),
        (CpuLimits(8, 2, None), Mark.LIMITED, "affinity mask allows 2"),
        (CpuLimits(8, 8, 16.0), Mark.OK, "up to 8 workers"),
        (CpuLimits(1, 1, None), Mark.LIMITED, "share one core"),
    ],
)
def test_cores_are_judged_by_the_tightest_limit(limits: CpuLimits, mark: Mark, said: str) -> None:
    finding = assess_cpu(limits)
    assert finding.mark is mark
    assert said in finding.consequence


def test_memory_is_judged_by_what_the_cgroup_leaves() -> None:
    roomy = assess_memory(MemoryLimits(64 * GIB, 48 * GIB, None, None))
    tight = assess_memory(MemoryLimits(64 * GIB, 48 * GIB, 2 * GIB, GIB))
    assert (roomy.mark, tight.mark) == (Mark.OK, Mark.LIMITED)
    assert tight.value == "1.0 GiB available of 64.0 GiB, cgroup limit 2.0 GiB"


def test_the_default_shared_memory_of_a_container_is_called_limited() -> None:
    finding = assess_shared_memory((64 << 20, 60 << 20))
    assert finding.mark is Mark.LIMITED
    assert "--shm-size" in finding.consequence


def test_a_machine_without_shared_memory_is_told_the_way_out(tmp_path: Path) -> None:
    assert shared_memory_bytes(tmp_path) is None
    finding = assess_shared_memory(None)
    assert finding.mark is Mark.MISSING
    assert "mount a tmpfs" in finding.consequence


def test_shared_memory_is_measured_where_it_is_mounted(tmp_path: Path) -> None:
    (tmp_path / "dev/shm").mkdir(parents=True)
    measured = shared_memory_bytes(tmp_path)
    assert measured is not None
    size, free = measured
    assert 0 <= free <= size


@pytest.mark.parametrize(
    ("soft", "hard", "mark", "said"),
    [
        (1024, 1048576, Mark.OK, "ulimit -n"),
        (1024, resource.RLIM_INFINITY, Mark.OK, "ulimit -n"),
        (1024, 2048, Mark.LIMITED, "hard limit from root"),
        (65536, 65536, Mark.OK, "chains of 1,000 files and many"),
    ],
)
def test_open_files_are_judged_by_what_the_user_can_raise(
    soft: int, hard: int, mark: Mark, said: str
) -> None:
    finding = assess_descriptors(soft, hard)
    assert finding.mark is mark
    assert said in finding.consequence


def test_start_methods_name_the_default() -> None:
    assert assess_start_methods(["forkserver", "spawn", "fork"]).value.startswith(
        "forkserver (default)"
    )
    assert assess_start_methods(["spawn"]).mark is Mark.LIMITED


def test_a_kernel_that_refuses_everything_has_a_consequence_for_each() -> None:
    findings = assess_kernel(
        memfd=REFUSED,
        pidfd=REFUSED,
        psi=REFUSED,
        io_uring=REFUSED,
        pagemap_scan=REFUSED,
        userfaultfd=REFUSED,
    )
    assert {finding.mark for finding in findings} == {Mark.MISSING}
    assert {finding.value for finding in findings} == {"not permitted"}
    assert all(finding.consequence for finding in findings)


@pytest.mark.parametrize("userfaultfd", [REFUSED, WORKS])
def test_page_scans_are_limited_without_asynchronous_write_protection(userfaultfd: Probe) -> None:
    findings = assess_kernel(
        memfd=WORKS,
        pidfd=WORKS,
        psi=WORKS,
        io_uring=WORKS,
        pagemap_scan=WORKS,
        userfaultfd=userfaultfd,
    )
    marks = {finding.key: finding.mark for finding in findings}
    assert marks["pagemap_scan"] is Mark.LIMITED
    assert marks["userfaultfd"] is not Mark.OK


def test_pressure_is_found_where_the_kernel_shows_it(tmp_path: Path) -> None:
    assert probe_psi(tmp_path) == Probe(False, "not in this kernel")
    (tmp_path / "proc/pressure").mkdir(parents=True)
    for name in ("cpu", "memory", "io"):
        (tmp_path / "proc/pressure" / name).write_text("some avg10=0.00\n")
    assert probe_psi(tmp_path) == Probe(True, "readable")


def test_missing_torch_is_said_with_the_way_out() -> None:
    finding = assess_torch(None, "No module named 'torch'")
    assert finding.mark is Mark.MISSING
    assert "pip install torch" in finding.consequence


def test_gpus_are_counted_and_a_cpu_build_is_named() -> None:
    two = Torch("2.13.0", "CUDA 13.0", (Gpu("H100", 80 * GIB), Gpu("H100", 80 * GIB)))
    assert assess_gpu(two).value == "2 GPUs, the first H100, 80.0 GiB"
    assert "CPU only" in assess_gpu(Torch("2.13.0+cpu", "CPU", ())).consequence
    assert assess_gpu(None).mark is Mark.MISSING


def test_only_the_python_that_is_tested_is_called_so() -> None:
    assert assess_python((3, 11, 7), "CPython").mark is Mark.OK
    assert "should work" in assess_python((3, 14, 0), "CPython").consequence
    assert "not supported" in assess_python((3, 15, 0), "CPython").consequence
    assert assess_python((3, 11, 0), "PyPy").mark is Mark.LIMITED


def test_absent_kernels_name_their_replacement() -> None:
    assert assess_native(1).mark is Mark.OK
    assert "Python twins" in assess_native("No module named _native").consequence


def test_a_tool_is_found_on_the_search_path_with_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "qemu-img"
    program.write_text(f"#!{sys.executable}\nprint('qemu-img version 10.0')\nprint('more')\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_tool("qemu-img") == Tool("qemu-img", "qemu-img version 10.0")
    assert find_tool("nbdkit") is None
    assert assess_tool("nbdkit", None).mark is Mark.MISSING


def test_the_json_form_carries_every_field_and_its_schema() -> None:
    finding = Finding("cpu", "cores", Mark.OK, "2 cores", "two workers", {"num_online": 2})
    assert json.loads(to_json([finding], version="1.0")) == {
        "schema": 1,
        "hatchway": "1.0",
        "findings": [
            {
                "key": "cpu",
                "mark": "ok",
                "value": "2 cores",
                "consequence": "two workers",
                "details": {"num_online": 2},
            }
        ],
    }


def test_the_command_describes_this_machine_and_succeeds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["doctor", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    by_key = {finding["key"]: finding for finding in document["findings"]}
    assert by_key["cpu"]["details"]["num_affinity"] == len(os.sched_getaffinity(0))
    assert {"memory", "memfd", "pagemap_scan", "torch", "gpu", "native"} <= by_key.keys()
    assert all(f["value"] and f["consequence"] for f in document["findings"])


def test_the_command_prints_one_line_a_finding(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.split()[0] in {"ok", "limited", "missing"} for line in lines)
    assert len(lines) == 18


def test_without_a_subcommand_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "doctor" in capsys.readouterr().err
