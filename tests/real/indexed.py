"""Chains that QEMU makes, and what their stored indexes say beside their own tables."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from hatchway.disk import Chain
from hatchway.disk.index import Built, StoredIndex, build, building, digest_of
from hatchway.disk.leaves import LEAF_GRANULES, merged

MIB = 1024 * 1024


def let_time_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have files be indexed a while after they were written, by the clock."""
    monkeypatch.setattr(building, "file_system_time", lambda fd: time.time_ns() + 10**10)


def index(top: Path, **options: Any) -> Built:
    """Build the index of all files below the active one."""
    with Chain(top) as chain:
        return build(chain.images[:-1], **options)


def num_indexed(top: Path, *, by_digest: bool = False) -> int:
    """How many layers are read through the index; all words are those that merging finds."""
    if by_digest:
        with Chain(top, use_index=False) as chain:
            found = StoredIndex.find(chain.images[-2].path)
            if found is None:
                return 0
            with found:
                identities = [image.file.identity for image in chain.images[:-1]]
                return found.valid_prefix(
                    identities, lambda number: digest_of(chain.images[number])
                )
    with Chain(top) as chain, Chain(top, use_index=False) as plain:
        assert plain.num_indexed == 0
        assert [image.path for image in chain.images] == [image.path for image in plain.images]
        step = LEAF_GRANULES * chain.granule_bytes
        for rank in range(-(-chain.size // step)):
            expected = merged(plain.images, rank * step, plain.granule_bytes)
            leaf = chain._leaves.load(rank)
            assert bytes(leaf.words) == bytes(expected.words), rank
            assert bytes(leaf.layers) == bytes(expected.layers), rank
        return chain.num_indexed
