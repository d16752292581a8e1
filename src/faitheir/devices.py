"""Where and how to compute: devices, precisions, and the memory of the process."""

import ctypes
import sys
from pathlib import Path

import torch

from faitheir.errors import DeviceError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

#: glibc's malloc.h. The threshold of trimming is an int: 2 GiB, less one byte, is the most that it takes.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = 2**31 - 1


def native_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` multiplies in bfloat16, which makes it faster than float32."""
    if device.type == "cpu":
        # AMX, or AVX-512 with BF16: there torch's convolutions take about half of float32's time.
        names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
        return any(supported() for name in names if (supported := getattr(torch.cpu, name, None)))
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8


def resolve_device(name: str | torch.device) -> torch.device:
    """The device of that name; "auto" is cuda, else mps, else cpu. Raises DeviceError where it is not available."""
    has_mps = torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(f"Unknown device '{name}'; choose auto, cpu, cuda or mps.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError("The device 'cuda' was asked for, but torch finds no CUDA GPU here; use cpu or auto.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"There is no GPU '{name}'; torch finds {torch.cuda.device_count()} here.")
    if device.type == "mps" and not has_mps:
        raise DeviceError("The device 'mps' was asked for, but this is no Mac with Metal; use cpu or auto.")
    return device


def resolve_dtype(name: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype of that name; "auto" is bfloat16 where the device is fast in it, else float32."""
    if isinstance(name, torch.dtype):
        if name in DTYPES.values():
            return name
    elif name == "auto":
        return torch.bfloat16 if native_bfloat16(device) else torch.float32
    elif name in DTYPES:
        return DTYPES[name]
    raise DeviceError(f"Unknown precision '{name}'; choose auto, {', '.join(DTYPES)}.")


def peak_mib(device: torch.device) -> float:
    """The peak memory of this process in MiB: on the CPU its resident set, on a GPU what torch allocated there.

    NaN where the system does not report it.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    # getrusage counts the parent's memory too, as it was when this process was started; the kernel's own mark does not.
    status = Path("/proc/self/status")
    if status.is_file():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        return int(fields["VmHWM"].split()[0]) / 1024
    try:
        import resource
    except ImportError:  # Windows has none
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def keep_freed_memory() -> None:
    """Have this process keep the memory it frees for its next allocations, instead of returning it to the system.

    glibc returns blocks above 32 MiB at once, and the system clears and maps every page of the next such block again:
    a twentieth of the time of an upscaling, more of the first. Only for processes of our own, before they allocate
    much; a library must not decide this for its user. Does nothing under another C library.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no such function; no such library; Windows has none without a name
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, _NEVER)
