"""The rows of tests/cases.py, one file a family of ops."""
