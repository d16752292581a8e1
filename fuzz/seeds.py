"""Small valid inputs of every kind, made by code: what mutation starts from."""

import io
import json
import tempfile
from pathlib import Path
from typing import Any, get_args

import numpy as np
from PIL import Image, PngImagePlugin, features

from faitheir.images import Picture, srgb_profile
from faitheir.thumbnail import Thumbnail, ThumbnailFormat, ThumbnailInfo

WIDTH, HEIGHT = 24, 17
INFO = ThumbnailInfo(16, 16 * WIDTH - 5, 16 * HEIGHT, "0123456789abcdef")


def pictures() -> dict[str, bytes]:
    """Files of every format that is read, in their modes, depths, compressions and with metadata."""
    levels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
    levels[4:12, 4:16] = (200, 30, 60, 128)
    rgba = Image.fromarray(levels)
    rgb, grey = rgba.convert("RGB"), rgba.convert("L")
    palette = rgb.quantize(16)
    deep = Image.fromarray(levels[..., 0].astype(np.uint16) * 257)
    real = Image.fromarray(levels[..., 0].astype(np.float32) / 255)
    frames = [rgb.point(lambda value, by=by: value * by // 3) for by in (1, 2)]
    exif = Image.Exif()
    exif.update({0x0112: 6, 0x010F: "Maker", 0x8298: "Someone"})
    exif.get_ifd(0x8769).update({0x9003: "2020:01:02 03:04:05", 0x829A: 0.01})
    exif.get_ifd(0x8825).update({1: "N", 2: (10.0, 20.0, 30.5)})
    tagged: dict[str, Any] = {"exif": exif, "icc_profile": srgb_profile()}
    several: dict[str, Any] = {"save_all": True, "append_images": frames}
    chunks = PngImagePlugin.PngInfo()
    chunks.add(b"gAMA", (100_000).to_bytes(4, "big"))
    hdr = PngImagePlugin.PngInfo()
    hdr.add(b"cICP", bytes([9, 16, 0, 1]))
    made: dict[str, bytes] = {}

    def add(name: str, image: Image.Image, kind: str, **options: Any) -> None:
        buffer = io.BytesIO()
        # Copies, since Pillow leaves an encoder's settings on what it saved.
        if "append_images" in options:
            options["append_images"] = [frame.copy() for frame in options["append_images"]]
        image.copy().save(buffer, kind, **options)
        made[name] = buffer.getvalue()

    add("jpeg", rgb, "JPEG", **tagged)
    add("jpeg-progressive", rgb, "JPEG", progressive=True)
    add("jpeg-grey", grey, "JPEG")
    add("jpeg-cmyk", rgb.convert("CMYK"), "JPEG")
    add("mpo", rgb, "MPO", **several)
    add("png", rgb, "PNG", **tagged)
    add("png-rgba", rgba, "PNG")
    add("png-palette", palette, "PNG", transparency=3)
    add("png-bits", grey.convert("1"), "PNG")
    add("png-16", deep, "PNG", transparency=300)
    add("png-la", rgba.convert("LA"), "PNG")
    add("png-gamma", rgb, "PNG", pnginfo=chunks)
    add("png-hdr", rgb, "PNG", pnginfo=hdr)
    add("apng", rgb, "PNG", **several)
    add("webp", rgb, "WEBP", **tagged)
    add("webp-lossless", rgba, "WEBP", lossless=True)
    add("webp-animated", rgb, "WEBP", **several)
    translucent = {"save_all": True, "append_images": [rgba.transpose(Image.Transpose.ROTATE_180)]}
    add("webp-animated-alpha", rgba, "WEBP", lossless=True, **translucent)
    add("gif", palette, "GIF", transparency=2)
    add("gif-animated", rgb, "GIF", **several)
    add("bmp", rgb, "BMP")
    add("bmp-palette", palette, "BMP")
    add("ppm", rgb, "PPM")
    add("pgm-16", deep, "PPM")
    add("pfm", real, "PPM")
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        add(f"tiff-{compression}", rgb, "TIFF", compression=compression)
    add("tiff-tagged", rgba, "TIFF", **tagged)
    add("tiff-pages", rgb, "TIFF", **several)
    add("tiff-16", deep, "TIFF")
    add("tiff-float", real, "TIFF")
    add("tiff-lab", Image.new("LAB", (5, 4), (128, 120, 140)), "TIFF")
    add("tiff-fax", grey.convert("1"), "TIFF", compression="group4")
    if features.check("jpg_2000"):
        add("jp2", rgb, "JPEG2000")
        add("jp2-tiles", rgb, "JPEG2000", tile_size=(16, 16), irreversible=True)
        add("j2k-rgba", rgba, "JPEG2000", no_jp2=True)
        add("jp2-ycc", rgb.convert("YCbCr"), "JPEG2000")
        add("jp2-cmyk", rgb.convert("CMYK"), "JPEG2000", tile_size=(16, 16))
    if _has_avif():
        add("avif", rgba, "AVIF", exif=exif)
        add("avif-rgb", rgb, "AVIF", **tagged)
    return made | _rare_tiffs(levels) | _deep_avif(levels)


def _rare_tiffs(levels: np.ndarray) -> dict[str, bytes]:
    """Those that Pillow does not read, where tifffile is there to write them."""
    try:
        import tifffile
    except ImportError:
        return {}
    planes = np.moveaxis(levels[..., :3], 2, 0)
    made = {}
    for name, values, options in (
        ("float-rgb", levels[..., :3] / np.float32(255), {"compression": "zlib", "predictor": True}),
        ("float64-tiled", levels[..., :3] / 255, {"tile": (16, 16)}),
        ("half", (levels[..., :3] / 255).astype(np.float16), {}),
        ("planes-16", planes.astype(np.uint16) * 257, {"planarconfig": "separate", "compression": "lzw"}),
    ):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, values, photometric="rgb", **options)
        made[f"tiff-{name}"] = buffer.getvalue()
    return made


def _deep_avif(levels: np.ndarray) -> dict[str, bytes]:
    """One of 10 bits, where imagecodecs is there to write it."""
    try:
        import imagecodecs
    except ImportError:
        return {}
    ten = levels.astype(np.uint16) * 4
    return {"avif-10": imagecodecs.avif_encode(ten, level=80, bitspersample=10, pixelformat="444")}


def thumbnails() -> dict[str, bytes]:
    """Thumbnail files of every kind, with and without alpha, loss and metadata, and one of the format before."""
    levels = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
    plain = Picture(np.ascontiguousarray(levels[..., :3]))
    alpha = Picture(plain.rgb, np.ascontiguousarray(levels[..., 3]), icc_profile=srgb_profile())
    text = PngImagePlugin.PngInfo()
    text.add_text("FaithEIR", json.dumps(_FORMAT_1))
    old = io.BytesIO()
    plain.to_pil().save(old, "PNG", pnginfo=text)
    formats = [name for name in get_args(ThumbnailFormat) if name != "avif" or _has_avif()]
    made = {name: Thumbnail(plain, INFO).encode(name) for name in formats}
    made |= {f"{name}-alpha": Thumbnail(alpha, INFO).encode(name) for name in formats if name != "jpg"}
    lossy = Thumbnail(plain, INFO).encode("webp", quality=50)
    return made | {"webp-lossy": lossy, "bare": Thumbnail(plain, None).encode(), "format-1": old.getvalue()}


_FORMAT_1 = {
    "scale": 16,
    "width": INFO.width,
    "height": INFO.height,
    "model": "nano-x16",
    "weights": INFO.weights,
    "format_version": 1,
}


def _has_avif() -> bool:
    return "avif" in features.modules and bool(features.check("avif"))


def metadata() -> dict[str, bytes]:
    """What a thumbnail says of its making: the bytes of today's format, and the line of JSON of the first."""
    return {"bytes": INFO.to_bytes(), "json": json.dumps(_FORMAT_1).encode()}


def configs() -> dict[str, bytes]:
    """Training recipes of ours, and one that stands alone."""
    folder = Path(__file__).parents[1] / "configs"
    found = {path.stem: path.read_bytes() for path in sorted(folder.glob("*.toml"))[:3]}
    tables = b'steps = 5\n[data]\ntrain = "a"\ncrop = 64\n[model.codec]\nscale = 16\n[losses]\n'
    return found | {"tables": tables}


def results() -> dict[str, bytes]:
    """The file of a measured system."""
    from faitheir.evaluation.results import PictureResult, SystemResult

    picture = PictureResult("a", 64, 48, {"psnr": 30.5, "bytes": 300.0}, None, "a.png", "a.webp", None)
    result = SystemResult(
        system="tiny", kind="model", scale=16, protocol="paper", summary={"psnr": 30.5}, pictures=(picture,)
    )
    return {"result": result.to_json().encode()}


def small_model() -> tuple[Any, Any]:
    """A model of some thousand weights, and its configuration."""
    import torch

    from faitheir.backbones.nano import NanoConfig
    from faitheir.models import ModelConfig, build_model
    from faitheir.nn.codec import CodecConfig

    nano = NanoConfig(
        latent_channels=4,
        encoder_widths=(8, 8),
        encoder_blocks=(1, 1),
        unet_widths=(8, 16),
        unet_blocks=(1, 1),
        decoder_widths=(8, 8, 4),
        decoder_blocks=(1, 1, 1),
        context_dim=16,
        heads=1,
        window=2,
    )
    config = ModelConfig("tiny", CodecConfig(growth=4, inv_blocks=1, pse_hidden=(8,), lte_tokens=3), nano)
    torch.manual_seed(0)
    return build_model(config), config


def checkpoint(run: Path) -> Path:
    """A checkpoint of the small model in a run's folder."""
    import torch

    from faitheir.models import save_model
    from faitheir.training.checkpoints import save_checkpoint

    model, config = small_model()
    state = {"step": 3, "moments": [torch.arange(6.0).reshape(2, 3)], "none": None}
    save_checkpoint(run, 3, state, lambda folder: save_model(folder, model, config), keep=1)
    return run / "checkpoint-00000003"


def checkpoint_files() -> dict[str, bytes]:
    """Every file of a checkpoint, its path before a zero byte before its content."""
    with tempfile.TemporaryDirectory() as folder:
        made = checkpoint(Path(folder))
        files = sorted(path for path in made.rglob("*") if path.is_file())
        paths = {path.relative_to(made).as_posix(): path.read_bytes() for path in files}
    return {name.replace("/", "-"): name.encode() + b"\0" + content for name, content in paths.items()}


def requests() -> dict[str, bytes]:
    """Requests to the server: a line with method and address, headers, an empty line, the body."""
    photograph = io.BytesIO()
    levels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(levels).save(photograph, "JPEG")
    data = photograph.getvalue()
    part = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n' + data + b"\r\n"
    kind, form = b"Content-Type: multipart/form-data; boundary=edge\r\n", part + b"--edge--\r\n"
    thumbnail = Thumbnail(Picture(levels), INFO).encode("webp")
    made = {
        "thumbnail": (b"POST /v1/thumbnails?format=webp&quality=80", b"", data),
        "thumbnail-form": (b"POST /v1/thumbnails?model=tiny", kind, form),
        "picture": (b"POST /v1/pictures?format=jpg&quality=90&model=tiny", b"", thumbnail),
        "describe": (b"POST /v1/thumbnails/describe", b"", thumbnail),
        "batch": (b"POST /v1/batches/thumbnails", kind, part + form),
        "openapi": (b"GET /v1/openapi.json", b"Host: localhost\r\n", b""),
    }
    return {name: line + b"\r\n" + head + b"\r\n" + body for name, (line, head, body) in made.items()}
