"""When a file cannot be written, the layer says so, loses nothing flushed, and goes on or stops."""

from __future__ import annotations

import errno
import random
from pathlib import Path
from typing import Any

import pytest

from hatchway.disk import Chain, ImageWriteError
from tests.fault.cuts import Recorder, fail_at
from tests.fault.test_cut_writes import SCRIPT, Workload, assert_checked
from tests.real import qemu
from tests.real.layers import seen, writing

pytestmark = [pytest.mark.fault, pytest.mark.real, qemu.needs_qemu, pytest.mark.timeout(300)]

MIB = 1 << 20
KINDS: list[dict[str, Any]] = [
    {"cluster_size": 512},
    {"cluster_size": 16384, "extended_l2": "on"},
    {"cluster_size": 2048, "data_file": "data.bin"},
]


def run_failing(workload: Workload, what: str, nth: int) -> bool:
    """Run the script with one failure; whether there was one."""
    recorder = workload.recorder
    has_failed = False
    try:
        with writing(workload.path, opened=recorder.opened, cache_bytes=0) as layer:
            recorder.refuse = fail_at(nth, errno.ENOSPC, what)
            for operation in SCRIPT:
                try:
                    workload.step(layer, *operation)
                except ImageWriteError as error:
                    assert error.errno == errno.ENOSPC  # noqa: PT017
                    has_failed = True
                    # How much was done is not known: what is there now is what must stay.
                    workload.content = bytearray(seen(layer, workload.path))
                    workload.end(is_flush=False)
    except ImageWriteError:
        has_failed = True
    else:
        workload.end(is_flush=True)
    return has_failed


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("what", ["write", "sync"])
def test_a_failure_at_any_place_of_a_script(
    what: str, kind: dict[str, Any], tmp_path: Path
) -> None:
    has_failed, nth = True, 0
    while has_failed:
        nth += 1 if what == "sync" or nth < 20 else 5
        place = tmp_path / str(nth)
        (place / "left").mkdir(parents=True)
        workload = Workload(place, kind)
        has_failed = run_failing(workload, what, nth)
        path = place / "left" / "top.qcow2"
        qemu.raw(place / "left" / "base.raw", workload.base.read_bytes())
        *_, (mark, files) = workload.recorder.cuts(random.Random(nth), 1)
        for name, content in files.items():
            (place / "left" / name).write_bytes(content)
        with Chain(path, lock=False) as chain:
            found = chain.read_at(0, chain.size)
        assert workload.is_allowed(found, mark), f"failure {nth}"
        assert_checked(path)
    assert nth > 5


def test_a_full_disk_is_named_and_when_there_is_room_the_layer_goes_on(tmp_path: Path) -> None:
    path = qemu.create(tmp_path / "one.qcow2", MIB, cluster_size=4096)
    recorder = Recorder()
    with writing(path, opened=recorder.opened) as layer:
        layer.write(0, b"\1" * 4096)
        recorder.refuse = fail_at(1, errno.ENOSPC, "write")
        with pytest.raises(ImageWriteError) as caught:
            layer.write(4096, b"\2" * 4096)
        assert caught.value.errno == errno.ENOSPC
        layer.write(8192, b"\3" * 4096)
        recorder.refuse = fail_at(1, errno.ENOSPC, "write")
        with pytest.raises(ImageWriteError):
            layer.flush()
        layer.flush()
    *_, (_, files) = recorder.cuts(random.Random(1), 1)
    path.write_bytes(files["one.qcow2"])
    qemu.check(path)
    expected = b"\1" * 4096 + bytes(4096) + b"\3" * 4096
    assert qemu.contents(path) == expected.ljust(MIB, b"\0")


def test_after_a_failed_sync_nothing_is_written_any_more(tmp_path: Path) -> None:
    path = qemu.create(tmp_path / "one.qcow2", MIB)
    recorder = Recorder()
    with pytest.raises(ImageWriteError, match="open it anew"):  # noqa: PT012, SIM117
        with writing(path, opened=recorder.opened) as layer:
            layer.write(0, b"\1" * 4096)
            recorder.refuse = fail_at(1, errno.EIO, "sync")
            with pytest.raises(ImageWriteError, match="fails"):
                layer.flush()
            num_events = len(recorder.events)
            for call in (
                layer.flush,
                lambda: layer.write(0, b"\2"),
                lambda: layer.write_zeroes(0, 4096),
                lambda: layer.discard(0, 65536),
                lambda: layer.resize(2 * MIB),
            ):
                with pytest.raises(ImageWriteError, match="open it anew"):
                    call()
            assert len(recorder.events) == num_events
