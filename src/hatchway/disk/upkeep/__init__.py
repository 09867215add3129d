"""Keeping chains in order: new overlays, commits, other backing files, fewer layers, sizes."""

from hatchway.disk.overlays import Overlay
from hatchway.disk.upkeep.committing import Committed, commit
from hatchway.disk.upkeep.merging import Merged, merge
from hatchway.disk.upkeep.rebasing import Rebased, rebase
from hatchway.disk.upkeep.resizing import resize
from hatchway.disk.upkeep.snapshotting import snapshot

__all__ = [
    "Committed",
    "Merged",
    "Overlay",
    "Rebased",
    "commit",
    "merge",
    "rebase",
    "resize",
    "snapshot",
]
