"""What the meanings do to pixels: one sub-package a way of computing."""
