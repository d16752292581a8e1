"""Bulk runs on a real Ray, of one node or three: equal to the plain commands' files, whatever is lost meanwhile."""

import contextlib
import io
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from command import call, names, ok, refused

pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed: pip install 'faitheir[bulk]'")
ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'faitheir[bulk]'")

from faitheir import bulk  # noqa: E402
from faitheir.bulk.planning import RECORDS  # noqa: E402
from faitheir.bulk.run import PASSES  # noqa: E402
from faitheir.bulk.stores import Store  # noqa: E402

# Ray starts half a dozen processes and gives up on them after 20 s, which a busy machine does not keep.
pytestmark = [
    pytest.mark.skipif(not os.environ.get("FAITHEIR_TEST_RAY"), reason="starts Ray: set FAITHEIR_TEST_RAY=1 to run it"),
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]

STORE = 200_000_000
PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")


def started(nodes: int, cpus: int) -> Any:
    """A cluster on this machine. Ports are given: Ray then does not wait for agents that a busy machine delays."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (with 15, its own, they wait for other tests)
    os.environ["RAY_num_workers_soft_limit"] = "16"  # noqa: SIM112 (as a run sets it that starts Ray itself)
    cluster = Cluster()
    with contextlib.ExitStack() as held:
        for _ in range(nodes):
            ports = {}
            for name in PORTS:
                probe = held.enter_context(socket.socket())
                probe.bind(("127.0.0.1", 0))
                ports[name] = probe.getsockname()[1]
            held.close()
            cluster.add_node(num_cpus=cpus, object_store_memory=STORE, include_dashboard=False, **ports)
    return cluster


@pytest.fixture
def cluster() -> Iterator[Callable[[int, int], Any]]:
    """Starts a cluster of so many nodes with so many CPUs each."""
    made: list[Any] = []

    def start(nodes: int, cpus: int) -> Any:
        made.append(started(nodes, cpus))
        return made[0]

    yield start
    ray.shutdown()
    for each in made:
        each.shutdown()


@pytest.fixture
def one_node(cluster: Callable[[int, int], Any]) -> str:
    """The address of a cluster of one node, which this process has joined."""
    address = cluster(1, 2).address
    ray.init(address, log_to_driver=False, logging_level="FATAL")
    return str(address)


def photographs(folder: Path, count: int, *, side: int = 120) -> Path:
    """Pictures of several sizes, in folders inside folders."""
    for number in range(count):
        path = folder / ("", "a", "a/b")[number % 3] / f"{number:03d}.{('png', 'jpg')[number % 2]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (side + number % 5, side + number % 7, 3)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, shape, np.uint8)).save(path)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every output, by its path."""
    found = {name: (folder / name).read_bytes() for name in names(folder)}
    return {name: data for name, data in found.items() if not name.startswith(f"{RECORDS}/")}


def manifest(target: Path) -> list[dict[str, Any]]:
    """Its rows, run after run."""
    rows: list[dict[str, Any]] = []
    for path in sorted((target / RECORDS / "manifest").iterdir()):
        rows += pq.read_table(path).to_pylist()
    return rows


def wait_for(condition: Callable[[], object], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.05)


def in_thread(function: Callable[..., Any], *arguments: Any, **options: Any) -> Callable[[], Any]:
    """Start it; what is returned waits for it, and gives what it gave."""
    given: list[Any] = []

    def work() -> None:
        try:
            given.append(function(*arguments, **options))
        except BaseException as error:
            given.append(error)

    thread = threading.Thread(target=work)
    thread.start()

    def result() -> Any:
        thread.join()
        if isinstance(given[0], BaseException):
            raise given[0]
        return given[0]

    return result


def processes(name: str) -> list[int]:
    """Those whose command begins with a name, of this machine."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if (folder / "cmdline").read_bytes().startswith(name.encode()):
                    found.append(int(folder.name))
    return found


def test_each_verb_makes_the_files_of_the_plain_command(one_node: str, tiny_model: Path, tmp_path: Path) -> None:  # noqa: ARG001
    photos = photographs(tmp_path / "in", 9)
    (photos / "broken.jpg").write_bytes(b"no picture")
    thumbnails, restored, both = (tmp_path / name for name in ("thumbnails", "restored", "both"))
    for source, target, command, options in (
        (photos, thumbnails, "downscale", ("--format", "webp")),
        (thumbnails, restored, "upscale", ("--format", "jpg", "--quality", "80")),
        (photos, both, "roundtrip", ("--bytes", "700")),
    ):
        apart = ("--apart",) if command == "roundtrip" else ()
        options = (*options, "--model", tiny_model)
        plain = tmp_path / "plain" / command
        expected = call(command, source, "-r", "-o", plain, *options)
        result = call("bulk", command, source, target, *options, *apart)
        assert result.exit_code == expected.exit_code, result.output
        assert contents(target) == contents(plain)
        assert ("broken.jpg" in result.stderr) == (source == photos)
        done = [row for row in manifest(target) if row["status"] == "done"]
        failed = [row for row in manifest(target) if row["status"] == "failed"]
        assert len(done) == 9
        assert [row["path"] for row in failed] == ([str(photos / "broken.jpg")] if source == photos else [])
        assert sum(row["bytes_after"] for row in done) == sum(map(len, contents(target).values()))
        assert all(row["seconds_model"] > 0 and row["weights"] for row in done)
    assert all(row["psnr"] > 0 for row in manifest(both) if row["status"] == "done")


@pytest.mark.slow
def test_a_run_is_continued_and_estimated(one_node: str, tiny_model: Path, tmp_path: Path) -> None:  # noqa: ARG001
    photos = photographs(tmp_path / "in", 9)
    options = ("--format", "webp", "--model", tiny_model)
    target = tmp_path / "out"
    ok("downscale", photos, "-r", "-o", target, *options)
    assert "unknown settings" in refused("bulk", "downscale", photos, target, *options, status=2)
    (target / "a" / "001.thumb.webp").unlink()
    plain = contents(target)
    again = ok("bulk", "downscale", photos, target, *options, "--adopt")
    assert again.startswith("1 done, 8 skipped, exist already")
    assert plain.items() <= contents(target).items()
    assert len(contents(target)) == 9
    other = (*options, "--exif", "none")
    assert "outputs of other settings (exif" in refused("bulk", "downscale", photos, target, *other, status=2)
    over = ok("bulk", "downscale", photos, target, *other, "--overwrite")
    assert over.startswith("9 done\n")
    estimate = ok("bulk", "downscale", photos, tmp_path / "new", "--dry-run", *options)
    assert estimate.startswith("9 to do, ")
    assert "from 9 of them" in estimate
    assert not (tmp_path / "new").exists()


def command(verb: str, source: object, target: object, address: str, model: Path) -> list[str]:
    """A run whose driver is a process of its own."""
    ours = [sys.executable, "-m", "faitheir", "bulk", verb, str(source), str(target)]
    return [*ours, "--ray", address, "--model", str(model)]


@pytest.fixture
def path_for_workers(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path | None], None]:
    """Set where the processes that are started look for modules: in this package, and in a folder before it."""

    def choose(first: Path | None = None) -> None:
        paths = [str(first or ""), str(Path(bulk.__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))

    return choose


@pytest.mark.slow
def test_a_machine_and_a_worker_are_lost(cluster: Callable[[int, int], Any], tiny_model: Path, tmp_path: Path) -> None:
    photos = photographs(tmp_path / "in", 150)
    three_nodes = cluster(3, 1)
    ray.init(three_nodes.address, log_to_driver=False, logging_level="FATAL")
    ok("downscale", photos, "-r", "-o", tmp_path / "plain", "--model", tiny_model)
    target = tmp_path / "out"
    result = in_thread(bulk.downscale, str(photos), str(target), model=str(tiny_model))

    def outputs() -> int:
        return len(list(target.rglob("*.thumb.avif")))

    wait_for(lambda: outputs() > 5)
    for worker in (processes("ray::MapWorker") or processes("ray::Map"))[:1]:
        os.kill(worker, signal.SIGKILL)
    before = outputs()
    wait_for(lambda: outputs() > before + 5)
    three_nodes.remove_node(three_nodes.list_all_nodes()[-1], allow_graceful=False)
    before = outputs()
    assert before < 150, "too late to show anything"
    summary = result()
    assert (summary.done, summary.failed) == (150, 0), summary.failures
    assert contents(target) == contents(tmp_path / "plain")
    rows = [row["path"] for row in manifest(target)]
    assert len(rows) == len(set(rows)) == 150


@pytest.mark.slow
def test_the_driver_is_killed_and_started_again(
    cluster: Callable[[int, int], Any], path_for_workers: Callable[..., None], tiny_model: Path, tmp_path: Path
) -> None:
    path_for_workers()
    address = cluster(1, 2).address
    photos = photographs(tmp_path / "in", 120)
    ok("downscale", photos, "-r", "-o", tmp_path / "plain", "--model", tiny_model)
    target = tmp_path / "out"
    arguments = [*command("downscale", photos, target, address, tiny_model), "--apart"]
    driver = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: len(list(target.rglob("*.thumb.avif"))) > 10)
    driver.kill()
    driver.wait()
    partial = contents(target)
    whole = contents(tmp_path / "plain")
    assert 10 < len(partial) < 120
    outputs = {name: data for name, data in partial.items() if not Path(name).name.startswith(".faitheir-")}
    assert outputs.items() <= whole.items()
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert " skipped, exist already" in done.stdout
    assert contents(target) == whole


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_the_run(
    number: signal.Signals, path_for_workers: Callable[..., None], tiny_model: Path, tmp_path: Path
) -> None:
    path_for_workers()
    photos = photographs(tmp_path / "in", 200)
    target = tmp_path / "out"
    arguments = [*command("downscale", photos, target, "local", tiny_model), "--cpus", "2"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as driver:
        wait_for(lambda: len(list(target.rglob("*.thumb.avif"))) > 10)
        driver.send_signal(number)
        out, err = driver.communicate(timeout=120)
    assert driver.returncode == 128 + number, err
    *others, last = err.splitlines()
    assert re.fullmatch(r"faitheir: interrupted, \d+ done; the same command goes on with the rest\.", last), (out, err)
    assert all("logging.cc" in line for line in others), err  # what Ray says of its own level of logging
    assert 10 < len(contents(target)) < 200
    assert not list(target.rglob(".faitheir-*.tmp"))
    subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert len(contents(target)) == 200


#: What Python runs when a process starts: a fault of Pillow's, which ends the process that decodes such a file.
FAULT = """
import os, sys
from PIL.PngImagePlugin import PngImageFile

real = PngImageFile._open

def faulty(self):
    start = self.fp.tell()
    _, mark, name = self.fp.read().rpartition(b"POISON")
    if mark:
        with open(os.environ["TRIED"], "a") as tried:
            tried.write(name.decode() + " " + os.path.basename(sys.argv[0]) + "\\n")
        os.kill(os.getpid(), 9)
    self.fp.seek(start)
    real(self)

PngImageFile._open = faulty
"""


@pytest.mark.slow
def test_ten_poison_files_among_two_hundred(
    cluster: Callable[[int, int], Any],
    path_for_workers: Callable[..., None],
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    photos = photographs(tmp_path / "in", 200)
    ok("downscale", photos, "-r", "-o", tmp_path / "plain", "--model", tiny_model)
    poison = sorted(photos.rglob("*.png"))[::4][:10]
    for path in poison:
        path.write_bytes(path.read_bytes() + b"POISON" + path.name.encode())
    (tmp_path / "fault").mkdir()
    (tmp_path / "fault" / "sitecustomize.py").write_text(FAULT)
    target, tried = tmp_path / "out", tmp_path / "tried"
    monkeypatch.setenv("TRIED", str(tried))
    path_for_workers(tmp_path / "fault")
    arguments = command("downscale", photos, target, cluster(1, 2).address, tiny_model)
    run = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert run.returncode == 1, run.stderr
    assert run.stdout.startswith("190 done, 10 failed\n")
    lost = {f"{path.relative_to(photos).with_suffix('')}.thumb.avif" for path in poison}
    assert contents(target) == {n: data for n, data in contents(tmp_path / "plain").items() if n not in lost}
    failed = {row["path"]: row["error"] for row in manifest(target) if row["status"] == "failed"}
    assert failed.keys() == set(map(str, poison))
    assert all("the decoder broke off" in text for text in failed.values()), set(failed.values())
    tries = [line.split() for line in tried.read_text().splitlines()]
    assert sum(program == "default_worker.py" for _, program in tries) > 0, "no worker was killed"
    for path in poison:
        alone = [program for name, program in tries if name == path.name and program == "untrusted.py"]
        assert len(alone) == 1, "a decoder in a process of its own shows what the file does"
        assert sum(name == path.name for name, _ in tries) <= PASSES + 1


@contextlib.contextmanager
def s3() -> Iterator[tuple[str, dict[str, str], Callable[[float], int]]]:
    """A store that speaks S3 (moto), what names it in the environment, and what makes it slow and refusing a while."""
    pytest.importorskip("moto", reason="moto is not installed: pip install 'moto[s3]' flask flask-cors")
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    application = DomainDispatcherApplication(create_backend_app)
    until = 0.0
    refused = itertools.count()
    counts = {"refused": 0}

    def hesitant(environ: Any, start_response: Any) -> Any:
        if time.monotonic() < until:
            time.sleep(0.2)
            if next(refused) % 2:
                counts["refused"] += 1
                start_response("503 Slow Down", [("Content-Type", "application/xml")])
                return [b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"]
        return application(environ, start_response)

    def trouble(seconds: float) -> int:
        nonlocal until
        until = time.monotonic() + seconds
        return counts["refused"]

    server = make_server("127.0.0.1", 0, hesitant, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    names = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "an-id",
        "AWS_SECRET_ACCESS_KEY": "a-secret-nobody-prints",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    try:
        yield "s3://photos", names, trouble
    finally:
        server.shutdown()
        thread.join()


@pytest.mark.slow
def test_a_store_that_is_slow_and_refuses_for_a_while(
    cluster: Callable[[int, int], Any],
    path_for_workers: Callable[..., None],
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    photos = photographs(tmp_path / "in", 60)
    path_for_workers()
    ok("downscale", photos, "-r", "-o", tmp_path / "plain", "--model", tiny_model)
    with s3() as (bucket, variables, trouble):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        import s3fs

        filesystem = s3fs.S3FileSystem()
        filesystem.mkdir(bucket)
        source, target = Store(f"{bucket}/in"), Store(f"{bucket}/out")
        for name in names(photos):
            source.write(name, (photos / name).read_bytes())
        arguments = command("downscale", source, target, cluster(1, 2).address, tiny_model)
        driver = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_for(lambda: len(target.list("a").files) > 3)
        trouble(8)
        said, complained = driver.communicate()
        refused = trouble(0)
        assert driver.returncode == 0, complained
        assert said.startswith("60 done\n")
        assert refused > 3
        expected = contents(tmp_path / "plain")
        assert {name: target.read(name) for name in expected} == expected
        records = target.list(f"{RECORDS}/manifest").files
        everything = said + complained + "".join(str(target.read(f"{RECORDS}/manifest/{n}")) for n in records)
        assert "a-secret-nobody-prints" not in everything
        assert "an-id" not in everything


@pytest.mark.slow
def test_shards_and_memory(one_node: str, tiny_model: Path, tmp_path: Path) -> None:  # noqa: ARG001
    photos = photographs(tmp_path / "in", 12)
    ok("downscale", photos, "-r", "-o", tmp_path / "plain", "--model", tiny_model)
    plain = contents(tmp_path / "plain")
    options: Any = {"model": str(tiny_model)}

    def members(path: Path) -> dict[str, bytes]:
        with tarfile.open(path) as tar:
            return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]

    shards = tmp_path / "shards"
    assert bulk.downscale(str(photos), str(shards), shard_files=3, **options).done == 12
    tars = sorted(shards.rglob("*.tar"))
    expected = {f"{folder}{number:06d}.tar" for folder in ("", "a/", "a/b/") for number in range(2)}
    assert {path.relative_to(shards).as_posix() for path in tars} == expected
    found = {str((p.parent / name).relative_to(shards)): data for p in tars for name, data in members(p).items()}
    assert found == plain
    assert not list((shards / RECORDS / "parts").rglob("*.png"))
    again = bulk.downscale(str(photos), str(shards), shard_files=3, **options)
    assert (again.done, again.skipped) == (0, 12)

    packed = tmp_path / "packed" / "p-000.tar"
    packed.parent.mkdir()
    with tarfile.open(packed, "w") as tar:
        for name in sorted(names(photos)):
            tar.add(photos / name, name)
        bad = tarfile.TarInfo("../outside.jpg")
        tar.addfile(bad, io.BytesIO())
    for target, place in ((tmp_path / "tree", "p-000/"), (tmp_path / "tar", "")):
        more = options | ({"shard_files": 1} if not place else {})
        summary = bulk.downscale(str(packed.parent / "*.tar"), str(target), **more)
        assert (summary.done, summary.failed) == (12, 0), summary.failures
        made = contents(target) if place else members(target / "p-000.tar")
        assert made == {place + name: data for name, data in plain.items()}
        assert bulk.downscale(str(packed.parent / "*.tar"), str(target), **more).done == 0

    source, target = Store("memory://bulk/in"), Store("memory://bulk/out")
    for name in names(photos):
        source.write(name, (photos / name).read_bytes())
    seen: list[tuple[int, int, int]] = []
    summary = bulk.downscale(
        source.url, target.url, **options, progress=lambda s: seen.append((s.over, s.planned, s.pixels))
    )
    assert seen == sorted(seen)
    assert seen[-1] == (12, 12, summary.pixels)
    assert summary.done == 12
    assert {name: target.read(name) for name in plain} == plain
