"""Same kind out: what users hand in, as a Sample and back."""

from augpipe.kinds.items import Packed, unpack

__all__ = ["Packed", "unpack"]
