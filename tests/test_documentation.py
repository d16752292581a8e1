"""README.md, CONTRIBUTING.md and docs/: what they tell people to type is right, and what can run here runs."""

import importlib.util
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from PIL import Image

from command import ok
from faitheir.cli import main
from faitheir.evaluation.metrics import METRICS
from faitheir.models import embedded_models, find_model, stored_hash
from faitheir.training.config import load_recipe
from test_layering import LAYERS

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "configs/README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
PAGES = [page for page in PAGES if page.exists()]
#: A fenced block, with the comment on the line before it that says why it is not run here.
FENCE = re.compile(
    r"^(?:[ ]*<!-- (?P<note>(?:(?!-->).)+) -->\n)?(?P<indent>[ ]*)```(?P<language>\w+)\n(?P<text>.*?)^[ ]*```$",
    re.S | re.M,
)
#: Folders of the repository that pages name files in.
HERE = re.compile(r"(?:configs|benchmarks|docs|examples|src/faitheir|tests)/[\w/-]+(?:/|\.toml|\.py|\.md|\.jpg)")


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    note: str | None
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def commands(self) -> Iterator[list[str]]:
        """The simple commands of a shell block, without comments and what joins them."""
        for line in self.text.replace("\\\n", " ").splitlines():
            words = shlex.shlex(line, posix=True, punctuation_chars="&|;")
            words.whitespace_split = True
            command: list[str] = []
            for word in words:
                if word in ("&&", "||", ";", "|", "&"):
                    yield command
                    command = []
                else:
                    command.append(word)
            if command:
                yield command


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text("utf-8")
    found = []
    for match in FENCE.finditer(text):
        indent = match["indent"]
        lines = [line.removeprefix(indent) for line in match["text"].splitlines(keepends=True)]
        line = text[: match.start("language")].count("\n") + 1
        found.append(Block(page, line, match["language"], match["note"], "".join(lines)))
    return found


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
SHELL = [block for block in BLOCKS if block.language == "sh"]
RUN = {page: run for page in PAGES if (run := [b for b in blocks_of(page) if b.note is None and b.language != "text"])}


def faitheir_arguments(command: list[str]) -> list[str] | None:
    """What a command gives to `faitheir`, also through `python -m` and accelerate; None for other programs."""
    if Path(command[0]).name == "faitheir":
        return command[1:]
    if "-m" in command:
        module, *rest = command[command.index("-m") + 1 :]
        if module == "faitheir":
            return rest
    return None


def parsed(arguments: list[str]) -> click.Context:
    """The context that click makes of them; click's error where they are not right."""
    context = click.Context(main, info_name="faitheir")
    command: click.Command = main
    while isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
        name, found, arguments = command.resolve_command(context, arguments)
        assert found is not None
        command = found
        if isinstance(command, click.Group):
            context = click.Context(command, parent=context, info_name=name)
    return command.make_context(context.info_name, arguments, parent=context)


def test_fences_are_found() -> None:
    text = "a\n\n<!-- not run: no -->\n```sh\nx \\\n  y # z\n```\n\n1. b\n\n    ```python\n    c\n    ```\n"
    found = [(m["note"], m["indent"], m["language"], m["text"]) for m in FENCE.finditer(text)]
    assert found == [("not run: no", "", "sh", "x \\\n  y # z\n"), (None, "    ", "python", "    c\n")]
    assert list(Block(ROOT, 1, "sh", None, "a b && c 'd # e' \\\n f # g").commands()) == [
        ["a", "b"],
        ["c", "d # e", "f"],
    ]


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_blocks_say_their_language_and_why_they_are_not_run(block: Block) -> None:
    assert block.language in {"sh", "python", "text", "toml"}
    assert block.note is None or block.note in {"main command", "test command"} or block.note.startswith("not run: ")
    if block.language == "python":
        compile(block.text, str(block), "exec")


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_commands_have_the_options_that_pages_name(block: Block) -> None:
    for command in block.commands():
        arguments = faitheir_arguments(command)
        if arguments is None:
            assert block.note is not None, f"{block}: '{shlex.join(command)}' is another program; say why it is not run"
            continue
        context = parsed(arguments)
        for word in arguments:
            assert not HERE.fullmatch(word) or (ROOT / word).exists(), f"{block}: {word} is missing"
        if context.info_name == "train":
            settings = dict(setting.split("=", 1) for setting in context.params["settings"])
            overrides = {key: toml_value(value) for key, value in settings.items()}
            for path in context.params["configs"]:
                if HERE.fullmatch(str(path)):
                    load_recipe(ROOT / path, overrides, only=context.params["only"])


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "toml"], ids=str)
def test_settings_are_those_of_a_recipe(block: Block) -> None:
    """Laid over one."""
    tables = tomllib.loads(block.text)
    overrides = {f"{table}.{key}": value for table, values in tables.items() for key, value in values.items()}
    load_recipe(ROOT / "configs" / "turbo-x16.toml", overrides)


def toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def write_photographs(folder: Path) -> None:
    """What the pages' examples find in the folder they are run in."""
    wave = Image.linear_gradient("L").resize((320, 240))
    photo = Image.merge("RGB", (wave, wave.rotate(180), wave.transpose(Image.Transpose.FLIP_LEFT_RIGHT)))
    (folder / "photos" / "more").mkdir(parents=True)
    photo.save(folder / "photo.jpg")
    for name in ("photos/one.jpg", "photos/more/two.jpg"):
        photo.resize((96, 64)).save(folder / name)
    for name in ("thumbnail-without-metadata.png", "any-small-picture.png"):
        photo.resize((6, 4)).save(folder / name)
    (folder / "configs").symlink_to(ROOT / "configs")


@pytest.mark.parametrize("page", RUN, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_can_run_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On small pictures and the embedded models, a page's blocks in their order."""
    if "evaluate" in "".join(block.text for block in RUN[page]):
        pytest.importorskip("matplotlib")
    write_photographs(tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in RUN[page]:
        if block.language == "python":
            exec(compile(block.text, str(block), "exec"), names)
        elif block.language == "sh":
            for command in block.commands():
                ok(*(faitheir_arguments(command) or []))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_pages_name_exists(page: Path) -> None:
    """Extras, and files of the repository; history tells of files that are gone."""
    text = page.read_text("utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = {extra for names in re.findall(r"(?:faitheir|')\[([\w,]+)\]", text) for extra in names.split(",")}
    assert extras <= project["optional-dependencies"].keys()
    if "history" not in page.parts:
        files = [name for code in re.findall(r"`([^`\n]+)`", text) for name in code.split() if HERE.fullmatch(name)]
        assert [name for name in files if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", [p for p in PAGES if ROOT / "docs" not in p.parents], ids=lambda p: p.name)
def test_links_outside_of_the_site_lead_somewhere(page: Path) -> None:
    """Those of docs/ are checked where the site is built, `mkdocs build --strict`."""
    links = re.findall(r"\]\(([^)#\s]+)(?:#[\w-]+)?\)", page.read_text("utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", [p for p in PAGES if "history" not in p.parts], ids=lambda p: str(p.relative_to(ROOT)))
def test_pages_use_the_terms_of_the_field(page: Path) -> None:
    text = page.read_text("utf-8").lower()
    wrong = (
        "way down",
        "way up",
        "weave",
        "passed over",
        "to be had",
        "could be had",
        "can be had",
        "the truest",
        "made up",
    )
    assert [word for word in wrong if word in text] == []


def test_the_page_of_metrics_has_every_metric() -> None:
    words = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "reference" / "metrics.md").read_text("utf-8")))
    assert METRICS.keys() - words == {"lpips"}  # of published tables only


def test_the_page_of_the_architecture_has_the_layers() -> None:
    (block,) = (block for block in BLOCKS if block.page.name == "architecture.md")
    assert [set(line.split(", ")) for line in block.text.splitlines()] == [
        part for part in LAYERS if part != {"__main__"}
    ]


def test_the_page_of_the_command_line_has_every_command() -> None:
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    page = hooks.on_page_markdown(f"before\n\n{hooks.MARK}\n")
    assert page.startswith("before\n\n## faitheir\n")
    assert {f"## faitheir {name}" for name in main.commands} <= set(page.splitlines())
    assert "Usage: faitheir data pack [OPTIONS] SOURCE" in page
    assert hooks.on_page_markdown("another page") == "another page"


@pytest.mark.parametrize("name", embedded_models())
def test_history_lists_embedded_weights(name: str) -> None:
    """So that the weights of a thumbnail can be found after they have been replaced."""
    page = (ROOT / "docs/history/weights.md").read_text(encoding="utf-8")
    assert re.search(rf"^\| {stored_hash(find_model(name))} \| {name} \|", page, re.M)
