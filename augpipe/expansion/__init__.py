"""Offline expansion of a dataset, and its verification."""

from augpipe.expansion.expanding import Progress, Summary, expand
from augpipe.expansion.verification import Finding, Report, verify

__all__ = ["Finding", "Progress", "Report", "Summary", "expand", "verify"]
