"""Kernels of hatchway.memory."""



def abi_version() -> int:
    """Compared when it is loaded."""

class PagemapScanner:
    """PAGEMAP_SCAN over ranges; see native/memory/scan.hpp."""

    def __init__(self, fd: int) -> None: ...

    def take_written(self, pages: object) -> tuple[bytes, int, int]:
        """
        Written pages as rows of bytes, how many ranges were done, and the error of the next one; not from two threads at once.
        """
