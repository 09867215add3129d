"""Real volumes that come with PyPI wheels: nibabel's MRI scans, scikit-image's photographs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

# Photographs of 300 to 600 pixels that scikit-image keeps inside its wheel (most of
# ``skimage.data`` is downloaded on first use; these are not).
_PHOTOGRAPHS = ("camera.png", "moon.png", "coffee.png", "chelsea.png", "astronaut.png", "coins.png")
_SLICES_BETWEEN_PHOTOGRAPHS = 12
_PHOTOGRAPH_PIXELS = 256


@dataclass(frozen=True)
class Source:
    """A real volume: what it is, and its intensities (slices, height, width) as float32."""

    description: str
    voxels: Array


def load_sources() -> list[Source]:
    """Load every volume that the installed wheels hold, enlarged to scan-like sampling.

    Raises:
        FileNotFoundError: If the wheels hold none of them.
    """
    import nibabel
    import skimage

    scans = Path(nibabel.__file__).parent / "tests" / "data"
    photographs = Path(skimage.__file__).parent / "data"
    found = [
        *_mri(scans / "example4d.nii.gz", "a brain MRI of nibabel", (3.0, 2.5, 2.5)),
        *_mri(scans / "anatomical.nii", "a T1-weighted MRI of nibabel", (4.0, 4.0, 4.0)),
        *_photograph_stack([photographs / name for name in _PHOTOGRAPHS]),
    ]
    if not found:
        raise FileNotFoundError(
            f"no real volumes in {scans} or {photographs}: these builds of nibabel and "
            "scikit-image come without their data; install them from PyPI's wheels"
        )
    return found


def _mri(path: Path, description: str, zoom: tuple[float, float, float]) -> list[Source]:
    if not path.exists():
        return []
    import nibabel
    from scipy import ndimage

    scan: Any = nibabel.load(path)
    voxels = np.asarray(scan.dataobj, dtype=np.float32)
    if voxels.ndim == 4:
        voxels = voxels[..., 0]
    # NIfTI stores width first; slices come first here.
    return [Source(description, ndimage.zoom(voxels.transpose(2, 1, 0), zoom, order=1))]


def _photograph_stack(paths: list[Path]) -> list[Source]:
    """Stack photographs as slices and blend from one to the next between them."""
    from scipy import ndimage
    from skimage import io, transform

    slices = []
    for path in paths:
        if path.exists():
            photograph = np.asarray(io.imread(path, as_gray=True), dtype=np.float32)
            photograph /= max(float(photograph.max()), 1.0)
            square = (_PHOTOGRAPH_PIXELS, _PHOTOGRAPH_PIXELS)
            slices.append(transform.resize(photograph, square, anti_aliasing=True))
    if len(slices) < 2:
        return []
    zoom = (_SLICES_BETWEEN_PHOTOGRAPHS, 1, 1)
    stack = ndimage.zoom(np.stack(slices).astype(np.float32) * 1000, zoom, order=1)
    return [Source(f"{len(slices)} photographs of scikit-image", stack)]
