"""What is installed: Python, torch, a GPU that torch can use, our kernels, QEMU."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import warnings
from dataclasses import dataclass
from importlib import import_module

from hatchway.base.units import format_bytes
from hatchway.cli.doctor.finding import Finding, Mark

__all__ = [
    "Gpu",
    "Tool",
    "Torch",
    "assess_gpu",
    "assess_native",
    "assess_python",
    "assess_tool",
    "assess_torch",
    "find_tool",
    "inspect_torch",
    "software_findings",
]

_TESTED_PYTHON = (3, 11)
# What each tool is good for: (with it, without it).
_TOOLS = {
    "qemu-img": (
        "chains can be made and checked with stock QEMU",
        "no comparison with stock QEMU; hatchway.disk does not need it",
    ),
    "qemu-nbd": (
        "images can be served by stock QEMU for comparison",
        "no comparison with stock QEMU over NBD",
    ),
    "nbdkit": (
        "disk exports can be tested behind fault-injection filters",
        "disk exports are tested without nbdkit's filters",
    ),
}
_TOOL_DEADLINE_S = 5.0


@dataclass(frozen=True)
class Gpu:
    """One GPU that torch can use."""

    name: str
    memory_bytes: int


@dataclass(frozen=True)
class Torch:
    """The torch that this Python imports."""

    version: str
    built_for: str
    gpus: tuple[Gpu, ...]


@dataclass(frozen=True)
class Tool:
    """A program on the search path, and its version."""

    name: str
    version: str


def software_findings() -> list[Finding]:
    """Inspect the software of this Python environment and the tools beside it."""
    torch, failure = inspect_torch()
    return [
        assess_python(sys.version_info[:3], platform.python_implementation()),
        assess_torch(torch, failure),
        assess_gpu(torch),
        assess_native(native_abi_version()),
        *(assess_tool(name, find_tool(name)) for name in _TOOLS),
    ]


def assess_python(version: tuple[int, ...], implementation: str) -> Finding:
    """Say whether this Python is one that Hatchway supports."""
    is_tested = version[:2] == _TESTED_PYTHON and implementation == "CPython"
    return Finding(
        "python",
        "Python",
        Mark.OK if is_tested else Mark.LIMITED,
        f"{implementation} {'.'.join(str(number) for number in version)}",
        _about_python(version[:2], implementation),
        {"version": list(version), "implementation": implementation},
    )


def _about_python(version: tuple[int, ...], implementation: str) -> str:
    if implementation == "CPython" and version == _TESTED_PYTHON:
        return "what Hatchway is tested with"
    if implementation == "CPython" and (3, 10) <= version < (3, 15):
        return "should work; Hatchway is tested with 3.11"
    return "not supported: use CPython 3.10 to 3.14, best 3.11"


def inspect_torch() -> tuple[Torch | None, str]:
    """Import torch and look at its GPUs; return (None, reason) if that fails."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return None, str(error)
    gpus: list[Gpu] = []
    # A broken driver warns here; what it means is said in the finding instead.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if torch.cuda.is_available():
            for index in range(torch.cuda.device_count()):
                properties = torch.cuda.get_device_properties(index)
                gpus.append(Gpu(properties.name, properties.total_memory))
    built_for = "CPU"
    if torch.version.cuda:
        built_for = f"CUDA {torch.version.cuda}"
    elif torch.version.hip:
        built_for = f"ROCm {torch.version.hip}"
    return Torch(str(torch.__version__), built_for, tuple(gpus)), ""


def assess_torch(torch: Torch | None, failure: str = "") -> Finding:
    """Say whether the loader can run."""
    if torch is None:
        return Finding(
            "torch",
            "torch",
            Mark.MISSING,
            failure or "not installed",
            "hatchway.loader needs it: pip install torch",
        )
    return Finding(
        "torch",
        "torch",
        Mark.OK,
        f"{torch.version}, built for {torch.built_for}",
        "hatchway.loader can run",
        {"version": torch.version, "built_for": torch.built_for},
    )


def assess_gpu(torch: Torch | None) -> Finding:
    """Say whether batches can be copied ahead to a GPU."""
    if torch is not None and torch.gpus:
        first = torch.gpus[0]
        count = len(torch.gpus)
        value = f"{first.name}, {format_bytes(first.memory_bytes)}"
        return Finding(
            "gpu",
            "GPU",
            Mark.OK,
            value if count == 1 else f"{count} GPUs, the first {value}",
            "with pin_memory=True batches are pinned in the training process; no copy ahead yet",
            {"gpus": [{"name": g.name, "memory_bytes": g.memory_bytes} for g in torch.gpus]},
        )
    consequence = "batches stay in host memory; all else works"
    if torch is not None and torch.built_for == "CPU":
        consequence += " (this torch is built for the CPU only)"
    return Finding("gpu", "GPU", Mark.MISSING, "none that torch can use", consequence, {"gpus": []})


def native_abi_version() -> int | str:
    """Return the interface version of the loader's kernels, or why they do not run."""
    if os.environ.get("HATCHWAY_PURE_PYTHON"):
        return "switched off by HATCHWAY_PURE_PYTHON"
    try:
        return int(import_module("hatchway.loader._native").abi_version())
    except (ImportError, OSError) as error:
        return str(error)


def assess_native(abi_version: int | str) -> Finding:
    """Say whether the compiled kernels or their Python twins run."""
    if isinstance(abi_version, int):
        return Finding(
            "native",
            "native kernels",
            Mark.OK,
            f"interface version {abi_version}",
            "hot loops of the loader run compiled",
            {"abi_version": abi_version},
        )
    return Finding(
        "native",
        "native kernels",
        Mark.MISSING,
        abi_version,
        "their Python twins run instead: same results, slower on cheap samples; reinstall "
        "hatchway with a C++ compiler",
        {"abi_version": None},
    )


def find_tool(name: str) -> Tool | None:
    """Look for a program on the search path and ask for its version."""
    path = shutil.which(name)
    if path is None:
        return None
    try:
        answer = subprocess.run(
            [path, "--version"],
            capture_output=True,
            text=True,
            timeout=_TOOL_DEADLINE_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Tool(name, f"version unknown ({type(error).__name__})")
    lines = answer.stdout.strip().splitlines()
    return Tool(name, lines[0] if lines else "version unknown")


def assess_tool(name: str, tool: Tool | None) -> Finding:
    """Say what one of QEMU's or nbdkit's programs adds."""
    with_it, without_it = _TOOLS[name]
    return Finding(
        name.replace("-", "_"),
        name,
        Mark.MISSING if tool is None else Mark.OK,
        "not found" if tool is None else tool.version,
        without_it if tool is None else with_it,
        {"version": None if tool is None else tool.version},
    )
