"""A worker that dies after any store of a native turn harms nobody."""

from __future__ import annotations

import ctypes
import random
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hatchway.loader import native
from hatchway.loader.cost import ChunkSize
from hatchway.loader.rules import DeliveryRules
from tests.property.epochs import Epochs
from tests.property.setting import Setting
from tests.property.simulation import Death

HERE = Path(__file__).resolve().parent
MANY = 1 << 40
# As many stores of each setting are tried, spread over two epochs.
NUM_CUTS = 120
SETTINGS = {
    "strict": Setting(num_samples=11),
    "overtaking": Setting(order="overtaking", num_samples=11, failing=frozenset({4})),
    "ready": Setting(order="ready", num_samples=11, patience_s=1e-9),
    "ready, pickled": Setting(
        order="ready", num_samples=11, sample="blob", patience_s=1e-9, window=4
    ),
}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("c++")
    if compiler is None or native.MODULE is None:
        pytest.skip("needs native code and a C++ compiler")
    built = tmp_path_factory.mktemp("cut") / "cut_turns.so"
    includes = [f"-I{HERE.parents[1] / 'native/loader'}", f"-I{sysconfig.get_path('include')}"]
    source = str(HERE / "cut_turns.cpp")
    flags = ["-std=c++20", "-O1", "-shared", "-fPIC"]
    subprocess.run([compiler, *flags, *includes, source, "-o", str(built)], check=True)
    loaded = ctypes.CDLL(str(built))
    loaded.next_work.restype = ctypes.c_int64
    loaded.next_work.argtypes = [
        ctypes.c_size_t, *[ctypes.c_void_p] * 4, ctypes.c_int64, ctypes.c_int64, ctypes.c_bool,
        ctypes.c_int64, ctypes.c_double, ctypes.c_double, ctypes.c_int64,
        ctypes.POINTER(ctypes.c_int64),
    ]  # fmt: skip
    return loaded


class CutKernel:
    """Stands in for a BoardKernel: worker 0 dies after ``num_stores`` stores of its turns."""

    def __init__(
        self, library: ctypes.CDLL, epochs: Epochs, rules: DeliveryRules, num_stores: int
    ) -> None:
        self._kernel = epochs.commons.kernel
        self._library = library
        board = epochs.board
        columns = board.columns()
        names = [name.encode() for name in columns]
        addresses = [np.asarray(cells).ctypes.data for cells in columns.values()]
        self._names = (ctypes.c_char_p * len(columns))(*names)
        self._columns = (ctypes.c_void_p * len(columns))(*addresses)
        shape = board.shape
        self._sizes = (ctypes.c_uint64 * 5)(
            shape.positions, shape.homes, shape.outgoing, shape.workers, shape.members
        )
        self._rules = (ctypes.c_int64 * 6)(
            rules.fixed, rules.in_order, rules.rows_are_batch, rules.batch_size, rules.depth,
            -1 if rules.max_displacement is None else rules.max_displacement,
        )  # fmt: skip
        self.left = ctypes.c_int64(num_stores)
        self.is_dead = False
        self.plan = self._kernel.plan
        self.compose = self._kernel.compose
        self.consume = self._kernel.consume

    def next_work(self, worker: int, *arguments: Any) -> int:
        if worker or self.is_dead:
            return int(self._kernel.next_work(worker, *arguments))
        claimed = self._library.next_work(
            len(self._columns), self._names, self._columns, self._sizes, self._rules, worker,
            *arguments, ctypes.byref(self.left),
        )  # fmt: skip
        if claimed < 0:
            self.is_dead = True
            raise Death
        return int(claimed)


def run_two_epochs(library: ctypes.CDLL, setting: Setting, num_stores: int) -> CutKernel:
    epochs = Epochs(setting)
    rules = epochs.commons.config.rules
    cut = epochs.commons.kernel = CutKernel(library, epochs, rules, num_stores)
    try:
        epochs.run_whole(2, random.Random(1).randrange)
    except AssertionError as error:
        raise AssertionError(f"after a death before store {num_stores}: {error}") from error
    finally:
        epochs.close()
    return cut


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", SETTINGS)
def test_a_death_before_any_store_loses_nothing_and_invents_nothing(
    name: str, library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ChunkSize, "next", lambda _: 2)
    whole = run_two_epochs(library, SETTINGS[name], MANY)
    num_stores = MANY - whole.left.value
    assert not whole.is_dead
    assert num_stores > 20, "worker 0 had turns of its own"
    cuts = random.sample(range(num_stores), min(NUM_CUTS, num_stores))
    died = [run_two_epochs(library, SETTINGS[name], store).is_dead for store in sorted(cuts)]
    # Visits in the middle of a chunk depend on the real clock: some runs make fewer stores.
    assert sum(died) > len(cuts) // 4
