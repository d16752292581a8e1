"""Freed memory is kept where it was asked for, and nowhere else."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, resource, sys
from faitheir.devices import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(2**26)
    ctypes.memset(block, 1, 2**26)
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(*(faults() for _ in range(2)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that gives memory back")
def test_a_large_block_is_mapped_once() -> None:
    first, second = ({}, {})
    for how in ("keep", "leave"):
        done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
        first[how], second[how] = map(int, done.stdout.split())
    assert min(first.values()) > 20, "64 MiB are at least 32 pages, even of the largest kind"
    assert second["keep"] < first["keep"] / 10
    assert second["leave"] > first["leave"] / 2
