"""How the C library deals with memory that is freed. Nothing here imports torch."""

import ctypes

#: glibc's malloc.h. The threshold of trimming is an int: 2 GiB, less one byte, is the most that it takes.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Have this process use again what it freed, however large, in place of giving it back to the system.

    glibc gives blocks above 32 MiB back at once, and every page of the next such block is cleared and mapped anew: a
    twentieth of the time of an upscaling, more of the first. This is for processes of our own, before they allocate
    much; a library must not decide it for its user. Under another C library nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no such function; no such library; Windows has none without a name
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, _NEVER)
