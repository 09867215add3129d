"""Records in an image: a dataset whose versions are layers of a chain."""

from hatchway.disk.records.reading import Records
from hatchway.disk.records.targets import RawFile, ReadTarget, WriteTarget
from hatchway.disk.records.writing import append_records, write_records

__all__ = [
    "RawFile",
    "ReadTarget",
    "Records",
    "WriteTarget",
    "append_records",
    "write_records",
]
