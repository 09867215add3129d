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
USER_MODE_ONLY = 1
API_VERSION = 0xAA
WP_UNPOPULATED = 1 << 13
WP_ASYNC = 1 << 15

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
        self.fd = open_userfaultfd()
        try:
            features = WP_ASYNC | WP_UNPOPULATED
            fcntl.ioctl(self.fd, _API, bytearray(_API_STRUCT.pack(API_VERSION, features, 0)))
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


def open_userfaultfd() -> int:
    """A descriptor for this process.

    Raises:
        BackendUnavailableError: If the kernel or a sandbox does not give one.
    """
    number = SYSCALL_NUMBERS.get(platform.machine())
    if number is None:
        raise BackendUnavailableError(
            f"userfaultfd is not known on {platform.machine()}", backend="pagemap_scan"
        )
    libc = ctypes.CDLL(None, use_errno=True)
    flags = os.O_CLOEXEC | os.O_NONBLOCK | USER_MODE_ONLY
    fd: int = libc.syscall(ctypes.c_long(number), ctypes.c_long(flags))
    if fd >= 0:
        return fd
    code = ctypes.get_errno()
    hint = " (a sandbox, as of Docker, may forbid it)" if code == errno.EPERM else ""
    raise BackendUnavailableError(
        f"userfaultfd failed: {os.strerror(code)}{hint}", backend="pagemap_scan"
    )
