"""Systems by name: models, resampling, codecs, super-resolution, other programs.

    nano-x16, model:FOLDER          a model, through its thumbnail file
    nano-x16@1, model:FOLDER@1      the same, restored at that fidelity, 0 to 1
    nano-x16[webp:90]               the same, its thumbnail stored lossily: webp, avif or jpg, and a quality
    bicubic, lanczos                a thumbnail made and enlarged by Pillow
    jpeg, jpeg@bytes                a codec in at most the bytes of the target's file, picture by picture
    jpeg@bytes-reduced              the same, but the picture may be reduced first wherever that is better
    jpeg@0.05bpp                    a codec in at most that rate, picture by picture: a point of its curve
    jpeg@psnr                       a codec in the fewest bytes that reach the target's value of a metric
    sr:CHECKPOINT                   a super-resolution network over a bicubic thumbnail
    cmd:'PROGRAM {input} {output}'  another program over a folder of bicubic thumbnails
    restored:DIR[:THUMBNAILS]       pictures that another program has restored

The target is the first model among the systems that are compared, or the one that is named.
"""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from faitheir.comparison.codecs import CODECS
from faitheir.comparison.peers import Command, SuperResolution
from faitheir.comparison.systems import (
    BYTES,
    BYTES_REDUCED,
    HELD_TO,
    RESAMPLINGS,
    CodecSystem,
    ModelSystem,
    Resampling,
    Restored,
)
from faitheir.errors import EvaluationError
from faitheir.models import KNOWN_CONFIGS, embedded_models

#: A `System` that was named: called with a `Setting` it is opened, after a look whether what it needs is there.
#: Raises FaithEIRError subclasses then.
Opener = partial[Any]

_PREFIXES = {"sr": SuperResolution, "cmd": Command, "restored": Restored}


def parse_methods(texts: Sequence[str]) -> list[Opener]:
    """Systems as they are named at the top of this module, each text one or several with commas between.

    A text with ``cmd:`` in it is one. ``NAME=`` before a system is what tables are to call it. Raises EvaluationError
    for an unknown one.
    """
    parts = [part for text in texts for part in ([text] if "cmd:" in text else text.split(",")) if part.strip()]
    if not parts:
        raise EvaluationError("no systems to compare are named; give some, such as nano-x16 bicubic jpeg@bytes.")
    return [parse_method(part.strip()) for part in parts]


def parse_method(text: str) -> Opener:
    """One system. Raises EvaluationError."""
    named = re.fullmatch(r"([^=:/\\@]+)=(.+)", text, re.DOTALL)
    label, body = (named[1].strip(), named[2].strip()) if named else (None, text)
    prefix, colon, argument = body.partition(":")
    if colon and prefix in (*_PREFIXES, "model") and not argument.strip():
        raise EvaluationError(f"'{text}' says nothing after '{prefix}:'; see faitheir compare --help.")
    if colon and prefix in _PREFIXES:
        return partial(_PREFIXES[prefix], argument, label=label)
    if body in RESAMPLINGS:
        return partial(Resampling, body, label=label)
    name, _, way = body.partition("@")
    if name in CODECS:
        return partial(CodecSystem, name, label=label, way=_check_way(way or BYTES))
    named_model = colon and prefix == "model"
    model, options = _options(argument if named_model else f"{body}-x16" if body in ("irn", "t-irn") else body)
    if named_model or model in embedded_models() or model in KNOWN_CONFIGS:
        return partial(ModelSystem, model, label=label, **options)
    known = (*embedded_models(), *RESAMPLINGS, *(f"{codec}@bytes" for codec in CODECS), "model:", "sr:", "cmd:")
    raise EvaluationError(f"Unknown system '{body}'; choose from {', '.join(known)}, restored:, or see compare --help.")


def _options(text: str) -> tuple[str, dict[str, Any]]:
    """``MODEL@0.5[webp:90]`` -> the model, its fidelity (0 where none is named) and how its thumbnail is stored."""
    options: dict[str, Any] = {"fidelity": 0.0, "stored": None}
    if not Path(text).is_dir() and (named := re.fullmatch(r"(.+)\[(webp|avif|jpg):(\d{1,3})\]", text, re.DOTALL)):
        text, options["stored"] = named[1], (named[2], int(named[3]))
    if not Path(text).is_dir() and (named := re.fullmatch(r"(.+)@(\d*\.?\d+)", text, re.DOTALL)):
        text, options["fidelity"] = named[1], float(named[2])
    return text, options


def _check_way(way: str) -> str:
    if way not in (BYTES, BYTES_REDUCED, *HELD_TO) and not re.fullmatch(r"\d*\.?\d+bpp", way):
        ways = ", ".join((BYTES, BYTES_REDUCED, "0.05bpp", *HELD_TO))
        raise EvaluationError(f"A codec cannot be matched to '{way}'; choose from {ways}.")
    return way
