"""The documents against the code: README's examples run as pasted, named files exist, links work."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from realm_build import guest
from realm_build.__main__ import parser

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "host_python"
DEMO = ROOT / "demo_model" / "realm-demo.gguf"
DOCUMENTS = ["README.md", "ARCHITECTURE.md", "SECURITY.md", "CHANGELOG.md"]
FILE_ENDINGS = ("c", "h", "py", "md", "wit", "toml", "txt", "gguf", "wasm", "json", "ts", "mjs")
TOP_FOLDERS = (
    "core", "guest_src", "host_python", "js", "node", "realm_build", "tests", "examples", "docs",
    "demo_model",
)  # fmt: skip
IGNORED = {".git", "build", "dist", "node_modules", "__pycache__"}
# Shortened where the document's own numbers would take long; later options win.
QUICKER = {"bench": ["-p", "8", "-n", "8", "-r", "1"]}


def read(name: str) -> str:
    return (ROOT / name).read_text()


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", read(document), flags=re.M | re.S)


def commands(document: str) -> list[str]:
    lines = [line for block in blocks(document, "console") for line in block.splitlines()]
    assert all(line.startswith("$ ") for line in lines), "a console block holds commands only"
    return [line[2:] for line in lines]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a user: a model file, the built guests, and the command `realm`."""
    folder = tmp_path_factory.mktemp("desk")
    shutil.copy(DEMO, folder / "model.gguf")
    (folder / "build" / "guest").mkdir(parents=True)
    for module in guest.build_guests():
        shutil.copy(module, folder / "build" / "guest")
    command = folder / "bin" / "realm"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m realm "$@"\n')
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    return folder


def run(command: list[str], desk: Path, typed: str = "") -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(desk / "bin"), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(PACKAGE)}
    return subprocess.run(
        command, cwd=desk, env=environment, input=typed, capture_output=True, text=True, timeout=120
    )


# ---- README ----


@pytest.mark.parametrize("number", range(len(blocks("README.md", "python"))))
def test_python_examples_run_as_pasted(desk: Path, number: int) -> None:
    done = run([sys.executable, "-W", "error", "-c", blocks("README.md", "python")[number]], desk)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("section", ["First answer", "Your own guest"])
def test_examples_that_name_the_capital(desk: Path, section: str) -> None:
    [after] = re.findall(rf"^## {section}\n.*?^```python\n(.*?)^```$", read("README.md"), flags=re.M | re.S)
    done = run([sys.executable, "-c", after], desk)
    assert "Paris" in done.stdout


@pytest.mark.parametrize("line", [line for line in commands("README.md") if "realm " in line])
def test_realm_commands_run_as_pasted(desk: Path, line: str) -> None:
    name = re.search(r"\brealm (\w+)", line)
    assert name
    quicker = " ".join(QUICKER.get(name[1], []))
    done = run(["sh", "-c", f"{line} {quicker}"], desk, typed="What is the capital of France?\n/exit\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() or name[1] == "logits"
    if name[1] == "generate":  # chat draws at random
        assert "Paris" in done.stdout
    if name[1] == "logits":
        assert (desk / "logits.npy").stat().st_size > 0


def test_build_commands_exist() -> None:
    named = re.findall(r"-m realm_build ([a-z]+)", "".join(map(read, DOCUMENTS)))
    assert {"demo", "test"} <= set(named)
    for command in set(named):
        assert parser().parse_args([command]).command == command


def test_every_command_is_accounted_for() -> None:
    for line in commands("README.md"):
        assert re.search(r"\brealm \w+|python3 -m realm_build \w+|^pip install \.$|^git clone", line), line


# ---- names and links ----


def all_files() -> list[str]:
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in IGNORED]
        found += [(Path(folder) / name).relative_to(ROOT).as_posix() for name in names]
    return found


def named_paths(text: str) -> set[str]:
    """What stands in backticks or in the map of the request and looks like a path of this repository."""
    words = set(re.findall(r"`([\w./-]+)`", text)) | set(
        re.findall(r"^ *\d+ +([\w/]+\.\w+)", text, flags=re.M)
    )
    endings = tuple(f".{ending}" for ending in FILE_ENDINGS)
    folders = tuple(f"{folder}/" for folder in TOP_FOLDERS)
    return {
        word for word in words if word.endswith(endings) or word.startswith(folders) or word in TOP_FOLDERS
    }


@pytest.mark.parametrize("document", ["ARCHITECTURE.md", "SECURITY.md", "CHANGELOG.md"])
def test_named_files_exist(document: str) -> None:
    files = all_files()
    for path in named_paths(read(document)):
        known = (ROOT / path).exists() or any(name.endswith(path) for name in files)
        assert known, f"{document} names {path}, which does not exist"


def test_architecture_names_every_core_file() -> None:
    """A reader who looks for a file of the core finds its place in the pipeline."""
    text = read("ARCHITECTURE.md")
    helpers = {"base", "blocks", "bench", "gguf_describe", "unicode_tables", "tokenizer_impl"}
    for path in (ROOT / "core").glob("*.c"):
        assert path.stem in helpers or f"`core/{path.name}`" in text, (
            f"ARCHITECTURE.md does not mention {path.name}"
        )


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", read(document)):
        assert (ROOT / target).exists(), f"{document} links to {target}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_speak_of_the_project_alone(document: str) -> None:
    assert not re.search(r"/work\b|\.\./shared|issue \d|#\d", read(document))
