"""Passes by the hundred and batches by the thousand: nothing grows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fault.scripts import running

pytestmark = [pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(120)]

# One a pass would be far more than a script of these may have. A few are workers that were
# started because a sample was slow on a busy machine.
FEW_DESCRIPTORS = """
import gc, multiprocessing, random, resource
from pathlib import Path

SPARE = 8

_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))

def descriptors():
    gc.collect()
    return len(os.listdir("/proc/self/fd"))

def memory_bytes(pids):
    lines = [line for pid in pids
             for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
"""


def run(body: str, directory: Path) -> None:
    with running(FEW_DESCRIPTORS + body, directory) as script:
        code, out, errors = script.end(timeout_s=110)
    assert (code, out, errors) == (0, "done\n", "")


@pytest.mark.parametrize(
    "arguments",
    [
        "persistent_workers=False",
        "persistent_workers=True",
        "worker_type='thread'",
        "persistent_workers=True, worker_type='thread'",
    ],
)
def test_a_thousand_epochs_need_no_more_descriptors_than_ten(
    arguments: str, tmp_path: Path
) -> None:
    body = f"""
data = DataLoader(range(4), 2, num_workers=1, order="strict", {arguments})
for epoch in range(1000):
    assert [batch.tolist() for batch in data] == [[0, 1], [2, 3]], epoch
    if epoch == 10:
        before = descriptors()
assert descriptors() <= before + SPARE, (descriptors(), before)
del data
gc.collect()
assert not multiprocessing.active_children()
say("done")
"""
    run(body, tmp_path)


@pytest.mark.parametrize("arguments", ["order='strict'", "order='ready'", "worker_type='thread'"])
@pytest.mark.parametrize("columns", ["number", "number, text"])
def test_ten_thousand_batches_kept_and_dropped_at_random_leave_nothing_behind(
    columns: str, arguments: str, tmp_path: Path
) -> None:
    body = f"""
class Columns(Dataset):
    def __len__(self):
        return 40_000
    def __getitem__(self, index):
        number, text = torch.full((64,), index), str(index)
        return {columns}

def number_of(batch):
    return (batch if isinstance(batch, torch.Tensor) else batch[0])[:, 0].tolist()

draw = random.Random(0)
data = DataLoader(Columns(), 4, num_workers=2, buffer_bytes=1 << 20, {arguments})
iterator = iter(data)
kept, came = [], []
for count in range(10_000):
    batch = next(iterator)
    numbers = number_of(batch)
    came += numbers
    kept.append((numbers, batch))
    while kept and draw.random() < len(kept) / 64:
        numbers, batch = kept.pop(draw.randrange(len(kept)))
        assert number_of(batch) == numbers
    del batch
    if count in (2_000, 9_990):
        for numbers, batch in kept:
            assert number_of(batch) == numbers
        del batch
        kept.clear()
        pids = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
        figures = descriptors(), memory_bytes(pids)
        if count == 2_000:
            before = figures
assert sorted(came) == list(range(40_000))
assert figures[0] <= before[0] + SPARE, (figures, before)
# The numbers that came are kept, too: 40 bytes a sample at most.
assert figures[1] < before[1] + (8 << 20), (figures, before)
del iterator, kept
say("done")
"""
    run(body, tmp_path)


@pytest.mark.parametrize("arguments", ["", "persistent_workers=True", "worker_type='thread'"])
def test_a_hundred_passes_left_half_way_leave_nothing_behind(
    arguments: str, tmp_path: Path
) -> None:
    body = f"""
draw = random.Random(0)
data = DataLoader(range(64), 4, num_workers=2, order="ready", {arguments})
for count in range(100):
    iterator = iter(data)
    for _ in range(draw.randrange(16)):
        next(iterator)
    del iterator
    if count == 10:
        before = descriptors()
assert descriptors() <= before + SPARE, (descriptors(), before)
assert sorted(torch.cat(list(data)).tolist()) == list(range(64))
del data
gc.collect()
assert not multiprocessing.active_children()
say("done")
"""
    run(body, tmp_path)
