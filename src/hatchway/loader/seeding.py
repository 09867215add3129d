"""Set the global generators before each sample, from (base seed, epoch, position).

What a sample draws from ``random``, ``numpy.random`` and ``torch`` then depends
on its place in the sampler's order alone, never on the worker or on timing.
The 624 words of each Mersenne twister are filled with an independent stream of
a keyed integer hash, and handed out before the generator makes new ones; the native
kernel and the NumPy twin here give the same words.
"""

from __future__ import annotations

import ctypes
import random
import struct
from typing import Any, Protocol

import numpy as np
import torch

from hatchway.loader import native

TWISTER_WORDS = 624
_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
# Layout of torch.Generator.get_state() on CPU: seed, left, seeded, next, 624 words
# of 64 bits, then the cached normals (see CPUGeneratorImplState in PyTorch).
_TORCH_HEADER = struct.Struct("<QiiQ")
_TORCH_NORMALS = _TORCH_HEADER.size + 8 * TWISTER_WORDS
_TORCH_DOUBLE = _TORCH_NORMALS + 8
_TORCH_DOUBLE_VALID = _TORCH_NORMALS + 24
_TORCH_FLOAT = _TORCH_DOUBLE_VALID + 8


class Seeder(Protocol):
    """Puts the global generators into the state that belongs to one sample."""

    def seed(self, base_seed: int, epoch: int, position: int) -> None:
        """Seed Python's, NumPy's and torch's global generators."""


def _mix(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def sample_key(base_seed: int, epoch: int, position: int) -> int:
    """The key of a sample, of 63 bits as torch's seeds; there ``torch.initial_seed()``."""
    key = _mix((base_seed + _GOLDEN) & _MASK)
    key = _mix(key ^ _mix((epoch + 2 * _GOLDEN) & _MASK))
    return _mix(key ^ _mix((position + 3 * _GOLDEN) & _MASK)) >> 1


def twister_words(key: int) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """The 624 words of the stream of ``key``, as uint32."""
    x = np.arange(1, TWISTER_WORDS + 1, dtype=np.uint32) * np.uint32(0x9E3779B9)
    x += np.uint32(key & 0xFFFFFFFF)
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x21F0AAAD) + np.uint32(key >> 32)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0xD35A2D97)
    words: np.ndarray[Any, np.dtype[np.uint32]] = x ^ (x >> np.uint32(15))
    return words


def collate_position(position: int) -> int:
    """Stands for the batch that begins with ``position`` when ``collate_fn`` is seeded."""
    return position | 1 << 63


class PythonSeeder:
    """The twin of the native seeder, through the generators' public interfaces."""

    def __init__(self) -> None:
        self._torch_state = np.zeros(torch.default_generator.get_state().numel(), np.uint8)

    def seed(self, base_seed: int, epoch: int, position: int) -> None:
        """Seed Python's, NumPy's and torch's global generators."""
        key = sample_key(base_seed, epoch, position)
        words = twister_words(_mix(key ^ 1))
        random.setstate((3, (*words.tolist(), 0), None))
        bit_generator = _numpy_bit_generator()
        if type(bit_generator).__name__ == "MT19937":
            np.random.set_state(("MT19937", twister_words(_mix(key ^ 2)), 0, 0, 0.0))
        else:  # the user's, see numpy.random.set_bit_generator
            bit_generator.state = type(bit_generator)(_mix(key ^ 2)).state
        state = self._torch_state
        _TORCH_HEADER.pack_into(state.data, 0, key, TWISTER_WORDS, 1, 1)
        wide = twister_words(_mix(key ^ 3)).astype("<u8")
        state[_TORCH_HEADER.size : _TORCH_NORMALS] = wide.view(np.uint8)
        torch.default_generator.set_state(torch.from_numpy(state))


class NoSeeder:
    """Leaves the generators alone, as torch does (``seeding="torch"``)."""

    def seed(self, base_seed: int, epoch: int, position: int) -> None:
        """Do nothing."""


def make_seeder() -> Seeder:
    """The fastest seeder that this interpreter allows, by probing, not by version."""
    if native.MODULE is None:
        return PythonSeeder()
    saved = save_generators()
    try:
        addresses = _find_generators()
        if addresses is None:
            return PythonSeeder()
        seeder: Seeder = native.MODULE.Generators(**addresses)
        return _Seeder(seeder) if _agrees(_Seeder(seeder), PythonSeeder()) else PythonSeeder()
    finally:
        restore_generators(saved)


class _Seeder:
    """The native seeder, and the one piece of state that lies outside its reach."""

    def __init__(self, generators: Seeder) -> None:
        self.generators = generators
        self._seed = generators.seed
        # What lies at the addresses must stay, whatever the user puts in its place.
        self._alive = (np.random.mtrand._rand, _numpy_bit_generator())

    def seed(self, base_seed: int, epoch: int, position: int) -> None:
        self._seed(base_seed, epoch, position)
        _PYTHON_RANDOM.gauss_next = None


_PYTHON_RANDOM: Any = random._inst


def save_generators() -> tuple[Any, Any, Any]:
    """The states of the three global generators."""
    numpy_state = np.random.get_state(legacy=False)
    return random.getstate(), numpy_state, torch.default_generator.get_state()


def restore_generators(saved: tuple[Any, Any, Any]) -> None:
    """Put back what :func:`save_generators` returned."""
    random.setstate(saved[0])
    np.random.set_state(saved[1])
    torch.default_generator.set_state(saved[2])


def _agrees(one: Seeder, other: Seeder) -> bool:
    """Whether both seeders put the generators into the same observable state."""
    states: list[Any] = []
    for seeder in (one, other):
        random.gauss(0.0, 1.0)
        np.random.normal()
        torch.randn(1)
        seeder.seed(0x0123456789ABCDEF, 5, 77)
        states.append(save_generators())
        states[-1] += (random.gauss(0.0, 1.0), np.random.normal(), torch.randn(3).tolist())
    a, b = states
    return a[0] == b[0] and _same_numpy(a[1], b[1]) and torch.equal(a[2], b[2]) and a[3:] == b[3:]


def _same_numpy(one: dict[str, Any], other: dict[str, Any]) -> bool:
    keys = [state["state"].pop("key", ()) for state in (one, other)]
    return np.array_equal(*keys) and one == other


def _numpy_bit_generator() -> Any:
    return np.random.mtrand._rand._bit_generator


def _find_generators() -> dict[str, int] | None:
    """Addresses of the generators' states, each proved by a value put there."""
    bit_generator = _numpy_bit_generator()
    if type(bit_generator).__name__ != "MT19937":
        return None
    marks = np.random.RandomState(20251).randint(1, 2**31, TWISTER_WORDS).astype("<u4")

    random.setstate((3, (*marks.tolist(), 600), None))
    python = _locate(id(_PYTHON_RANDOM), type(_PYTHON_RANDOM).__basicsize__, marks.tobytes())

    np.random.set_state(("MT19937", marks, 600, 1, 0.625123))
    legacy: Any = np.random.mtrand._rand
    numpy_state = int(bit_generator.ctypes.state_address)
    numpy_words = _locate(numpy_state, 4 * TWISTER_WORDS + 4, marks.tobytes())
    gauss = _locate(id(legacy), type(legacy).__basicsize__, struct.pack("<d", 0.625123))

    state = torch.default_generator.get_state().numpy().copy()
    _TORCH_HEADER.pack_into(state, 0, 0x5EED5EED5EED5EED, 17, 1, 607)
    state[_TORCH_HEADER.size : _TORCH_NORMALS] = marks.astype("<u8").view(np.uint8)
    struct.pack_into("<d", state, _TORCH_DOUBLE, 0.8125001)
    struct.pack_into("<i", state, _TORCH_DOUBLE_VALID, 1)
    struct.pack_into("<f?", state, _TORCH_FLOAT, 0.40625, True)
    torch.default_generator.set_state(torch.from_numpy(state))
    at = int(torch.default_generator._cdata)  # type: ignore[attr-defined]
    torch_words = _locate(at, 256 + 4 * TWISTER_WORDS, marks.tobytes())
    tail = torch_words + 4 * TWISTER_WORDS
    torch_float = _locate(tail, 32, struct.pack("<f", 0.40625)) if torch_words else 0
    torch_double = _locate(tail, 32, struct.pack("<d", 0.8125001)) if torch_words else 0

    found = (python, numpy_words, gauss, torch_words, torch_float, torch_double)
    if not all(found):
        return None
    addresses = {
        "random_words": python,
        "random_index": python - 4,
        "numpy_words": numpy_words,
        "numpy_index": numpy_words + 4 * TWISTER_WORDS,
        "numpy_has_gauss": gauss - 8,
        "torch_words": torch_words,
        "torch_seed": torch_words - 20,
        "torch_left": torch_words - 12,
        "torch_next": torch_words - 4,
        "torch_float_flag": torch_float + 4,
        "torch_double_flag": torch_double + 8,
    }
    expected = {
        "random_index": 600,
        "numpy_index": 600,
        "numpy_has_gauss": 1,
        "torch_left": 17,
        "torch_next": 607,
    }
    for name, value in expected.items():
        if ctypes.c_int32.from_address(addresses[name]).value != value:
            return None
    if ctypes.c_uint64.from_address(addresses["torch_seed"]).value != 0x5EED5EED5EED5EED:
        return None
    flags = ("torch_float_flag", "torch_double_flag")
    if any(ctypes.c_uint8.from_address(addresses[name]).value != 1 for name in flags):
        return None
    return addresses


def _locate(address: int, nbytes: int, needle: bytes) -> int:
    """The address of ``needle`` within [address, address + nbytes), or 0.

    Looks upwards and reads nothing beyond where it finds it.
    """
    for at in range(address, address + nbytes - len(needle) + 1, 4):
        if ctypes.string_at(at, 4) == needle[:4] and ctypes.string_at(at, len(needle)) == needle:
            return at
    return 0
