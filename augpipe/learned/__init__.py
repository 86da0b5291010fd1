"""What augments by networks: ops whose means are weights."""
