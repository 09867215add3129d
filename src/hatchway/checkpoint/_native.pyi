"""Kernels of hatchway.checkpoint."""



def abi_version() -> int:
    """Compared when it is loaded."""

def gather(sources: object, target: object, crcs: object) -> None:
    """
    Copy clusters from addresses, and sum them; see native/checkpoint/clusters.hpp.
    """

def checksums(data: object, crcs: object) -> None:
    """Sum clusters."""
