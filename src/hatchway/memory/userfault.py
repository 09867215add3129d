"""The kernel's userfaultfd: here only its asynchronous write-protection, without a handler.

The interface: ``linux/userfaultfd.h``. The headers of distributions may be older than their
kernels, so what is needed stands here.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import struct

from hatchway.memory.errors import BackendUnavailableError

SYSCALL_NUMBERS = {"x86_64": 323, "aarch64": 282, "riscv64": 282, "ppc64le": 364, "s390x": 355}
WP_UNPOPULATED = 1 << 13
WP_ASYNC = 1 << 15

_USER_MODE_ONLY = 1
_API_VERSION = 0xAA
_NEW = 0xAA00
_API = 0xC018AA3F
_REGISTER = 0xC020AA00
_UNREGISTER = 0x8010AA01
_REGISTER_MODE_WP = 2
_API_STRUCT = struct.Struct("QQQ")
_RANGE = struct.Struct("QQ")
_REGISTER_STRUCT = struct.Struct("QQQQ")


class AsyncWriteProtection:
    """A userfaultfd under which the kernel itself marks a protected page that is written to.

    Works without privileges. What the kernel writes into the memory (``read`` into a buffer, for
    one) is marked as well.

    Raises:
        BackendUnavailableError: If the kernel or a sandbox does not offer it.
    """

    def __init__(self) -> None:
        try:
            self.fd, _ = open_userfaultfd()
        except OSError as error:
            hint = " (a sandbox, as of Docker, may forbid it)" if error.errno == errno.EPERM else ""
            raise BackendUnavailableError(
                f"userfaultfd failed: {error.strerror}{hint}", backend="pagemap_scan"
            ) from error
        try:
            agree(self.fd, WP_ASYNC | WP_UNPOPULATED)
        except OSError as error:
            self.close()
            raise BackendUnavailableError(
                "this kernel's userfaultfd has no asynchronous write-protection (Linux 6.7 and "
                f"later have): {error.strerror}",
                backend="pagemap_scan",
            ) from error

    def register(self, start: int, end: int) -> None:
        """Let pages be protected. Those that are registered already stay as they are.

        Raises:
            OSError: ``EBUSY`` if another userfaultfd has them, ``EINVAL`` if nothing is mapped.
        """
        raw = _REGISTER_STRUCT.pack(start, end - start, _REGISTER_MODE_WP, 0)
        fcntl.ioctl(self.fd, _REGISTER, bytearray(raw))

    def unregister(self, start: int, end: int) -> None:
        """Take all protection away.

        Raises:
            OSError: ``EINVAL`` if nothing is mapped there.
        """
        fcntl.ioctl(self.fd, _UNREGISTER, bytearray(_RANGE.pack(start, end - start)))

    def close(self) -> None:
        """Take all protection away, everywhere."""
        os.close(self.fd)


def open_userfaultfd() -> tuple[int, str]:
    """A descriptor for this process, and which way it came.

    Raises:
        OSError: If neither way is open to this user; the reason of the first one.
    """
    number = SYSCALL_NUMBERS.get(platform.machine())
    refusal = OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if number is not None:
        libc = ctypes.CDLL(None, use_errno=True)
        # User-mode faults only: this is what an unprivileged process may ask for.
        flags = os.O_CLOEXEC | os.O_NONBLOCK | _USER_MODE_ONLY
        fd: int = libc.syscall(ctypes.c_long(number), ctypes.c_long(flags))
        if fd >= 0:
            return fd, "for user-mode faults"
        refusal = OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    try:
        device = os.open("/dev/userfaultfd", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        raise refusal from None
    try:
        return fcntl.ioctl(device, _NEW, os.O_CLOEXEC | os.O_NONBLOCK), "through /dev/userfaultfd"
    finally:
        os.close(device)


def agree(fd: int, features: int) -> int:
    """Ask a new descriptor for features; all those that the kernel has.

    Raises:
        OSError: If it does not have some of them.
    """
    api = bytearray(_API_STRUCT.pack(_API_VERSION, features, 0))
    fcntl.ioctl(fd, _API, api)
    return int(_API_STRUCT.unpack(api)[1])
