"""Whether an image's refcounts and tables agree, and the repair of those that do not."""

from hatchway.disk.checking.checks import check, check_chain
from hatchway.disk.checking.findings import Finding, FindingKind, Report

__all__ = ["Finding", "FindingKind", "Report", "check", "check_chain"]
