"""An active layer over a file of a test, with the bytes of what lies below it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from hatchway.disk import Chain
from hatchway.disk.active import ActiveLayer, WritableFile, open_to_write
from hatchway.disk.files import Descriptors
from hatchway.disk.image import Image
from hatchway.disk.words import KIND_SHIFT, VALUE_MASK, Kind

COUNT = 64


@contextmanager
def writing(
    path: Path,
    *,
    opened: Callable[[Path], WritableFile] = open_to_write,
    changed: Callable[[int, int], None] = lambda start, end: None,
    cache_bytes: int = 1 << 20,
) -> Iterator[ActiveLayer]:
    """The active layer of a file, closed at the end."""
    with ExitStack() as stack:
        file = stack.enter_context(_closed(opened(path)))
        image = Image(path, Descriptors())
        stack.callback(image.close)
        header, data = image.header, None
        if header is not None and header.data_file_name is not None:
            data = stack.enter_context(_closed(opened(path.parent / header.data_file_name)))
        below: Callable[[int, int], bytes] = lambda offset, size: bytes(size)  # noqa: E731
        below_bytes = 0
        if header is not None and header.backing_name is not None:
            chain = stack.enter_context(Chain(path.parent / header.backing_name))
            below, below_bytes = chain.read_at, chain.size
        with ActiveLayer(
            image,
            file,
            data,
            below,
            below_bytes=below_bytes,
            changed=changed,
            cache_bytes=cache_bytes,
        ) as layer:
            yield layer


def seen(layer: ActiveLayer, path: Path) -> bytes:
    """All bytes of the disk while it is written to, as its words say where they lie."""
    image = layer._image
    assert image.header is not None
    granule = image.header.granule_bytes
    found = bytearray(layer.size)
    with ExitStack() as stack:
        below = None
        if image.header.backing_name is not None:
            below = stack.enter_context(Chain(path.parent / image.header.backing_name))
        for start in range(0, layer.size, COUNT * granule):
            words = layer.words(start, COUNT, granule)
            for rank in range(COUNT):
                at, word = start + rank * granule, 0 if words is None else int(words[rank])
                kind, value = Kind(word >> KIND_SHIFT), word & VALUE_MASK
                piece = b""
                if kind is Kind.HOLE and below is not None:
                    piece = below.read_at(at, granule)
                elif kind is Kind.DATA:
                    piece = layer._files.data.pread(granule, value)
                elif kind is Kind.COMPRESSED:
                    cluster = image.unpacked(word)
                    piece = cluster[at % len(cluster) :][:granule]
                piece = piece.ljust(granule, b"\0")[: max(0, layer.size - at)]
                found[at : at + len(piece)] = piece
    return bytes(found)


@contextmanager
def _closed(file: WritableFile) -> Iterator[WritableFile]:
    try:
        yield file
    finally:
        file.close()
