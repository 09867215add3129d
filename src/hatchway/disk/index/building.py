"""Making an index, of what there is of it already and of the layers that it lacks."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from hatchway.disk.errors import DamagedIndexError, ImageError
from hatchway.disk.extents import granule_of
from hatchway.disk.image import Image
from hatchway.disk.index.appending import Appender, NewFile, file_system_time, link
from hatchway.disk.index.commits import Made, copied, made
from hatchway.disk.index.records import LayerRecord, record_of, recorded_name
from hatchway.disk.index.sidecar import sidecar_of
from hatchway.disk.index.stored import StoredIndex
from hatchway.disk.index.tables import digest_of
from hatchway.disk.index.tree import IndexFile, Tree, check
from hatchway.disk.locks import lock_to_append

# A file is written anew, without what nobody needs, when it is longer than so many times what
# it was when it was last written as a whole, and this.
_GROWTH, _SLACK_BYTES = 4, 1 << 20


class Built(NamedTuple):
    """What :func:`build` did.

    Attributes:
        path: The index.
        num_layers: That it covers.
        num_reused: Of those, the ones whose tables were not merged again.
        num_leaves: Leaves that it has.
        written_bytes: What was written: appended, or all of a new file.
        file_bytes: How long the file is.
    """

    path: Path
    num_layers: int
    num_reused: int
    num_leaves: int
    written_bytes: int
    file_bytes: int


def build(
    images: Sequence[Image],
    *,
    prove: Literal["stamps", "digest"] = "stamps",
    progress: Callable[[int, int], None] | None = None,
) -> Built:
    """Have the index of a chain beside its highest layer, for overlays of that to be read by.

    What is there already is kept as far as its layers are what they were: an index of the same
    layer, or of one below it, which is carried forward. Only the leaves that other layers touch
    are appended to it, and a hard link gives the file its further name. Readers go on meanwhile;
    a second builder waits. Cut short at any point, the old index is there, or none.

    Args:
        images: The layers, the base first, showing no internal snapshot; locked, or opened less
            than a second ago. Never the active image, which changes.
        prove: ``"stamps"``: a layer whose time stamps prove that it is what it was is not read;
            another one is compared by the digest of its tables. ``"digest"``: each one is, and
            each leaf that is there is looked at.
        progress: Called now and then with how much is done, and of how much.

    Raises:
        ValueError: If there are no images.
        ImageError: If a layer is damaged, or the index cannot be written.
    """
    if not images:
        raise ValueError("images must hold at least one layer")
    if prove not in ("stamps", "digest"):
        raise ValueError(f"prove must be 'stamps' or 'digest', not {prove!r}")
    builder = _Builder(images, prove == "digest", progress or (lambda done, total: None))
    try:
        return builder.run()
    except OSError as error:
        raise ImageError(
            f"{builder.path} cannot be written: {error.strerror}; an index lies beside its layer, "
            "in a directory that can be written to",
            path=builder.path,
        ) from error


class _Builder:
    def __init__(
        self, images: Sequence[Image], by_digest_only: bool, progress: Callable[[int, int], None]
    ) -> None:
        self.path = sidecar_of(images[-1].path)
        self._images = images
        self._identities = [image.file.identity for image in images]
        self._by_digest_only = by_digest_only
        self._progress = progress

    def run(self) -> Built:
        while (layer := self._layer_to_go_on_from()) is not None:
            try:
                fd = os.open(sidecar_of(layer), os.O_RDWR | os.O_CLOEXEC)
            except OSError:
                break  # it can be read, but not written to
            lock_to_append(fd)
            if not _is_named(fd, sidecar_of(layer)):
                os.close(fd)
                continue  # another builder put a new one in its place
            try:
                # Closing the file ends the lock.
                with StoredIndex(sidecar_of(layer), fd, layer) as stored:
                    return self._gone_on_from(stored)
            except DamagedIndexError:
                break
        return self._written_anew(None, [])

    def _layer_to_go_on_from(self) -> Path | None:
        """The layer whose index saves most: this one's own, or that of the nearest below it."""
        best: tuple[int, Path] | None = None
        for number in range(len(self._images) - 1, -1, -1):
            layer = self._images[number].path
            stored = StoredIndex.find(layer)
            if stored is None:
                continue
            with stored:
                held = stored.valid_prefix(self._identities)
            if best is None or held > best[0]:
                best = held, layer
            if number < len(self._images) - 1:
                break
        return None if best is None else best[1]

    def _gone_on_from(self, stored: StoredIndex) -> Built:
        """Append to an index that this process may append to now."""
        indexed_ns = file_system_time(stored.file.fd)
        num_held = stored.num_held(
            self._identities,
            lambda number: digest_of(self._images[number]),
            by_digest_only=self._by_digest_only,
        )
        base = next(
            (
                Made(offset, commit, list(stored.segments))
                for offset, commit in stored.ancestry()
                if commit.num_layers <= num_held
            ),
            None,
        )
        if base is None or base.commit.granule_bits > granule_of(self._images).bit_length() - 1:
            return self._written_anew(None, [])
        if self._by_digest_only:
            commit = base.commit
            check(Tree(stored.file, commit.root, commit.depth), commit.depth)
        records = self._kept_records(stored, base, indexed_ns)
        num_reused = len(records)
        is_too_long = stored.slot.end > _GROWTH * stored.slot.fresh_bytes + _SLACK_BYTES
        if is_too_long or stored.path.parent != self.path.parent:
            built = self._written_anew((stored, base), records)
            if is_too_long:
                self._name_anew(stored)
            return built
        num_bytes = 0
        if records != stored.layers[: len(self._images)] or len(records) < len(self._images):
            num_bytes, base = self._appended(stored, base, records, indexed_ns)
        if stored.path != self.path and not _is_named(stored.file.fd, self.path):
            try:
                link(stored.path, self.path)
            except OSError:
                return self._written_anew((stored, base), records)
        return self._built(num_reused, base, num_bytes, stored.file.end)

    def _appended(
        self, stored: StoredIndex, base: Made, records: list[LayerRecord], indexed_ns: int
    ) -> tuple[int, Made]:
        num_same = next(
            (
                number
                for number, (new, old) in enumerate(zip(records, stored.layers, strict=False))
                if new != old
            ),
            len(records),
        )
        base = base._replace(segments=[part for part in base.segments if part[2] <= num_same])
        appender = Appender(stored.file, stored.slot)
        try:
            newest = self._made(appender, base, records, indexed_ns)
            appender.finish()
        except BaseException:
            appender.abandon()
            raise
        return appender.num_bytes, newest

    def _written_anew(
        self, source: tuple[StoredIndex, Made] | None, records: list[LayerRecord]
    ) -> Built:
        with NewFile(self.path.parent) as new:
            indexed_ns = file_system_time(new.fd)
            appender = Appender(IndexFile(self.path, new.fd, 0))
            num_reused, base = len(records), None
            if source is not None:
                base = copied(*source, records, len(self._images), appender)
            newest = base
            if base is None or base.commit.num_layers < len(self._images):
                newest = self._made(appender, base, records, indexed_ns)
            assert newest is not None
            appender.finish()
            new.publish(self.path)
            return self._built(num_reused, newest, appender.num_bytes, appender.file.end)

    def _made(
        self, appender: Appender, base: Made | None, records: list[LayerRecord], indexed_ns: int
    ) -> Made:
        directory = os.path.abspath(self.path.parent)

        def record(number: int, digest: bytes) -> LayerRecord:
            return record_of(self._images[number], digest, indexed_ns, directory)

        return made(self._images, base, records, record, appender, self._progress)

    def _kept_records(self, stored: StoredIndex, base: Made, indexed_ns: int) -> list[LayerRecord]:
        """The records of the layers that held: as they were, or anew where they proved little."""
        directory = os.path.abspath(self.path.parent)
        kept = []
        for image, record in zip(
            self._images[: base.commit.num_layers], stored.layers, strict=False
        ):
            if (
                not record.proves(image.file.identity)
                or stored.path.parent != self.path.parent
                or record.name != recorded_name(image.file.name, directory)
            ):
                record = record_of(image, record.digest, indexed_ns, directory)
            kept.append(record)
        return kept

    def _name_anew(self, stored: StoredIndex) -> None:
        """Have the names that layers below have of the old file be names of the new one.

        Else the old one would take its room for as long as those layers are there.
        """
        for image in self._images[:-1]:
            name = sidecar_of(image.path)
            if name.parent == self.path.parent and _is_named(stored.file.fd, name):
                try:
                    link(self.path, name)
                except OSError:
                    return

    def _built(self, num_reused: int, newest: Made, written_bytes: int, file_bytes: int) -> Built:
        num_leaves = newest.commit.num_leaves
        return Built(
            self.path, len(self._images), num_reused, num_leaves, written_bytes, file_bytes
        )


def _is_named(fd: int, path: Path) -> bool:
    """Whether a path is a name of an open file."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except OSError:
        return False
