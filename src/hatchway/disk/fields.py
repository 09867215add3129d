"""Where the fields of a qcow2 header lie, and what its bits and numbers mean."""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag

MAGIC = b"QFI\xfb"
BASE = struct.Struct(">4sIQIIQIIQQIIQ")
VERSION_3 = struct.Struct(">QQQII")
# Its kind and length; its data follow.
EXTENSION = struct.Struct(">II")
COMPRESSIONS = {0: "zlib", 1: "zstd"}

# Of entries of L1 and L2 tables: that nobody else refers to what lies there.
COPIED = 1 << 63

# Where fields lie that are changed by themselves.
REFCOUNT_TABLE_AT = 48
INCOMPATIBLE_AT = 72
AUTOCLEAR_AT = 88
# Of the autoclear bits: that bitmaps hold, which they do not once somebody writes who knows
# none; and that a data file holds the guest's disk as it is.
AUTOCLEAR_BITMAPS = 1 << 0
AUTOCLEAR_RAW_DATA_FILE = 1 << 1


class Extension(IntEnum):
    """Kinds of header extensions."""

    BACKING_FORMAT = 0xE2792ACA
    FEATURE_NAMES = 0x6803F857
    ENCRYPTION = 0x0537BE77
    DATA_FILE = 0x44415441
    BITMAPS = 0x23852875


class Feature(IntFlag):
    """Incompatible features: whoever does not know one must not open the file."""

    DIRTY = 1 << 0
    CORRUPT = 1 << 1
    DATA_FILE = 1 << 2
    COMPRESSION = 1 << 3
    EXTENDED_L2 = 1 << 4


KNOWN_FEATURES = sum(Feature)
