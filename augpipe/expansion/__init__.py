"""Offline expansion of a dataset, its verification, and its conversion to other formats."""

from augpipe.expansion.conversion import Conversion, convert
from augpipe.expansion.estimating import Estimate, estimate
from augpipe.expansion.expanding import expand, job_of
from augpipe.expansion.findings import Finding, Report
from augpipe.expansion.progress import Progress
from augpipe.expansion.summary import Summary
from augpipe.expansion.verification import verify

__all__ = [
    "Conversion",
    "Estimate",
    "Finding",
    "Progress",
    "Report",
    "Summary",
    "convert",
    "estimate",
    "expand",
    "job_of",
    "verify",
]
