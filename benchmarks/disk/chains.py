"""Chains that qemu-img and qemu-io make, for the benchmarks."""

from __future__ import annotations

import random
import subprocess
import tempfile
from pathlib import Path

CLUSTER = 1 << 16


def make_spread(directory: Path, length: int, disk_bytes: int) -> Path:
    """Each cluster lies in one file, drawn at random.

    Returns:
        The active image.
    """
    place = random.Random(length)
    files = [place.randrange(length) for _ in range(disk_bytes // CLUSTER)]
    written: list[list[int]] = [[] for _ in range(length)]
    for cluster, file in enumerate(files):
        written[file].append(cluster)
    return _make(directory, written, disk_bytes)


def make_over(directory: Path, length: int, disk_bytes: int, num_overwritten: int) -> Path:
    """The base is full, and each further file overwrites so many clusters, drawn at random.

    Returns:
        The active image.
    """
    place = random.Random(length)
    num_clusters = disk_bytes // CLUSTER
    few = min(num_overwritten, num_clusters)
    written = [sorted(place.sample(range(num_clusters), few)) for _ in range(length - 1)]
    return _make(directory, [list(range(num_clusters)), *written], disk_bytes)


def make_sparse(directory: Path, length: int, disk_bytes: int) -> Path:
    """Each file holds one cluster, drawn at random, of what each of its L2 tables speaks for.

    It has all L2 tables, then, and hardly any data.

    Returns:
        The active image.
    """
    place = random.Random(length)
    per_table = CLUSTER // 8
    num_clusters = disk_bytes // CLUSTER
    tables = [
        range(first, min(first + per_table, num_clusters))
        for first in range(0, num_clusters, per_table)
    ]
    return _make(
        directory, [[place.choice(one) for one in tables] for _ in range(length)], disk_bytes
    )


def make_holding(directory: Path, length: int, image: Path) -> Path:
    """What a raw image holds, each cluster in one file, drawn at random.

    Where there are files below that one, one of them, drawn at random, has something else there:
    who reads it finds no file system. Clusters of zeros lie in no file.

    Returns:
        The active image.
    """
    directory.mkdir()
    place = random.Random(length)
    held: list[list[int]] = [[] for _ in range(length)]
    covered: list[list[int]] = [[] for _ in range(length)]
    disk_bytes = image.stat().st_size
    with image.open("rb") as file:
        for cluster in range(disk_bytes // CLUSTER):
            if any(file.read(CLUSTER)):
                number = place.randrange(length)
                held[number].append(cluster)
                if number:
                    covered[place.randrange(number)].append(cluster)
        top = directory
        for number in range(length):
            commands = [f"write -q -P 165 {at} {size}" for at, size in _stretches(covered[number])]
            with tempfile.TemporaryDirectory() as pieces:
                for at, size in _stretches(held[number]):
                    piece = Path(pieces) / str(at)
                    file.seek(at)
                    piece.write_bytes(file.read(size))
                    commands.append(f"write -q -s {piece} {at} {size}")
                top = _add(directory, number, disk_bytes, commands)
    return top


def run_qemu(*command: str) -> None:
    """Run one of QEMU's tools.

    Raises:
        SystemExit: If it is not installed.
    """
    try:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    except FileNotFoundError:
        raise SystemExit(f"{command[0]} is missing; `make setup-system` installs it") from None


def _make(directory: Path, written: list[list[int]], disk_bytes: int) -> Path:
    directory.mkdir()
    top = directory
    for number, clusters in enumerate(written):
        commands = [
            f"write -q -P {number % 255 + 1} {start} {count}"
            for start, count in _stretches(clusters)
        ]
        top = _add(directory, number, disk_bytes, commands)
    return top


def _add(directory: Path, number: int, disk_bytes: int, commands: list[str]) -> Path:
    """Make the file with this number in a chain, over the one before, and write to it."""
    top = directory / f"{number}.qcow2"
    below = ["-u", "-b", f"{number - 1}.qcow2", "-F", "qcow2"] if number else []
    run_qemu("qemu-img", "create", "-q", "-f", "qcow2", *below, str(top), str(disk_bytes))
    if commands:
        # Not through the chain, which QEMU would open for each file anew.
        alone = f"driver=qcow2,file.driver=file,file.filename={top},backing="
        listed = [part for command in commands for part in ("-c", command)]
        run_qemu("qemu-io", *listed, "--image-opts", alone)
    return top


def _stretches(clusters: list[int]) -> list[tuple[int, int]]:
    """Start and length, in bytes, of neighbours together; at most 16 MiB."""
    found: list[tuple[int, int]] = []
    for cluster in clusters:
        start, count = found[-1] if found else (-1, 0)
        if start + count == cluster * CLUSTER and count < 16 << 20:
            found[-1] = start, count + CLUSTER
        else:
            found.append((cluster * CLUSTER, CLUSTER))
    return found
