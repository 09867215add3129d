"""The compiled kernels, or the reason why they are left out."""

from __future__ import annotations

import types

import pytest

from hatchway.base import native


def test_kernels_of_another_version_are_left_out_with_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    older = types.SimpleNamespace(abi_version=lambda: 6)
    monkeypatch.setattr(native.importlib, "import_module", lambda name: older)
    monkeypatch.delenv("HATCHWAY_PURE_PYTHON", raising=False)
    with pytest.warns(UserWarning, match="compiled kernels have version .* run `make setup`"):
        assert native.load_kernels("loader", 7) is None
