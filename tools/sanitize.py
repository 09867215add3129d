"""Fuzz the native code of disks and checkpoints, or replay what fuzzing found, under sanitizers.

``python tools/sanitize.py replay`` takes a fixed time: the committed inputs and a short stress of
the threads. ``fuzz`` goes on from those inputs for as long as is said.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "tests" / "native"
BUILD = ROOT / "build" / "sanitized"
REPLAY_STRESS_S = 3
_OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=1:allocator_may_return_null=1",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    "TSAN_OPTIONS": "halt_on_error=1",
}
_FLAGS = ["-std=c++20", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-fno-sanitize-recover=all"]
_FLAGS += ["-D_GLIBCXX_ASSERTIONS"]  # so that views are not left either


class Program(NamedTuple):
    """A harness with one set of sanitizers."""

    name: str
    sanitizers: str
    compiler: str = "c++"

    @property
    def path(self) -> Path:
        """Where it is built."""
        return BUILD / f"{self.name}-{self.compiler}-{self.sanitizers.replace(',', '-')}"

    def build(self) -> None:
        """Build it, unless it is newer than all sources."""
        if self.path.exists() and self.path.stat().st_mtime > _newest_source():
            return
        sources = [SOURCES / f"{self.name}.cpp"]
        if self.name.startswith("fuzz") and "fuzzer" not in self.sanitizers:
            sources.append(SOURCES / "driver.cpp")
        command = [self.compiler, *_FLAGS, f"-fsanitize={self.sanitizers}"]
        command += [f"-I{ROOT / 'native'}", f"-I{SOURCES}", *map(str, sources), "-pthread"]
        partial = self.path.with_suffix(".partial")
        subprocess.run([*command, "-o", str(partial)], check=True)
        partial.replace(self.path)

    def run(self, *arguments: object, folder: Path = BUILD) -> None:
        """Run it in a folder, which is left with the input that ended it, if one did."""
        subprocess.run(
            [str(self.path), *map(str, arguments)],
            check=True,
            cwd=folder,
            env={**_OPTIONS, **os.environ},
        )


FUZZERS = {"fuzz_chain": "chain", "fuzz_nbd": "nbd"}
STRESSES = [
    Program(name, sanitizers)
    for name in ("stress_chain", "stress_server")
    for sanitizers in ("address,undefined", "thread")
]
STRESSES.append(Program("stress_clusters", "address,undefined"))


def missing(compiler: str, sanitizers: str) -> str | None:
    """Why a compiler cannot build a program with these sanitizers that runs; None if it can."""
    if shutil.which(compiler) is None:
        return f"there is no {compiler}"
    if "fuzzer" in sanitizers:
        source = "#include <cstddef>\nextern "
        source += '"C" int LLVMFuzzerTestOneInput(const unsigned char *, size_t) { return 0; }'
        arguments = ["-runs=0"]
    else:
        source, arguments = "#include <span>\nint main() { return 0; }", []
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "probe"
        command = [compiler, "-std=c++20", f"-fsanitize={sanitizers}", "-x", "c++", "-"]
        done = subprocess.run(
            [*command, "-o", str(built)], input=source.encode(), capture_output=True, check=False
        )
        if done.returncode != 0:
            return f"{compiler} does not build with -fsanitize={sanitizers}"
        if subprocess.run([built, *arguments], capture_output=True, check=False).returncode != 0:
            return f"what {compiler} builds with -fsanitize={sanitizers} does not run here"
    return None


def _newest_source() -> float:
    folders = [SOURCES, ROOT / "native"]
    return max(path.stat().st_mtime for one in folders for path in one.rglob("*.?pp"))


def _build(programs: list[Program]) -> None:
    BUILD.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(Program.build, programs))


def replay() -> None:
    """Run the committed inputs, and each stress for a few seconds."""
    fuzzers = [Program(name, "address,undefined") for name in FUZZERS]
    _build([*STRESSES, *fuzzers])
    for program in fuzzers:
        program.run(SOURCES / "corpus" / FUZZERS[program.name])
    for program in STRESSES:
        program.run(REPLAY_STRESS_S)


def fuzz(seconds: int) -> None:
    """Run each fuzzer and each stress for so many seconds, with coverage where clang has it."""
    sanitizers, compiler = "fuzzer,address,undefined", "clang++"
    reason = missing(compiler, sanitizers)
    if reason is not None:
        print(f"fuzz: {reason}, so inputs are changed blindly", flush=True)
        sanitizers, compiler = "address,undefined", "c++"
    fuzzers = [Program(name, sanitizers, compiler) for name in FUZZERS]
    _build([*STRESSES, *fuzzers])
    for program in fuzzers:
        found = BUILD / "corpus" / FUZZERS[program.name]
        found.mkdir(parents=True, exist_ok=True)
        print(f"fuzz: {program.name}, {seconds} s; what it finds is kept in {found}", flush=True)
        limits = ["-max_len=2500", "-len_control=0", "-timeout=20", "-rss_limit_mb=1024"]
        seeds = SOURCES / "corpus" / FUZZERS[program.name]
        program.run(found, seeds, f"-max_total_time={seconds}", "-verbosity=0", *limits)
    for program in STRESSES:
        print(f"fuzz: {program.name} with {program.sanitizers}, {seconds} s", flush=True)
        program.run(seconds)


def main() -> int:
    """Fuzz or replay; 1 if something did not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["fuzz", "replay"])
    parser.add_argument("--seconds", type=int, default=30, help="of each program; 30")
    options = parser.parse_args()
    try:
        replay() if options.what == "replay" else fuzz(options.seconds)
    except subprocess.CalledProcessError as error:
        print(f"sanitize: {error.cmd[0]} ended with {error.returncode}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
