"""The ranks of a distributed job on this host, as processes that a test talks to."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import torch
import torch.distributed
from torch.utils.data import Dataset

CONTEXT = multiprocessing.get_context("fork")
PATIENCE_S = 50.0


class Made(Dataset[Any]):
    """Samples that say which process made them, and what they drew.

    Args:
        num_samples: How many there are.
        num_ranks: Each rank gets every so-and-so-many-th index.
        seconds: How long those of rank 0 wait.
    """

    def __init__(self, num_samples: int, num_ranks: int, seconds: float = 0.0) -> None:
        self.num_samples, self.num_ranks, self.seconds = num_samples, num_ranks, seconds

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: int) -> tuple[int, int, float]:
        if index % self.num_ranks == 0:
            time.sleep(self.seconds)  # it waits, as for a network: no core is busy
        return index, os.getpid(), float(torch.rand(()))


class Rank:
    """A rank's end of the talk; what its body is given.

    Attributes:
        number: Its number.
        size: How many there are.
    """

    def __init__(self, number: int, size: int, pipe: Any) -> None:
        self.number, self.size, self._pipe = number, size, pipe

    def say(self, message: Any) -> None:
        """Tell the test."""
        self._pipe.send(message)

    def own_workers(self) -> set[int]:
        """The numbers of the worker processes that this rank has started."""
        return {process.pid for process in psutil.Process().children()}

    def wait(self) -> Any:
        """Wait for the test's word."""
        assert self._pipe.poll(PATIENCE_S), "the test says nothing"
        return self._pipe.recv()


class Ranks:
    """The test's end of the talk."""

    def __init__(self, size: int, body: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        port = _free_port()
        self.pipes, self.processes = [], []
        for number in range(size):
            ours, theirs = CONTEXT.Pipe()
            process = CONTEXT.Process(
                target=_live, args=(number, size, port, theirs, body, arguments)
            )
            process.start()
            theirs.close()
            self.pipes.append(ours)
            self.processes.append(process)

    def hear(self, number: int) -> Any:
        """What a rank says next; what it raised is raised here."""
        assert self.pipes[number].poll(PATIENCE_S), f"rank {number} says nothing"
        said = self.pipes[number].recv()
        if isinstance(said, _Raised):
            raise AssertionError(f"rank {number} raised:\n{said.text}")
        return said

    def hear_all(self) -> list[Any]:
        """What each rank says next."""
        return [self.hear(number) for number in range(len(self.pipes))]

    def tell(self, number: int, message: Any) -> None:
        """Say something to a rank."""
        self.pipes[number].send(message)

    def join(self) -> None:
        """Wait for the end of those that still live."""
        for process in self.processes:
            process.join(PATIENCE_S)
            assert process.exitcode is not None, "a rank does not end"


class _Raised:
    def __init__(self, text: str) -> None:
        self.text = text


def _live(number: int, size: int, port: int, pipe: Any, body: Any, arguments: Any) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", init_method=address, rank=number, world_size=size)
    try:
        pipe.send(body(Rank(number, size, pipe), *arguments))
    except BaseException:
        pipe.send(_Raised(traceback.format_exc()))
    finally:
        torch.distributed.destroy_process_group()


@contextlib.contextmanager
def ranks(size: int, body: Callable[..., Any], *arguments: Any) -> Iterator[Ranks]:
    """``size`` ranks that run ``body(rank, *arguments)`` and say what it returns."""
    those = Ranks(size, body, arguments)
    try:
        yield those
    finally:
        for process, pipe in zip(those.processes, those.pipes, strict=True):
            if process.is_alive():
                process.kill()
            process.join()
            process.close()
            pipe.close()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
