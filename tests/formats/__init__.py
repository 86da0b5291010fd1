"""Formats of datasets, against the libraries that read them."""
