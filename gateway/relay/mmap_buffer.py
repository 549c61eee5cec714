"""Creates large buffers with mmap(2). The kernel allocates memory only for the used part of a buffer."""

import mmap


def mmap_buffer(size: int) -> mmap.mmap:
    """Return a buffer of `size` bytes. The kernel allocates each page when the page is first written."""
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
