"""Offline expansion of a dataset, its verification, and its conversion to other formats."""

from augpipe.expansion.conversion import Conversion, convert
from augpipe.expansion.expanding import Summary, expand
from augpipe.expansion.progress import Progress
from augpipe.expansion.verification import Finding, Report, verify

__all__ = ["Conversion", "Finding", "Progress", "Report", "Summary", "convert", "expand", "verify"]
