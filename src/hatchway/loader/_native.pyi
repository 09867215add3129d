"""Kernels of hatchway.loader; each has a Python twin beside its caller."""



def abi_version() -> int:
    """Version of this module's interface."""

class Spans:
    """Unbegun parts [next, end) of the workers' chunks."""

    def __init__(self, buffer: object) -> None: ...

    def set(self, i: int, next: int, end: int) -> None: ...

    def take(self, i: int) -> int:
        """The next offset of span i, or -1."""

    def steal(self, i: int) -> "std::pair<unsigned int, unsigned int>":
        """Empty span i; return what was left."""

class Flags:
    """Bytes published with release order."""

    def __init__(self, buffer: object) -> None: ...

    def publish(self, i: int, value: int) -> None: ...

class Generators:
    """The global generators of this process."""

    def __init__(self, *, random_words: int, random_index: int, numpy_words: int, numpy_index: int, numpy_has_gauss: int, torch_words: int, torch_seed: int, torch_left: int, torch_next: int, torch_float_flag: int, torch_double_flag: int) -> None: ...

    def seed(self, base_seed: int, epoch: int, position: int) -> None: ...
