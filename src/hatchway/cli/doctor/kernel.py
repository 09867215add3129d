"""What this kernel offers this user: each feature is tried, never guessed.

Probe, never compare kernel versions: distributions backport features, and
sandboxes take them away (seccomp) from kernels that have them.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import struct
from dataclasses import dataclass
from pathlib import Path

from hatchway.cli.doctor.finding import Finding, Mark

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
_SYS_USERFAULTFD = {"x86_64": 323, "aarch64": 282, "riscv64": 282, "ppc64le": 364, "s390x": 355}
_UFFD_USER_MODE_ONLY = 1
_USERFAULTFD_IOC_NEW = 0xAA00
_UFFDIO_API = 0xC018AA3F
_UFFD_API = 0xAA
_UFFD_FEATURE_WP_ASYNC = 1 << 15
_PAGEMAP_SCAN = 0xC0606610
_PAGE_IS_PRESENT = 1 << 3


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
            "written pages are found and re-armed in one call"
            if tracking
            else "written pages are found in one call, but write-protection needs another way",
            "written pages are found through soft-dirty bits or mprotect, at a higher cost",
            limited=not tracking,
        ),
        _finding(
            "userfaultfd",
            "userfaultfd",
            userfaultfd,
            "pages are write-protected without stopping the program"
            if userfaultfd.asynchronous
            else "write-protection stops the writer at each first write: a higher cost",
            "written pages are found through soft-dirty bits or mprotect, at a higher cost",
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
    """Try to scan one resident page of this process."""
    with mmap.mmap(-1, mmap.PAGESIZE) as page:
        page[0] = 1
        anchor = ctypes.c_char.from_buffer(page)
        start = ctypes.addressof(anchor)
        region = ctypes.create_string_buffer(24)
        argument = bytearray(
            struct.pack(
                "=12Q",
                96,  # size of this structure
                0,  # flags
                start,
                start + mmap.PAGESIZE,
                0,  # walk_end, filled in by the kernel
                ctypes.addressof(region),
                1,  # regions that fit
                0,  # no bound on pages
                0,  # no inverted category
                _PAGE_IS_PRESENT,  # required
                0,  # any of
                _PAGE_IS_PRESENT,  # reported
            )
        )
        try:
            with open("/proc/self/pagemap", "rb") as pagemap:
                found = fcntl.ioctl(pagemap, _PAGEMAP_SCAN, argument)
        except OSError as error:
            return _refused(error)
        finally:
            del anchor
    return Probe(True, "works") if found == 1 else Probe(False, "does not see a resident page")


def probe_userfaultfd() -> Probe:
    """Try both ways to a userfaultfd, and ask it what it can do."""
    probe, descriptor = _open_userfaultfd()
    if descriptor is None:
        return probe
    try:
        api = bytearray(struct.pack("=3Q", _UFFD_API, 0, 0))
        fcntl.ioctl(descriptor, _UFFDIO_API, api)
    except OSError as error:
        return _refused(error)
    finally:
        os.close(descriptor)
    features = struct.unpack("=3Q", api)[1]
    return Probe(True, probe.how, asynchronous=bool(features & _UFFD_FEATURE_WP_ASYNC))


def _open_userfaultfd() -> tuple[Probe, int | None]:
    number = _SYS_USERFAULTFD.get(platform.machine())
    result = -errno.ENOSYS
    if number is not None:
        # User-mode faults only: this is what an unprivileged process may ask for.
        result = _syscall(number, _UFFD_USER_MODE_ONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if result >= 0:
        return Probe(True, "for user-mode faults"), result
    try:
        device = os.open("/dev/userfaultfd", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return _refused(OSError(-result, os.strerror(-result))), None
    try:
        descriptor = fcntl.ioctl(device, _USERFAULTFD_IOC_NEW, os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        return _refused(error), None
    finally:
        os.close(device)
    return Probe(True, "through /dev/userfaultfd"), descriptor


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
