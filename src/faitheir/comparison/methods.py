"""Systems by name: models, resampling, codecs, super-resolution, other programs.

    nano-x16, model:FOLDER          a model, through its thumbnail file
    nano-x16@1, model:FOLDER@1      the same, restored at that fidelity, 0 to 1
    bicubic, lanczos                a thumbnail made and enlarged by Pillow
    jpeg, jpeg@bytes                a codec in at most the bytes of the target's file, picture by picture
    jpeg@bytes-reduced              the same, but the picture may be reduced first wherever that is better
    jpeg@psnr                       a codec in the fewest bytes that reach the target's value of a metric
    sr:CHECKPOINT                   a super-resolution network over a bicubic thumbnail
    cmd:'PROGRAM {input} {output}'  another program over a folder of bicubic thumbnails
    restored:DIR[:THUMBNAILS]       what another program left already

The target is the first model among the systems that are compared, or the one that is named.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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
    Setting,
    System,
    Target,
)
from faitheir.errors import EvaluationError
from faitheir.models import KNOWN_CONFIGS, embedded_models

SpecKind = Literal["model", "resampling", "codec", "sr", "cmd", "restored"]


@dataclass(frozen=True)
class Spec:
    """What was asked for. ``way``: of codecs, what they are held to. ``label``: the name it was given, if any.

    ``fidelity``: of models, how they restore.
    """

    kind: SpecKind
    argument: str
    way: str = ""
    label: str | None = None
    fidelity: float = 0.0


def parse_methods(texts: Sequence[str]) -> list[Spec]:
    """Systems as they are named at the top of this module, each text one or several with commas between.

    A text with ``cmd:`` in it is one. ``NAME=`` before a system is what tables are to call it. Raises EvaluationError
    for what is none.
    """
    parts = [part for text in texts for part in ([text] if "cmd:" in text else text.split(",")) if part.strip()]
    if not parts:
        raise EvaluationError("no systems to compare are named; give some, such as nano-x16 bicubic jpeg@bytes.")
    return [parse_method(part.strip()) for part in parts]


def parse_method(text: str) -> Spec:
    """One system. Raises EvaluationError."""
    named = re.fullmatch(r"([^=:/\\@]+)=(.+)", text, re.DOTALL)
    label, body = (named[1].strip(), named[2].strip()) if named else (None, text)
    prefix, colon, argument = body.partition(":")
    if colon and prefix in ("model", "sr", "cmd", "restored"):
        if not argument.strip():
            raise EvaluationError(f"'{text}' says nothing after '{prefix}:'; see faitheir compare --help.")
        fidelity = 0.0
        if prefix == "model":
            argument, fidelity = _fidelity(argument)
        return Spec(prefix, argument, label=label, fidelity=fidelity)  # type: ignore[arg-type]  # narrowed above
    if body in RESAMPLINGS:
        return Spec("resampling", body, label=label)
    name, _, way = body.partition("@")
    if name in CODECS:
        return Spec("codec", name, _check_way(way), label)
    if body in ("irn", "t-irn"):
        body = f"{body}-x16"
    model, fidelity = _fidelity(body)
    if model in embedded_models() or model in KNOWN_CONFIGS:
        return Spec("model", model, label=label, fidelity=fidelity)
    known = (*embedded_models(), *RESAMPLINGS, *(f"{codec}@bytes" for codec in CODECS), "model:", "sr:", "cmd:")
    raise EvaluationError(f"Unknown system '{body}'; choose of {', '.join(known)}, restored:, or see compare --help.")


def _fidelity(text: str) -> tuple[str, float]:
    """``MODEL@0.5`` -> the model and its fidelity; 0 where none is named."""
    if not Path(text).is_dir() and (named := re.fullmatch(r"(.+)@(\d*\.?\d+)", text, re.DOTALL)):
        return named[1], float(named[2])
    return text, 0.0


def _check_way(way: str) -> str:
    way = way or BYTES
    if way not in (BYTES, BYTES_REDUCED, *HELD_TO):
        ways = ", ".join((BYTES, BYTES_REDUCED, *HELD_TO))
        raise EvaluationError(f"A codec cannot be held to '{way}'; choose of {ways}.")
    return way


def open_method(spec: Spec, setting: Setting, target: Callable[[], Target]) -> System:
    """The system, after a look whether what it needs is there: a model's folder, a checkpoint, a program, a library.

    ``target``: asked for only when a codec works. Raises FaithEIRError subclasses.
    """
    if spec.kind == "model":
        return ModelSystem(spec.argument, setting, spec.label, fidelity=spec.fidelity)
    if spec.kind == "resampling":
        return Resampling(spec.argument, setting, spec.label)
    if spec.kind == "codec":
        return CodecSystem(spec.argument, spec.way, setting, target, spec.label)
    if spec.kind == "sr":
        return SuperResolution(Path(spec.argument), setting, spec.label)
    return Command(spec.argument, setting, spec.label) if spec.kind == "cmd" else Restored(spec.argument, spec.label)
