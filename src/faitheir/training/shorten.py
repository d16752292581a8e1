"""A nano model with a shorter way up, made from one with a longer: what training then begins from.

    python -m faitheir.training.shorten nano-x16 PHOTOS -o INIT --without 2 --without 3

The decoder makes its pixels from features at H/4, to which a 1x1 convolution leads, and blocks of the UNet's middle are
left out. Everything else keeps its weights, and the two convolutions that are new are solved for by least squares: on
photographs they give what the longer decoder gives, as nearly as they can. The thumbnail is the same.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import click
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faitheir.backbones.nano import NanoBackbone, NanoConfig
from faitheir.errors import ConfigError, FaithEIRError
from faitheir.files import find_photographs
from faitheir.images import read_picture
from faitheir.models import ModelConfig, build_model, convert_state, stored_state
from faitheir.nn.codec import FaithEIR
from faitheir.pipeline import FaithEIRPipeline

#: Side of what is taken of each photograph, at most.
SIDE = 320

#: Over the mean of the diagonal: what keeps directions that the features hardly have from being used.
RIDGE = 1e-4


def shorten(
    model: FaithEIR, config: ModelConfig, pictures: Iterable[Tensor], without: Iterable[int] = ()
) -> tuple[FaithEIR, ModelConfig]:
    """The shorter model and its configuration, its fidelity setting as new.

    ``pictures``: (1, 3, H, W) in [0, 1], sides divisible by ``size_multiple``. ``without``: blocks of the UNet's
    middle, counted from 0, that are left out. Raises ConfigError for a model that cannot be shortened so.
    """
    long, left_out = config.backbone, set(without)
    if not isinstance(long, NanoConfig) or not long.decoder_widths[2]:
        raise ConfigError("only nano with features at H/2 can be shortened.")
    count = long.unet_blocks[1]
    if not left_out <= set(range(count)):
        raise ConfigError(f"blocks {sorted(left_out)} were to be left out; the middle has 0 to {count - 1}.")
    shorter = dataclasses.replace(
        config,
        backbone=dataclasses.replace(
            long,
            unet_blocks=(long.unet_blocks[0], count - len(left_out)),
            decoder_widths=(*long.decoder_widths[:2], 0),
            decoder_blocks=(*long.decoder_blocks[:2], 0),
            decoder_up_kernel=1,
        ),
    )
    result = build_model(shorter).eval()
    convert_state(result, _without_blocks(stored_state(model), count, left_out), config.name)
    assert isinstance(model.backbone, NanoBackbone) and isinstance(result.backbone, NanoBackbone)  # noqa: PT018
    source, target = model.backbone.decoder, result.backbone.decoder

    with torch.inference_mode():
        passes = [_watch(partial(model, x), source, source.up4, source.conv_out) for x in pictures]
        _solve(target.up4, [up4 for _, up4, _ in passes])
        pairs = []
        for (latent, _), _, (_, detail) in passes:
            features, _ = _watch(partial(target, latent), target.conv_out)[0]
            pairs.append((features, F.pixel_unshuffle(F.pixel_shuffle(detail, source.shuffle), target.shuffle)))
        _solve(target.conv_out, pairs)
    return result, shorter


def _without_blocks(state: dict[str, Tensor], count: int, left_out: set[int]) -> dict[str, Tensor]:
    """The state of a model without these of the ``count`` blocks of its middle, which attention cuts in half."""
    kept = [i for i in range(count) if i not in left_out]
    names = {_middle(old, count): _middle(new, len(kept)) for new, old in enumerate(kept)}
    result = {}
    for name, value in state.items():
        prefix = next((old for old in (_middle(i, count) for i in range(count)) if name.startswith(old)), None)
        if prefix is None:
            result[name] = value
        elif prefix in names:
            result[names[prefix] + name.removeprefix(prefix)] = value
    return result


def _middle(block: int, count: int) -> str:
    first = count // 2
    return f"backbone.unet.middle1.{block}." if block < first else f"backbone.unet.middle2.{block - first}."


def _watch(run: Callable[[], object], *layers: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """What goes into each of the layers in ``run``, and what comes out."""
    found: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def keep(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found[layer] = (inputs[0].clone(), output.clone())  # what follows may work in place

    handles = [layer.register_forward_hook(keep) for layer in layers]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return [found[layer] for layer in layers]


def _solve(conv: nn.Conv2d, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Give a convolution with stride 1 the weights with which inputs give outputs, by least squares."""
    assert conv.bias is not None
    columns = conv.weight[0].numel() + 1
    gram = torch.zeros(columns, columns, dtype=torch.float64)
    mixed = torch.zeros(columns, conv.out_channels, dtype=torch.float64)
    for seen, wanted in pairs:
        patches = F.unfold(seen, conv.kernel_size, padding=conv.padding)[0].double()  # type: ignore[arg-type]
        patches = torch.cat([patches, patches.new_ones(1, patches.shape[1])])
        gram += patches @ patches.T
        mixed += patches @ wanted[0].flatten(1).double().T
    gram += RIDGE * gram.diagonal().mean() * torch.eye(columns, dtype=torch.float64)
    solution = torch.linalg.solve(gram, mixed).float()
    conv.weight.copy_(solution[:-1].T.reshape(conv.weight.shape))
    conv.bias.copy_(solution[-1])


def crops(photographs: Sequence[Path], multiple: int) -> Iterator[Tensor]:
    """The upper left ``SIDE`` x ``SIDE`` of each, or what there is, in multiples of ``multiple``."""
    for path in photographs:
        rgb = read_picture(path).rgb
        height, width = (min(side, SIDE) // multiple * multiple for side in rgb.shape[:2])
        if height and width:
            yield torch.from_numpy(rgb[:height, :width].copy()).permute(2, 0, 1)[None].float() / 255


@click.command()
@click.argument("model")
@click.argument("photographs", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The folder of the shorter model.")
@click.option(
    "--without", multiple=True, type=int, help="A block of the UNet's middle to leave out, from 0; repeatable."
)
@click.option("--count", default=60, show_default=True, help="How many photographs to solve on, evenly of the folder.")
def main(model: str, photographs: Path, output: Path, without: tuple[int, ...], count: int) -> None:
    """Shorten the nano MODEL, solved on some of PHOTOGRAPHS (a folder)."""
    try:
        pipeline = FaithEIRPipeline.from_pretrained(model)
        paths = find_photographs(photographs)
        paths = paths[:: max(1, len(paths) // max(1, count))]
        pictures = crops(paths, pipeline.model.size_multiple)
        shorter, config = shorten(pipeline.model, pipeline.config, pictures, without)
        FaithEIRPipeline(shorter, config).save_pretrained(output)
    except FaithEIRError as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main()
