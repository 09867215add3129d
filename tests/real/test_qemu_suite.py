"""QEMU's own tests of images pass with our server between ``qemu-io`` and the image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.real import qemu, qemu_suite
from tests.real.debian_source import NotHere
from tests.real.qemu_suite import Outcome

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(900), qemu.needs_qemu]

# How many of its calls of qemu-io go through the server; what does not is in COMMANDS of the shim.
# Tests of which none does are left out, and so are those that want a virtual machine.
# fmt: off
THROUGH = {
    "001": 3, "002": 18, "003": 5, "004": 12, "005": 2, "008": 3, "009": 1, "010": 1, "011": 10,
    "012": 1, "015": 4, "017": 18, "018": 18, "020": 18, "021": 30, "023": 568, "024": 39, "025": 4,
    "027": 5, "032": 2, "034": 30, "035": 1, "037": 28, "038": 3, "046": 2, "047": 1, "048": 6,
    "050": 4, "052": 2, "053": 2, "058": 10, "062": 1, "063": 2, "066": 11, "072": 2, "073": 35,
    "080": 3, "086": 4, "089": 4, "090": 1, "097": 38, "098": 4, "103": 1, "105": 4, "107": 1,
    "121": 4, "122": 58, "125": 208, "138": 2, "154": 119, "159": 7, "170": 1, "177": 3, "179": 20,
    "187": 2, "204": 3, "214": 7, "215": 2, "217": 1, "250": 1, "251": 11, "252": 4, "265": 2,
    "287": 6, "290": 13, "292": 4, "303": 16, "313": 2,
}
# fmt: on
# What the server does not open, and QEMU does.
DECLINED = {
    "020": (1, "which is no file of this host"),  # an injected error below the image
    "080": (1, "ends at 0x1000000, with the file"),  # QEMU reads zeros past it
    "098": (4, "is marked as dirty"),  # QEMU repairs such a file while it opens it
}
NUM_AT_ONCE = 2
SLOWEST = ("023", "125", "122", "154")


def run(names: Iterable[str]) -> dict[str, Outcome]:
    listed = sorted(names, key=lambda name: (name not in SLOWEST, name))
    try:
        with qemu_suite.over("hatchway") as suite, ThreadPoolExecutor(NUM_AT_ONCE) as pool:
            return dict(zip(listed, pool.map(suite.run, listed), strict=True))
    except NotHere as reason:
        pytest.skip(str(reason))


def test_they_pass() -> None:
    outcomes = run(THROUGH)
    wrong = [f"{name}\n{one.text}" for name, one in outcomes.items() if one.result != "passed"]
    assert not wrong, "\n\n".join(wrong)
    assert {name: one.num_calls("through") for name, one in outcomes.items()} == THROUGH
    declined = [
        (name, call)
        for name, one in outcomes.items()
        for call in one.calls
        if call.startswith("declined")
    ]
    assert Counter(name for name, _ in declined) == {
        name: number for name, (number, _) in DECLINED.items()
    }
    assert all(DECLINED[name][1] in call for name, call in declined)
