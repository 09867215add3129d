"""However a training script ends, it leaves no process, no memory and no noise."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.fault.scripts import running

pytestmark = pytest.mark.fault

# Workers end by themselves: seconds, not the minutes of a forgotten process.
SOON_S = 10.0


def assert_all_gone(workers: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(workers, timeout=SOON_S)
    assert not alive


@pytest.mark.parametrize("arguments", ["", "order='ready'", "persistent_workers=True"])
def test_ctrl_c_shows_one_traceback_and_leaves_nothing(arguments: str, tmp_path: Path) -> None:
    body = f"""
    for number, batch in enumerate(loader({arguments})):
        if number == 3:
            say("running")
    """
    before = set(os.listdir("/dev/shm"))
    with running(body, tmp_path) as script:
        assert script.heard() == "running"
        workers = script.workers()
        assert len(workers) == 2
        script.signal_everyone(signal.SIGINT)
        code, _, errors = script.end()
        assert_all_gone(workers)
    assert code == -signal.SIGINT
    assert errors.count("Traceback (most recent call last)") == 1, errors
    assert errors.strip().endswith("KeyboardInterrupt"), errors
    assert set(os.listdir("/dev/shm")) <= before


@pytest.mark.parametrize("arguments", ["", "order='ready'", "persistent_workers=True"])
def test_ctrl_c_ends_threads_too(arguments: str, tmp_path: Path) -> None:
    body = f"""
    for number, batch in enumerate(loader(worker_type='thread', {arguments})):
        if number == 3:
            say("running")
    """
    with running(body, tmp_path) as script:
        assert script.heard() == "running"
        assert not script.workers()
        script.signal_everyone(signal.SIGINT)
        code, _, errors = script.end()
    assert code == -signal.SIGINT
    assert errors.count("Traceback (most recent call last)") == 1, errors
    assert errors.strip().endswith("KeyboardInterrupt"), errors


@pytest.mark.parametrize("seconds", [2.1, 2.3, 4.0])
def test_a_script_ends_in_silence_while_a_thread_is_at_a_sample(
    seconds: float, tmp_path: Path
) -> None:
    body = f"""
    class Slow(Numbers):
        def __getitem__(self, index):
            if index > 3:
                time.sleep({seconds})
            return torch.tensor(index)

    iterator = iter(DataLoader(Slow(), 2, num_workers=2, worker_type="thread"))
    next(iterator)
    say("over")
    """
    with running(body, tmp_path) as script:
        assert script.heard() == "over"
        code, _, errors = script.end()
    assert (code, errors) == (0, "")


def test_ctrl_c_while_the_loop_waits_for_a_batch_ends_it_at_once(tmp_path: Path) -> None:
    body = """
    class Stuck(Numbers):
        def __getitem__(self, index):
            if index == 8:
                say("stuck")
                signal.pause()
            return super().__getitem__(index)

    for batch in DataLoader(Stuck(), 4, num_workers=1):
        pass
    """
    with running(body, tmp_path) as script:
        assert script.heard() == "stuck"
        workers = script.workers()
        script.signal_everyone(signal.SIGINT)
        code, _, errors = script.end()
        assert_all_gone(workers)
    assert code == -signal.SIGINT
    assert errors.count("Traceback (most recent call last)") == 1, errors


ENDINGS = {
    "break": "for batch in loader():\n    break\nsay('done')",
    "sys.exit with a live iterator": (
        "it = iter(loader(persistent_workers=True))\nnext(it)\nsay('done')\nsys.exit(0)"
    ),
    "the end of the script with a live iterator": "it = iter(loader())\nnext(it)\nsay('done')",
    "an iterator in a cycle": (
        "class Node: pass\nnode = Node()\nnode.it = iter(loader())\nnode.node = node\n"
        "next(node.it)\ndel node\nimport gc\ngc.collect()\n"
        "import psutil\nassert not psutil.Process().children()\nsay('done')"
    ),
    "an iterator that is dropped": (
        "it = iter(loader())\nnext(it)\ndel it\n"
        "import psutil\nassert not psutil.Process().children()\nsay('done')"
    ),
    "an iterator that never began": "it = iter(loader())\nsay('done')",
    "a daemon thread at a batch": (
        "import threading\nhad_one = threading.Event()\n"
        "def train():\n    for batch in loader():\n        had_one.set()\n        time.sleep(60)\n"
        "threading.Thread(target=train, daemon=True).start()\nhad_one.wait()\nsay('done')"
    ),
    "batches that outlive everything": (
        "l = loader()\nit = iter(l)\nkept = [next(it) for _ in range(5)]\ndel it, l\n"
        "assert [batch[0][:, 0].tolist() for batch in kept] == "
        "[list(range(n, n + 4)) for n in range(0, 20, 4)]\nsay('done')"
    ),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_a_script_ends_in_silence(name: str, tmp_path: Path) -> None:
    with running(ENDINGS[name], tmp_path) as script:
        code, out, errors = script.end()
    assert (code, out, errors) == (0, "done\n", "")


def test_a_script_that_imports_nothing_else_ends_in_silence_with_a_live_iterator() -> None:
    # Modules are taken down in another order where torch was not imported first.
    body = "import hatchway\nit = iter(hatchway.DataLoader(range(9), num_workers=1))\nnext(it)"
    ended = subprocess.run([sys.executable, "-c", body], capture_output=True, text=True, check=True)
    assert (ended.stdout, ended.stderr) == ("", "")


def test_an_exception_in_the_loop_is_all_that_is_shown(tmp_path: Path) -> None:
    body = """
    for batch in loader():
        raise ValueError("in the loop")
    """
    with running(body, tmp_path) as script:
        code, _, errors = script.end()
    assert code == 1
    assert errors.count("Traceback (most recent call last)") == 1, errors
    assert errors.strip().endswith("ValueError: in the loop")


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_end_by_themselves_when_the_training_process_is_killed(
    method: str, tmp_path: Path
) -> None:
    body = f"""
    if __name__ == "__main__":
        for number, batch in enumerate(loader(multiprocessing_context={method!r})):
            if number == 3:
                say("running")
                signal.pause()
    """
    with running(body, tmp_path) as script:
        assert script.heard() == "running"
        workers = script.workers()
        assert len(workers) >= 2
        script.process.kill()
        script.process.wait()
        assert_all_gone(workers)


def test_workers_in_the_middle_of_much_work_end_when_the_training_process_is_killed(
    tmp_path: Path,
) -> None:
    body = """
    kept = []
    for number, batch in enumerate(loader(buffer_bytes=1 << 20, order="ready")):
        kept.append(batch)
        if number == 50:
            say("running")
    """
    with running(body, tmp_path) as script:
        assert script.heard() == "running"
        workers = script.workers()
        script.process.kill()
        script.process.wait()
        assert_all_gone(workers)


def test_a_forked_child_of_the_training_process_frees_nothing_of_its_parent(
    tmp_path: Path,
) -> None:
    body = """
    it = iter(loader(order="strict"))
    kept = [next(it) for _ in range(3)]
    expected = [batch[0].clone() for batch in kept]

    def drop_all():
        import gc
        global kept, it
        del kept, it
        gc.collect()

    import multiprocessing
    child = multiprocessing.get_context("fork").Process(target=drop_all)
    child.start()
    child.join()
    assert child.exitcode == 0
    for _ in range(30):
        next(it)
    assert all(torch.equal(batch[0], then) for batch, then in zip(kept, expected))
    assert next(it)[0][:, 0].tolist() == [132, 133, 134, 135]
    say("done")
    """
    with running(body, tmp_path) as script:
        code, out, errors = script.end()
    assert (code, out, errors) == (0, "done\n", "")


def test_a_daemonic_process_is_told_what_torch_tells_it(tmp_path: Path) -> None:
    body = """
    import multiprocessing
    from torch.utils.data import DataLoader as StockLoader

    def try_both():
        for kind in (StockLoader, DataLoader):
            try:
                next(iter(kind(Numbers(), 4, num_workers=1)))
            except Exception as error:
                say(f"{type(error).__name__}: {error}")

    process = multiprocessing.get_context("fork").Process(target=try_both, daemon=True)
    process.start()
    process.join()
    """
    with running(body, tmp_path) as script:
        code, out, errors = script.end()
    assert code == 0, errors
    stock, ours = out.splitlines()
    assert stock == ours


def test_descriptors_above_1023_are_no_obstacle(tmp_path: Path) -> None:
    body = """
    import resource
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    it = iter(loader(order="ready"))
    for _ in range(20):
        next(it)
    say("done")
    """
    with running(body, tmp_path) as script:
        code, out, errors = script.end()
    assert (code, out, errors) == (0, "done\n", "")


def test_a_dataset_may_start_threads(tmp_path: Path) -> None:
    body = """
    import threading

    class Threaded(Numbers):
        def __getitem__(self, index):
            found = []
            thread = threading.Thread(target=lambda: found.append(super(Threaded, self)
                .__getitem__(index)))
            thread.start()
            thread.join()
            return found[0]

    it = iter(DataLoader(Threaded(), 4, num_workers=2))
    assert [next(it)[0][0, 0].item() for _ in range(5)] == [0, 4, 8, 12, 16]
    del it
    say("done")
    """
    with running(body, tmp_path) as script:
        code, out, errors = script.end()
    assert (code, out, errors) == (0, "done\n", "")
