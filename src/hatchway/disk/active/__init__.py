"""Writing to the active layer of a chain."""

from hatchway.disk.active.creation import create, create_filled
from hatchway.disk.active.layer import ActiveLayer
from hatchway.disk.active.storage import OpenFile, WritableFile, open_to_write

__all__ = ["ActiveLayer", "OpenFile", "WritableFile", "create", "create_filled", "open_to_write"]
