"""A snapshot carries the index forward without opening the layers that it proves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hatchway.disk import Chain, files, kernel, snapshot
from hatchway.disk.index import sidecar_of
from tests.real import qemu
from tests.real.indexed import let_time_pass, num_indexed

pytestmark = [pytest.mark.real, qemu.needs_qemu]

MIB = 1 << 20
NUM_LAYERS = 12


@pytest.fixture
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty overlay of layers that are indexed."""
    let_time_pass(monkeypatch)
    path = qemu.create(tmp_path / "0.qcow2", 4 * MIB)
    with Chain(path, writable=True) as chain:
        for number in range(1, NUM_LAYERS + 1):
            chain.write_at(number * 200_000, bytes([number]) * 100_000)
            path = chain.snapshot(tmp_path / f"{number}.qcow2", index=number == 1 or None).path
    return path


def test_layers_that_are_what_they_were_are_not_opened(
    top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    open_to_read = files.open_to_read

    def noted(path: Path) -> int:
        opened.append(Path(path).name)
        return open_to_read(path)

    with monkeypatch.context() as patched:
        patched.setattr(files, "open_to_read", noted)
        patched.setattr(kernel, "open_files", None)
        done = snapshot(top, top.with_name("new.qcow2"))
    assert done.built is not None
    assert (done.built.num_layers, done.built.num_reused) == (NUM_LAYERS + 1, NUM_LAYERS)
    assert set(opened) == {top.name}
    assert num_indexed(done.path) == NUM_LAYERS + 1


@pytest.mark.parametrize(
    ("what", "number"),
    [("written", 0), ("written", NUM_LAYERS - 1), ("touched", 5), ("replaced", 5), ("linked", 5)],
)
def test_layers_that_changed_are_read_again(top: Path, what: str, number: int) -> None:
    layer = top.with_name(f"{number}.qcow2")
    if what == "written":
        alone = f"driver=qcow2,file.driver=file,file.filename={layer},backing="
        qemu.img("bench", "-w", "-c", "1", "-o", str(MIB), "--image-opts", alone)
    elif what == "touched":
        os.utime(layer)
    elif what == "replaced":
        layer.rename(top.with_name("elsewhere"))
        os.link(top.with_name("elsewhere"), layer)  # another change time
        layer.write_bytes(layer.read_bytes())
    else:
        layer.rename(top.with_name("elsewhere"))
        layer.symlink_to("elsewhere")
    done = snapshot(top, top.with_name("new.qcow2"))
    assert done.built is not None
    assert done.built.num_layers == NUM_LAYERS + 1
    assert (done.built.num_reused < NUM_LAYERS) == (what == "written")
    found = num_indexed(done.path)
    assert found == NUM_LAYERS + 1 or what == "linked"
    with Chain(done.path) as chain:
        assert chain.read_at(0, chain.size) == qemu.contents(done.path)
    assert sidecar_of(top).exists()
