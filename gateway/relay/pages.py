"""Buffers that cost what is used of them."""

import mmap


def pages(size: int) -> mmap.mmap:
    """A buffer of `size` bytes whose pages cost memory only once they are used: most are never used whole."""
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
