"""What this kernel offers this user: each feature is tried, never guessed.

Probe, never compare kernel versions: distributions backport features, and
sandboxes take them away (seccomp) from kernels that have them.
"""

from __future__ import annotations

import ctypes
import errno
import os
from dataclasses import dataclass
from pathlib import Path

from hatchway.cli.doctor.finding import Finding, Mark
from hatchway.memory import BackendUnavailableError
from hatchway.memory.pagemap import Pagemap
from hatchway.memory.userfault import WP_ASYNC, agree, open_userfaultfd

__all__ = [
    "Probe",
    "assess_kernel",
    "kernel_findings",
    "probe_io_uring",
    "probe_memfd",
    "probe_pagemap_scan",
    "probe_pidfd",
    "probe_psi",
    "probe_userfaultfd",
]

_SYS_IO_URING_SETUP = 425  # the same on every architecture


@dataclass(frozen=True)
class Probe:
    """The outcome of trying one kernel feature.

    Attributes:
        available: Whether it worked.
        how: Which way worked, or why none did.
        asynchronous: For userfaultfd, whether write-protection without a
            handler is offered.
    """

    available: bool
    how: str
    asynchronous: bool = False


def kernel_findings(root: Path = Path("/")) -> list[Finding]:
    """Try each kernel feature that a part of Hatchway can use."""
    return assess_kernel(
        memfd=probe_memfd(),
        pidfd=probe_pidfd(),
        psi=probe_psi(root),
        io_uring=probe_io_uring(),
        pagemap_scan=probe_pagemap_scan(),
        userfaultfd=probe_userfaultfd(),
    )


def assess_kernel(
    *,
    memfd: Probe,
    pidfd: Probe,
    psi: Probe,
    io_uring: Probe,
    pagemap_scan: Probe,
    userfaultfd: Probe,
) -> list[Finding]:
    """Turn outcomes into findings with their consequences."""
    tracking = pagemap_scan.available and userfaultfd.available and userfaultfd.asynchronous
    return [
        _finding(
            "memfd",
            "memfd_create",
            memfd,
            "shared memory without a name: nothing is left behind, whoever is killed",
            "the buffer lies in an unlinked file in /dev/shm, whose size then bounds it",
        ),
        _finding(
            "pidfd",
            "pidfd_open",
            pidfd,
            "the death of a worker is seen at once",
            "the death of a worker is seen through the pipe to it",
        ),
        _finding(
            "psi",
            "pressure (PSI)",
            psi,
            "stalls for CPU, memory and I/O can steer policies",
            "policies judge by throughput alone",
        ),
        _finding(
            "io_uring",
            "io_uring",
            io_uring,
            "not needed; disk exports may use it",
            "not needed; disk exports use threads",
        ),
        _finding(
            "pagemap_scan",
            "PAGEMAP_SCAN",
            pagemap_scan,
            "a DirtyTracker finds written pages, and protects them anew, in one call"
            if tracking
            else "written pages are found in one call, but write-protection needs another way",
            "written pages are found by comparing digests, which reads all of the memory",
            limited=not tracking,
        ),
        _finding(
            "userfaultfd",
            "userfaultfd",
            userfaultfd,
            "pages are write-protected without stopping the program"
            if userfaultfd.asynchronous
            else "write-protection stops the writer at each first write: a higher cost",
            "written pages are found by comparing digests, which reads all of the memory",
            limited=not userfaultfd.asynchronous,
        ),
    ]


def probe_memfd() -> Probe:
    """Try to make an anonymous shared-memory file."""
    try:
        os.close(os.memfd_create("hatchway-probe"))
    except (AttributeError, OSError) as error:
        return _refused(error)
    return Probe(True, "works")


def probe_pidfd() -> Probe:
    """Try to open a descriptor for this process."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError) as error:
        return _refused(error)
    return Probe(True, "works")


def probe_psi(root: Path = Path("/")) -> Probe:
    """Try to read the pressure of CPU, memory and I/O."""
    read: list[str] = []
    failure: OSError | None = None
    for name in ("cpu", "memory", "io"):
        try:
            (root / "proc/pressure" / name).read_text()
            read.append(name)
        except OSError as error:
            failure = error
    if failure is None:
        return Probe(True, "readable")
    return Probe(bool(read), ", ".join(read)) if read else _refused(failure)


def probe_io_uring() -> Probe:
    """Try to make a ring of one entry."""
    parameters = ctypes.create_string_buffer(120)
    return _close_or_refuse(_syscall(_SYS_IO_URING_SETUP, 1, ctypes.addressof(parameters)), "works")


def probe_pagemap_scan() -> Probe:
    """Try to scan no page of this process."""
    try:
        Pagemap().close()
    except BackendUnavailableError as error:
        reason = error.__cause__
        return _refused(reason if isinstance(reason, OSError) else error)
    return Probe(True, "works")


def probe_userfaultfd() -> Probe:
    """Try both ways to a userfaultfd, and ask it what it can do."""
    try:
        descriptor, how = open_userfaultfd()
    except OSError as error:
        return _refused(error)
    try:
        features = agree(descriptor, 0)
    except OSError as error:
        return _refused(error)
    finally:
        os.close(descriptor)
    return Probe(True, how, asynchronous=bool(features & WP_ASYNC))


def _syscall(number: int, *arguments: int) -> int:
    """Return the result of a system call, or the negated error number."""
    libc = ctypes.CDLL(None, use_errno=True)
    result: int = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) for a in arguments))
    return result if result >= 0 else -ctypes.get_errno()


def _close_or_refuse(result: int, how: str) -> Probe:
    if result < 0:
        return _refused(OSError(-result, os.strerror(-result)))
    os.close(result)
    return Probe(True, how)


def _refused(error: Exception) -> Probe:
    """Name the reason in words that tell a missing feature from a forbidden one."""
    if isinstance(error, OSError) and error.errno is not None:
        reasons = {
            errno.EPERM: "not permitted",
            errno.EACCES: "not permitted",
            errno.ENOSYS: "not in this kernel",
            errno.ENOTTY: "not in this kernel",
            errno.ENOENT: "not in this kernel",
        }
        return Probe(False, reasons.get(error.errno, os.strerror(error.errno)))
    return Probe(False, "not in this Python")


def _finding(
    key: str, title: str, probe: Probe, good: str, bad: str, *, limited: bool = False
) -> Finding:
    mark = Mark.MISSING if not probe.available else Mark.LIMITED if limited else Mark.OK
    details: dict[str, object] = {"available": probe.available}
    if key == "userfaultfd":
        details["asynchronous_write_protect"] = probe.asynchronous
    return Finding(key, title, mark, probe.how, good if probe.available else bad, details)
