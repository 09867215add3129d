"""The stored index of a chain: where each granule lies, in a file beside a layer."""

from typing import TYPE_CHECKING

from hatchway.base.lazy import lazy_names

if TYPE_CHECKING:
    from hatchway.disk.index.building import Built, build
    from hatchway.disk.index.records import LayerRecord
    from hatchway.disk.index.sidecar import sidecar_of
    from hatchway.disk.index.stored import StoredIndex
    from hatchway.disk.index.tables import digest_of

__all__ = ["Built", "LayerRecord", "StoredIndex", "build", "digest_of", "sidecar_of"]

__getattr__ = lazy_names(
    __name__,
    {
        "Built": "hatchway.disk.index.building",
        "LayerRecord": "hatchway.disk.index.records",
        "StoredIndex": "hatchway.disk.index.stored",
        "build": "hatchway.disk.index.building",
        "digest_of": "hatchway.disk.index.tables",
        "sidecar_of": "hatchway.disk.index.sidecar",
    },
)
