"""One line of ``hatchway doctor``, and the forms in which it is shown."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["JSON_SCHEMA", "Finding", "Mark", "to_json"]

# Raised by one whenever a field is removed or changes its meaning.
JSON_SCHEMA = 1


class Mark(str, enum.Enum):
    """How well this machine serves one need of Hatchway."""

    OK = "ok"
    LIMITED = "limited"
    MISSING = "missing"


@dataclass(frozen=True)
class Finding:
    """What was found, and its consequence.

    Attributes:
        key: Stable name for scripts, such as ``shared_memory``.
        title: The same for people.
        mark: How well the need is served.
        value: What was found, in a few words.
        consequence: What that means for Hatchway, and the way out if there is one.
        details: The raw figures, with units in their names, for ``--json``.
    """

    key: str
    title: str
    mark: Mark
    value: str
    consequence: str
    details: Mapping[str, object] = field(default_factory=dict)


def to_json(findings: Sequence[Finding], *, version: str) -> str:
    """Return the findings as a JSON object whose layout ``schema`` numbers."""
    document = {
        "schema": JSON_SCHEMA,
        "hatchway": version,
        "findings": [
            {
                "key": finding.key,
                "mark": finding.mark.value,
                "value": finding.value,
                "consequence": finding.consequence,
                "details": dict(finding.details),
            }
            for finding in findings
        ],
    }
    return json.dumps(document, indent=2)
