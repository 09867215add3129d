"""Incremental checkpoints: what was written to memory since the last one, as a layer."""

from hatchway.checkpoint.errors import DamagedCheckpointError
from hatchway.checkpoint.restoring import Restored, restore, steps_of
from hatchway.checkpoint.saving import IncrementalSnapshot, Saved

__all__ = [
    "DamagedCheckpointError",
    "IncrementalSnapshot",
    "Restored",
    "Saved",
    "restore",
    "steps_of",
]
