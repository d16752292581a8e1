"""The REST interface, over real connections to a real server of tiny models."""

import base64
import io
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from PIL import Image

import faitheir
from command import refused
from conftest import save_tiny_model
from faitheir.containers import get_private, put_private
from faitheir.errors import ConfigError, ServerError
from faitheir.evaluation.metrics import psnr, ssim
from faitheir.images import PictureWarning, encode_picture, read_picture
from faitheir.pipeline import FaithEIRPipeline
from faitheir.server.app import Access
from faitheir.server.quota import available_cores, share
from faitheir.server.service import Limits, Made
from faitheir.thumbnail import Thumbnail
from serving import Gate, Server, form, running, tiny_models
from tiny import model_config


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def server(models: list[Path]) -> Iterator[Server]:
    with running(models) as server:
        yield server


@pytest.fixture
def jpeg(photo: Callable[..., Path]) -> bytes:
    return photo("a.jpg", 150, 90, quality=90).read_bytes()


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


# --- what it does ----------------------------------------------------------------------------------------------------


def test_a_photograph_becomes_a_thumbnail_and_a_picture_again(
    server: Server, models: list[Path], jpeg: bytes, tmp_path: Path
) -> None:
    made = server.post("/v1/thumbnails", jpeg)
    assert made.status == 200
    assert made.headers["content-type"] == "image/avif"
    assert made.headers["faitheir-model"] == "tiny-x16"
    assert made.headers["faitheir-size"] == "10x6"
    assert made.headers["faitheir-original-size"] == "150x90"
    assert {part.split(";")[0] for part in made.headers["server-timing"].split(", ")} == {
        "wait",
        "decode",
        "model",
        "encode",
    }
    # The same as the library makes, byte for byte.
    (tmp_path / "a.jpg").write_bytes(jpeg)
    pipeline = FaithEIRPipeline.from_pretrained(models[0])
    assert made.body == pipeline.downscale(tmp_path / "a.jpg").encode()

    back = server.post("/v1/pictures", made.body)
    assert back.status == 200
    assert np.array_equal(opened(back.body), pipeline.upscale(Thumbnail.decode(made.body)))
    truer = server.post("/v1/pictures?fidelity=1&format=jpg&quality=90", made.body)
    assert truer.headers["content-type"] == "image/jpeg"
    assert opened(truer.body).size == (150, 90)
    assert not np.array_equal(opened(truer.body), opened(back.body))


def test_a_form_with_one_file_is_as_good_as_the_file(server: Server, jpeg: bytes) -> None:
    assert server.send("/v1/thumbnails", [("a.jpg", jpeg)]).body == server.post("/v1/thumbnails", jpeg).body
    assert "One file is wanted" in server.send("/v1/thumbnails", [("a.jpg", jpeg)] * 2).detail


def test_the_model_that_made_a_thumbnail_restores_it(server: Server, jpeg: bytes) -> None:
    made = server.post("/v1/thumbnails?model=tiny-x32&format=webp", jpeg)
    assert made.headers["content-type"] == "image/webp"
    assert made.headers["faitheir-size"] == "5x3"
    assert server.post("/v1/pictures", made.body).headers["faitheir-model"] == "tiny-x32"
    said = server.post("/v1/thumbnails/describe", made.body).json
    assert said["restored_by"] == "tiny-x32"
    assert (said["width"], said["height"], said["bytes"]) == (5, 3, len(made.body))
    assert (said["made_by"]["scale"], said["made_by"]["width"], said["made_by"]["height"]) == (32, 150, 90)
    # Another model of another scale cannot.
    other = server.post("/v1/pictures?model=tiny-x16", made.body)
    assert other.status == 422
    assert "made at 32x" in other.detail


def test_anybodys_small_picture_is_restored(server: Server, photo: Callable[..., Path]) -> None:
    data = photo("small.png", 7, 5).read_bytes()
    assert opened(server.post("/v1/pictures", data).body).size == (112, 80)
    assert opened(server.post("/v1/pictures?model=tiny-x32", data).body).size == (224, 160)
    assert server.post("/v1/thumbnails/describe", data).json["made_by"] is None


@pytest.mark.filterwarnings("ignore::faitheir.WeightsMismatchWarning")
def test_a_thumbnail_of_a_model_that_is_not_here(server: Server, tmp_path: Path, jpeg: bytes) -> None:
    stranger = save_tiny_model(tmp_path / "stranger", model_config(name="stranger"), seed=5)
    thumbnail = FaithEIRPipeline.from_pretrained(stranger).downscale(opened(jpeg)).encode()
    answer = server.post("/v1/pictures", thumbnail)
    assert answer.status == 422
    assert "tiny-x16, tiny-x32" in answer.detail
    assert server.post("/v1/thumbnails/describe", thumbnail).json["restored_by"] is None
    named = server.post("/v1/pictures?model=tiny-x16", thumbnail)
    assert named.status == 200
    assert "may be off" in named.headers["faitheir-warning"]


def test_what_is_there_is_not_sent_again(server: Server, jpeg: bytes) -> None:
    first = server.post("/v1/thumbnails", jpeg)
    tag = first.headers["etag"]
    again = server.post("/v1/thumbnails", jpeg, If_None_Match=f'"other", {tag}')
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
    for path in ("/v1/thumbnails?format=webp", "/v1/thumbnails?model=tiny-x32"):
        assert server.post(path, jpeg, If_None_Match=tag).status == 200
    assert server.post("/v1/thumbnails", jpeg + b"\0", If_None_Match=tag).status == 200
    lines = server.send("/v1/batches/thumbnails", [("a.jpg", jpeg)])
    body, kind = form([("a.jpg", jpeg)])
    assert (
        server.post("/v1/batches/thumbnails", body, Content_Type=kind, If_None_Match=lines.headers["etag"]).status
        == 304
    )


def test_a_batch_gives_each_file_as_a_line_and_broken_ones_their_reason(server: Server, jpeg: bytes) -> None:
    answer = server.send("/v1/batches/thumbnails", [("a.jpg", jpeg), ("../b.jpg", jpeg[:99]), ("c.jpg", jpeg)])
    assert answer.headers["content-type"] == "application/x-ndjson"
    first, broken, last = answer.lines
    assert [line["index"] for line in answer.lines] == [0, 1, 2]
    assert [line["name"] for line in answer.lines] == ["a.jpg", "b.jpg", "c.jpg"]
    assert base64.b64decode(first["data"]) == base64.b64decode(last["data"]) == server.post("/v1/thumbnails", jpeg).body
    assert first["about"]["FaithEIR-Size"] == "10x6"
    assert broken["problem"]["status"] == 422
    assert "damaged" in broken["problem"]["detail"]
    thumbnail = base64.b64decode(first["data"])
    (restored,) = server.send("/v1/batches/pictures?format=webp", [("a.thumb.png", thumbnail)]).lines
    assert opened(base64.b64decode(restored["data"])).size == (150, 90)
    assert "multipart" in server.post("/v1/batches/pictures", thumbnail).detail


def test_results_of_a_batch_come_one_by_one(server: Server, jpeg: bytes) -> None:
    body, kind = form([("a.jpg", jpeg)] * 3)
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        head = f"POST /v1/batches/thumbnails HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        seen = b""
        while b'"index": 0' not in seen:
            seen += connection.recv(65536)
        assert b'"index": 2' not in seen


def test_what_is_not_taken_from_a_file_is_told(server: Server, photo: Callable[..., Path]) -> None:
    frames = [Image.open(photo(f"{seed}.png", 64, 48, seed=seed)) for seed in (1, 2)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    said = "several frames or pages are in this file, and only the first is read"
    made = server.post("/v1/thumbnails", file.getvalue())
    assert made.headers["faitheir-warning"] == said  # nothing of the command line's options
    (line,) = server.send("/v1/batches/thumbnails", [("a.gif", file.getvalue())]).lines
    assert line["about"]["FaithEIR-Warning"] == said
    client = faitheir.Client(server.url)
    with pytest.warns(PictureWarning, match=f"^{said}$"):
        client.downscale(file.getvalue())
    # A thumbnail that was cropped since.
    cropped = put_private(photo("small.png", 3, 2).read_bytes(), *get_private(made.body))
    assert "metadata is damaged" in server.post("/v1/pictures", cropped).headers["faitheir-warning"]
    assert "metadata is damaged" in client.describe(cropped)["warnings"][0]
    assert "faitheir-warning" not in server.post("/v1/pictures", made.body).headers


def test_rivals_get_the_same_bytes(server: Server, photo: Callable[..., Path]) -> None:
    path = photo("b.png", 320, 240)
    answer = server.post("/v1/comparisons?bytes=1500", path.read_bytes())
    assert [line["system"] for line in answer.lines] == ["bicubic", "webp", "avif"]
    original = read_picture(path).rgb
    for line in answer.lines:
        assert line["bytes"] <= (1500 if line["system"] != "bicubic" else 10_000)
        shown = np.array(opened(base64.b64decode(line["data"])))
        assert psnr(original, shown) == pytest.approx(line["psnr"], abs=0.3)
        assert ssim(original, shown) == pytest.approx(line["ssim"], abs=0.03)
    few = server.post("/v1/comparisons?bytes=100", path.read_bytes()).lines
    assert "cannot go so low" in few[2]["problem"]["detail"]


def test_models_limits_health_and_figures(server: Server, jpeg: bytes) -> None:
    said = server.get("/v1/models").json
    assert [(m["name"], m["scale"], m["fidelity"], m["default"]) for m in said] == [
        ("tiny-x16", 16, True, True),
        ("tiny-x32", 32, False, False),
    ]
    assert server.get("/v1/alive").json["status"] == "alive"
    assert server.get("/v1/ready").json == {"status": "ready"}
    assert server.get("/v1/limits").json["files"] == 64
    server.post("/v1/thumbnails", jpeg)
    text = server.get("/metrics").body.decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(values['faitheir_requests_total{method="POST",route="/v1/thumbnails",status="200"}']) >= 1
    for stage in ("receive", "wait", "decode", "model", "encode"):
        assert float(values[f'faitheir_stage_seconds_count{{stage="{stage}"}}']) >= 1
    assert float(values['faitheir_pixels_total{made="thumbnail"}']) >= 150 * 90
    assert float(values["faitheir_requests_waiting"]) == float(values["faitheir_body_bytes"]) == 0
    assert float(values["process_resident_memory_bytes"]) > 0


# --- the client ------------------------------------------------------------------------------------------------------


def test_the_client_is_used_as_a_pipeline_is(server: Server, models: list[Path], photo: Callable[..., Path]) -> None:
    client = faitheir.Client(server.url + "/")
    pipeline = FaithEIRPipeline.from_pretrained(models[0])
    path = photo("a.png", 70, 45)
    picture = read_picture(path)
    tensor = torch.from_numpy(picture.rgb).permute(2, 0, 1).float() / 255
    wanted = pipeline.downscale(path)
    forms = [path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), picture.to_pil(), picture.rgb, tensor]
    for source in forms:
        assert np.array_equal(client.downscale(source).picture.rgb, wanted.picture.rgb)  # type: ignore[call-overload]
    assert [t.info for t in client.downscale([path, picture.rgb])] == [wanted.info] * 2
    assert client.downscale(torch.stack([tensor] * 2))[1].info == wanted.info

    restored = pipeline.upscale(wanted, output_type="np")
    file = wanted.encode("webp", lossless=True)
    for thumbnail in (wanted, file, io.BytesIO(file), wanted.image):
        assert np.array_equal(client.upscale(thumbnail, output_type="np"), restored)
    assert np.array_equal(client.upscale(wanted), restored)
    assert torch.equal(client.upscale([wanted], output_type="pt")[0], pipeline.upscale(wanted, output_type="pt"))
    assert not np.array_equal(client.upscale(wanted, fidelity=1, output_type="np"), restored)
    assert faitheir.Client(server.url, model="tiny-x32").downscale(path).info.scale == 32  # type: ignore[union-attr]
    assert client.describe(wanted)["restored_by"] == client.models()[0]["name"] == "tiny-x16"


def test_the_client_tells_what_went_wrong(server: Server, tmp_path: Path) -> None:
    client = faitheir.Client(server.url)
    with pytest.raises(ServerError, match="not a picture of a kind read here"):
        client.downscale(b"nonsense")
    with pytest.raises(ServerError, match="There is no model 'x' here; choose from tiny-x16, tiny-x32"):
        faitheir.Client(server.url, model="x").downscale(Image.new("RGB", (9, 9)))
    with pytest.raises(faitheir.FaithEIRError, match="does not exist"):
        client.downscale(tmp_path / "gone.jpg")
    with pytest.raises(ConfigError, match="output_type"):
        client.upscale(Image.new("RGB", (9, 9)), output_type="tf")  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match="no server's address"):
        faitheir.Client("localhost:8600")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(ServerError, match="cannot be reached"):
            faitheir.Client(f"http://127.0.0.1:{free.getsockname()[1]}").models()


# --- what it refuses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("/v1/thumbnails", b"", 400, "no body"),
        ("/v1/thumbnails", b"nonsense", 422, "not a picture of a kind read here"),
        ("/v1/thumbnails?model=x", b"nonsense", 422, "choose from tiny-x16, tiny-x32"),
        ("/v1/thumbnails?format=bmp", b"nonsense", 422, "format"),
        ("/v1/pictures?fidelity=2", b"nonsense", 422, "fidelity"),
        ("/v1/pictures?fidelity=nan", b"nonsense", 422, "fidelity"),
        ("/v1/pictures?quality=0", b"nonsense", 422, "quality"),
        ("/v1/pictures?format=png&quality=90", b"nonsense", 422, "quality is for jpg and webp"),
        ("/v1/comparisons", b"nonsense", 422, "bytes"),
        ("/v1/nothing", b"nonsense", 404, "nothing at this address"),
        ("/v1/models", b"nonsense", 405, "not for this method"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(
    server: Server, path: str, body: bytes, status: int, text: str
) -> None:
    answer = server.post(path, body)
    assert answer.status == status
    assert text in answer.detail


def test_a_model_without_a_setting_of_fidelity_says_so(server: Server, photo: Callable[..., Path]) -> None:
    answer = server.post("/v1/pictures?model=tiny-x32&fidelity=0.5", photo("s.png", 6, 4).read_bytes())
    assert answer.status == 422
    assert "no fidelity setting" in answer.detail


BOUNDARY = "multipart/form-data; boundary=b"


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("multipart/form-data", b"--b\r\n\r\nx\r\n--b--\r\n", 400),
        (BOUNDARY, b"", 400),
        (BOUNDARY, b"no form at all", 400),
        (BOUNDARY, b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n", 400),
        (BOUNDARY, b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\ncut sh', 400),
        (BOUNDARY, b'--b\r\nContent-Disposition: form-data; name="text"\r\n\r\nno file\r\n--b--\r\n', 400),
        (
            BOUNDARY,
            b'--b\r\nContent-Disposition: form-data; name="text"\r\n\r\n' + b"x" * 2**21 + b"\r\n--b--\r\n",
            400,
        ),
        ("multipart/form-data; boundary=" + "b" * 5000, b"x", 400),
    ],
)
def test_malformed_forms(server: Server, kind: str, body: bytes, status: int) -> None:
    for path in ("/v1/thumbnails", "/v1/batches/thumbnails"):
        answer = server.post(path, body, Content_Type=kind)
        assert answer.status == status
        assert answer.detail


def png(width: int, height: int, rows: int = 1) -> bytes:
    """A PNG that says it is so large, with the data of a few rows."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(rows * (1 + 3 * width)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_bombs_are_refused_by_their_header(models: list[Path]) -> None:
    with running(models[:1], limits=Limits(pixels=1_000_000)) as server:
        started = time.monotonic()
        for path in ("/v1/thumbnails", "/v1/pictures", "/v1/thumbnails/describe"):
            answer = server.post(path, png(20_000, 15_000))  # 300 megapixels
            assert answer.status == 422
            assert "20000 x 15000" in answer.detail
        # All of it is there, black, in two kilobytes.
        assert server.post("/v1/thumbnails", png(1500, 1000, 1000)).status == 422
        # A thumbnail that would be restored to more than is allowed.
        large = server.post("/v1/pictures", encode_picture(read_like(80, 60), "png"))
        assert large.status == 422
        assert "is this a thumbnail?" in large.detail
        assert time.monotonic() - started < 60


def read_like(width: int, height: int) -> Any:
    from faitheir.images import picture_from_array

    return picture_from_array(np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8))


def test_too_much_is_refused_before_it_is_read(models: list[Path]) -> None:
    with running(models[:1], limits=Limits(body_bytes=5000, files=2)) as server:
        head = b"POST /v1/thumbnails HTTP/1.1\r\nHost: x\r\n"
        # By what it says: nothing of the body was sent.
        said = server.raw(head + b"Content-Length: 5001\r\nConnection: close\r\n\r\n", 5)
        assert said.startswith(b"HTTP/1.1 413 ")
        # Without a length, by what has come.
        body = b"".join(b"3e8\r\n" + b"x" * 1000 + b"\r\n" for _ in range(6)) + b"0\r\n\r\n"
        said = server.raw(head + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + body, 5)
        assert said.startswith(b"HTTP/1.1 413 ")
        assert server.send("/v1/batches/thumbnails", [("a", b"x")] * 3).status == 413
        assert server.send("/v1/batches/thumbnails", [("a", b"x")] * 2).status == 200
        server.until(lambda service: service.held == 0)


def test_a_body_that_comes_too_slowly_is_not_waited_for(models: list[Path]) -> None:
    with running(models[:1], limits=Limits(grace=0.5, rate=10**6)) as server:
        head = b"POST /v1/thumbnails HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nsome"
        started = time.monotonic()
        assert server.raw(head, 5).startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - started < 30
        assert not server.service.errands


def test_headers_that_come_too_slowly_are_not_waited_for(models: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("faitheir.server.run.HEADER_SECONDS", 0.3)
    with running(models[:1]) as server:
        started = time.monotonic()
        assert server.raw(b"POST /v1/thumbnails HTTP/1.1\r\nHost:", 30) == b""
        assert server.raw(b"", 30) == b""
        assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    "data",
    [
        b"\0" * 100,
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST /v1/thumbnails HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    ],
)
def test_what_is_no_request(server: Server, data: bytes) -> None:
    assert server.raw(data, 5).startswith(b"HTTP/1.1 400 ")


# --- load ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def one(models: list[Path]) -> Iterator[Callable[..., Server]]:
    """Start a server of one model whose slots do one picture at once."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def start(**limits: Any) -> Server:
            return stack.enter_context(running(models[:1], limits=Limits(**limits), tile=512))

        yield start


def test_a_full_queue_answers_429(one: Callable[..., Server], jpeg: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    server = one(queue=2)
    gate = Gate(server, monkeypatch)
    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(server.post, "/v1/thumbnails", jpeg) for _ in range(2)]
        server.until(lambda service: len(service.errands) == 2)
        refused = server.post("/v1/thumbnails", jpeg)
        assert refused.status == 429
        assert int(refused.headers["retry-after"]) > 0
        assert "try again later" in refused.detail
        gate.open.set()
        assert [answer.result().status for answer in waiting] == [200, 200]
    # Then there is room again; and the client waits for it by itself.
    assert server.post("/v1/thumbnails", jpeg).status == 200


def test_the_client_waits_for_a_busy_server(
    one: Callable[..., Server], jpeg: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = one(queue=1)
    gate = Gate(server, monkeypatch)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(server.post, "/v1/thumbnails", jpeg)
        server.until(lambda service: service.errands)
        with pytest.raises(ServerError, match="all the work that it can take"):
            faitheir.Client(server.url, timeout=1).downscale(jpeg)
        second = threads.submit(faitheir.Client(server.url).downscale, jpeg)
        time.sleep(0.2)
        gate.open.set()
        assert first.result().status == 200
        assert second.result().picture.width == 10


def test_bodies_are_held_up_to_a_limit(
    one: Callable[..., Server], jpeg: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = one(held_bytes=len(jpeg) + 100)
    gate = Gate(server, monkeypatch)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(server.post, "/v1/thumbnails", jpeg)
        server.until(lambda service: service.held == len(jpeg))
        assert server.post("/v1/thumbnails", jpeg).status == 429
        gate.open.set()
        assert first.result().status == 200
    assert server.service.held == 0


def test_who_goes_away_has_no_more_tiles_done(
    one: Callable[..., Server], photo: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = one()
    gate = Gate(server, monkeypatch)
    data = photo("large.png", 2000, 900).read_bytes()
    connection = socket.create_connection(("127.0.0.1", server.port))
    head = f"POST /v1/thumbnails HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
    connection.sendall(head.encode() + data)
    gate.entered.acquire()
    assert server.service.slots.running == 1
    connection.close()
    server.until(lambda service: not service.errands)
    gate.open.set()
    server.until(lambda service: service.slots.running == 0)
    assert gate.tiles == 1
    (pipeline,) = server.service.pipelines.values()
    assert 2 * pipeline.tile**2 < 2000 * 900  # there were more
    # What waits goes away as well, and the place is another's.
    assert server.post("/v1/thumbnails", data).status == 200


def test_a_request_has_a_time_limit(one: Callable[..., Server], jpeg: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    server = one(seconds=2)
    assert server.post("/v1/thumbnails", jpeg).status in (200, 503)  # what the machine's load allows
    gate = Gate(server, monkeypatch)
    late = server.post("/v1/thumbnails", jpeg)
    assert late.status == 503
    assert "took longer" in late.detail
    gate.open.set()
    server.until(lambda service: service.slots.running == 0)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"), OSError("x")]
)
def test_what_fails_in_the_model_is_answered(
    one: Callable[..., Server], jpeg: bytes, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    server = one()
    (pipeline,) = server.service.pipelines.values()
    with monkeypatch.context() as patch:

        def fail(_: torch.Tensor) -> torch.Tensor:
            raise error

        patch.setattr(pipeline.model, "project", fail)
        answer = server.post("/v1/thumbnails", jpeg)
        assert answer.status == (500 if isinstance(error, OSError) else 503)
        assert ("its log says" if isinstance(error, OSError) else "not enough memory") in answer.detail
        (line,) = server.send("/v1/batches/thumbnails", [("a.jpg", jpeg)]).lines
        assert line["problem"]["status"] == answer.status
    assert server.post("/v1/thumbnails", jpeg).status == 200
    assert not server.service.errands


def rss() -> int:
    return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1])  # type: ignore[index]


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux' /proc")
def test_200_connections_get_clear_answers_in_flat_memory(one: Callable[..., Server]) -> None:
    server = one(queue=4, pixels=1_000_000)
    body = png(20_000, 15_000) + bytes(2**20)
    server.post("/v1/thumbnails", body)

    def ask(_: int) -> int:
        return server.post("/v1/thumbnails", body).status

    with ThreadPoolExecutor(200) as threads:
        threads.map(time.sleep, [0.01] * 200)
        before = rss()
        statuses = list(threads.map(ask, range(200)))
    assert set(statuses) <= {422, 429}
    assert statuses.count(422) >= 4
    assert rss() - before < 150_000  # kB: no body but those of the four in the queue was kept
    assert server.service.held == 0
    assert server.get("/v1/ready").status == 200


# --- who may ---------------------------------------------------------------------------------------------------------


def test_a_token_is_wanted_where_one_is_set(models: list[Path], jpeg: bytes) -> None:
    with running(models[:1], access=Access(token="secret")) as server:
        for answer in (server.post("/v1/thumbnails", jpeg), server.get("/metrics"), server.get("/v1/models")):
            assert answer.status == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert "token" in answer.detail
        for shown in ("Bearer wrong", "Bearer", "Basic secret", "Bearer sécret"):
            assert server.get("/v1/models", Authorization=shown).status == 401
        assert server.get("/v1/models", Authorization="Bearer secret").status == 200
        assert server.get("/v1/alive").status == server.get("/").status == 200
        assert faitheir.Client(server.url, token="secret").models()[0]["name"] == "tiny-x16"
        with pytest.raises(ServerError, match="wants its token"):
            faitheir.Client(server.url).models()


def test_pages_of_other_sites_may_not_unless_they_are_named(models: list[Path], jpeg: bytes) -> None:
    access = Access(origins=["https://friend.example"], hosts={"127.0.0.1"})
    with running(models[:1], access=access) as server:
        friend, stranger = "https://friend.example", "https://stranger.example"
        assert server.post("/v1/thumbnails", jpeg, Origin=stranger).status == 403
        allowed = server.post("/v1/thumbnails", jpeg, Origin=friend)
        assert allowed.headers["access-control-allow-origin"] == friend
        assert "FaithEIR-Model" in allowed.headers["access-control-expose-headers"]
        assert server.post("/v1/thumbnails", jpeg, Origin=server.url).status == 200
        assert "access-control-allow-origin" not in server.get("/v1/models", Origin=stranger).headers
        asked = {"Origin": friend, "Access-Control-Request-Method": "POST"}
        assert server.ask("OPTIONS", "/v1/thumbnails", None, asked).status == 200
        # A name that someone else has resolve to this machine.
        assert server.get("/v1/models", Host="rebound.example").status == 403
    with running(models[:1]) as server:
        assert "access-control-allow-origin" not in server.get("/v1/models", Origin=friend).headers
        assert server.post("/v1/thumbnails", jpeg, Origin=friend).status == 403


def test_what_browsers_restore_with(models: list[Path], server: Server, tmp_path: Path) -> None:
    """It is served beside the page, for anyone, and nothing else of the folder's surroundings is."""
    folder = tmp_path / "browser"
    contents = {
        "faitheir-img.js": "text/javascript; charset=utf-8",
        "models/index.json": "application/json",
        "models/tiny.onnx": "application/octet-stream",
        "ort/ort.wasm.min.mjs": "text/javascript; charset=utf-8",
        "ort/ort.wasm": "application/wasm",
    }
    for name in (*contents, "notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (tmp_path / "secret.json").write_text("{}")
    with running(models[:1], access=Access(token="secret"), browser=folder) as here:
        for name, media_type in contents.items():
            answer = here.get(f"/browser/{name}")
            assert (answer.status, answer.body.decode()) == (200, name)
            assert answer.headers["content-type"] == media_type
            assert here.get(f"/browser/{name}", If_None_Match=answer.headers["etag"]).status == 304
            assert "script-src 'self' 'wasm-unsafe-eval';" in answer.headers["content-security-policy"]
            assert answer.headers["cross-origin-embedder-policy"] == "require-corp"
        for name in ("notes.txt", "../secret.json", "%2e%2e/secret.json", "models", ""):
            assert here.get(f"/browser/{name}").status == 404
        page = here.get("/")
        assert page.headers["cross-origin-embedder-policy"] == "require-corp"
        assert b'id="here-control">' in page.body
    assert server.get("/browser/faitheir-img.js").status == 404
    assert b'id="here-control" hidden>' in server.get("/").body
    assert "wasm" not in server.get("/").headers["content-security-policy"]
    (folder / "models" / "index.json").unlink()
    text = refused("serve", "--port", 0, "--model", models[0], "--browser", folder)
    assert text == f"{folder} holds no models/index.json; fill it by `npx faitheir-img {folder} MODELS`."


def test_addresses_that_others_reach_want_a_token(models: list[Path]) -> None:
    assert "give a --token" in refused("serve", "--host", "0.0.0.0", "--model", models[0], status=2)
    assert "give a --token" in refused("serve", "--host", "example.org", "--model", models[0], status=2)


def test_a_port_that_is_taken(server: Server, models: list[Path]) -> None:
    text = refused("serve", "--port", server.port, "--model", models[0], status=1)
    assert f"127.0.0.1:{server.port} cannot be listened to" in text


def test_nothing_that_was_sent_is_written_to_a_file(models: list[Path]) -> None:
    opened_files: list[str] = []

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event == "open" and isinstance(arguments[0], str):
            flags = arguments[2] if isinstance(arguments[2], int) else 0
            if flags & (os.O_WRONLY | os.O_RDWR):
                opened_files.append(arguments[0])

    watching = True
    sys.addaudithook(audit)
    with running(models[:1]) as server:
        body = encode_picture(read_like(1000, 700), "png")
        assert len(body) > 2 * 2**20
        assert server.send("/v1/batches/thumbnails", [("secret.png", body)]).lines[0]["bytes"] > 0
        assert server.post("/v1/thumbnails", body).status == 200
    watching = False
    assert [name for name in opened_files if name not in ("/dev/null", os.devnull)] == []


# --- the process -----------------------------------------------------------------------------------------------------


def test_sigterm_finishes_what_runs_and_refuses_the_rest(models: list[Path]) -> None:
    command = [sys.executable, "-m", "faitheir", "serve", "--port", "0", "--model", str(models[0]), "--tile", "512"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(re.search(r"http://127\.0\.0\.1:(\d+)/", process.stdout.readline())[1])  # type: ignore[index]
        data = encode_picture(read_like(500, 400), "png")
        body, kind = form([("a.png", data)] * 12)
        head = f"POST /v1/batches/thumbnails HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\n"
        batch = socket.create_connection(("127.0.0.1", port), timeout=120)
        batch.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        said = b""
        while b"\n{" not in said:  # the first file is done, and the next one begun
            said += batch.recv(65536)
        process.send_signal(signal.SIGTERM)
        while part := batch.recv(65536):
            said += part
        answers = [json.loads(line) for line in said.splitlines() if line.startswith(b"{")]
        done = [line["index"] for line in answers if "data" in line]
        refused = [line["index"] for line in answers if line.get("problem", {}).get("status") == 503]
        assert done + refused == [*range(12)]
        assert 1 <= len(done) < 12
        assert "closing" in answers[-1]["problem"]["detail"]
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")
    with pytest.raises(OSError):  # noqa: PT011 (refused, or reset)
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_a_closing_server_refuses_what_waits(
    one: Callable[..., Server], jpeg: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = one()
    gate = Gate(server, monkeypatch)
    with ThreadPoolExecutor(2) as threads:
        runs = threads.submit(server.post, "/v1/thumbnails", jpeg)
        gate.entered.acquire()
        waits = threads.submit(server.post, "/v1/thumbnails", jpeg)
        server.until(lambda service: service.slots.waiting == 1)
        server.stop(wait=False)
        assert waits.result().status == 503
        assert "closing" in waits.result().detail
        gate.open.set()
        assert runs.result().status == 200


def test_a_client_that_does_not_read_is_not_waited_for_forever(models: list[Path]) -> None:
    with running(models[:1], limits=Limits(seconds=3)) as server:
        tag = server.service.etag(b"thumbnail", "picture", None, "png", None, None)
        server.service.prepared[tag] = Made(bytes(32 << 20), "image/png", {})
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", server.port))
            connection.sendall(b"POST /v1/pictures HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nthumbnail")
            server.until(lambda service: service.held > 10 << 20)  # what is not read yet counts as held
            server.until(lambda service: service.held == 0)
        assert server.get("/v1/ready").status == 200


def test_the_example_is_ready_before_it_is_asked_for(models: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with running(models[:1], example=True) as server:
        server.until(lambda service: len(service.prepared) == 2)
        (pipeline,) = server.service.pipelines.values()
        monkeypatch.setattr(pipeline.model, "project", None)
        monkeypatch.setattr(pipeline.model, "upscale", None)
        example = server.get("/assets/example.jpg").body
        thumbnail = server.post("/v1/thumbnails?model=tiny-x16", example)
        assert thumbnail.headers["faitheir-original-size"] == "600x400"
        picture = server.post("/v1/pictures?format=jpg&model=tiny-x16", thumbnail.body)
        assert opened(picture.body).size == (600, 400)
        assert server.post("/v1/thumbnails", example + b"\0").status == 500  # anything else is worked on


def test_a_server_that_still_loads_says_so(models: list[Path], jpeg: bytes) -> None:
    with running(models[:1], load=False) as server:
        assert server.get("/v1/alive").status == 200
        for answer in (server.get("/v1/ready"), server.get("/v1/models"), server.post("/v1/thumbnails", jpeg)):
            assert answer.status == 503
            assert int(answer.headers["retry-after"]) > 0


# --- the machine's share ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "cgroup", "cores"),
    [
        ({}, "0::/", None),
        ({"cpu.max": "150000 100000"}, "0::/", 1),
        ({"cpu.max": "50000 100000"}, "0::/", 1),
        ({"cpu.max": "max 100000"}, "0::/", None),
        ({"a/cpu.max": "max 100000", "cpu.max": "200000 100000"}, "0::/a/b", 2),
        ({"cpu/docker/x/cpu.cfs_quota_us": "300000", "cpu/docker/x/cpu.cfs_period_us": "100000"}, "4:cpu:/docker/x", 3),
        ({"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, "4:cpu,cpuacct:/x", None),
        ({"cpu.cfs_quota_us": "", "cpu.cfs_period_us": ""}, "4:memory:/x", None),
        ({"cpu/cpu.cfs_quota_us": "", "cpu/cpu.cfs_period_us": "0"}, "4:cpu:/x", None),
    ],
)
def test_cores_are_those_of_the_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cgroup: str, cores: int | None
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    (tmp_path / "cgroup").write_text(cgroup + "\n")
    assert available_cores(tmp_path / "cgroup", tmp_path) == (cores or 8)
    assert available_cores(tmp_path / "gone", tmp_path) == 8


def test_threads_and_pictures_at_once_share_the_cores() -> None:
    assert [(s.workers, s.threads) for s in map(share, (1, 2, 4, 7, 8, 64))] == [
        (1, 1), (1, 2), (1, 4), (1, 7), (2, 4), (16, 4),
    ]  # fmt: skip


def test_the_interface_is_described(server: Server) -> None:
    described = server.get("/v1/openapi.json").json
    assert set(described["paths"]) >= {"/v1/thumbnails", "/v1/pictures", "/v1/thumbnails/describe", "/v1/models"}
    for path, methods in described["paths"].items():
        for method in methods.values():
            assert method["summary"], path
            assert "200" in method["responses"]
    assert json.dumps(described).count("#/components/schemas/Problem") > 10
    assert "Problem" in described["components"]["schemas"]


@pytest.mark.slow
def test_every_answer_is_one_that_is_described(server: Server, jpeg: bytes) -> None:
    """Schemathesis makes requests, right and wrong, of the interface's own description."""
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    from schemathesis.checks import load_all_checks, not_a_server_error
    from schemathesis.specs.openapi import checks

    load_all_checks()
    schema = schemathesis.openapi.from_url(f"{server.url}/v1/openapi.json")
    wanted = [
        *(not_a_server_error, checks.status_code_conformance, checks.content_type_conformance),
        *(checks.response_schema_conformance, checks.unsupported_method),
    ]
    tried = 0
    for found in schema.get_all_operations():
        operation = found.ok()

        @settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
        @given(operation.as_strategy())
        def holds(case: Any) -> None:
            nonlocal tried
            tried += 1
            if tried % 3 == 0 and case.media_type == "application/octet-stream":
                case.body = jpeg  # so that some of them are done
            response = case.call(timeout=60)
            case.validate_response(response, checks=wanted)

        holds()
    print(f"{tried} requests")
    assert tried > 60
