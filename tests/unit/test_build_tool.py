"""The build tool's tables, its readers of other programs' output, and what it refuses."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from realm_build import bootstrap, check, guest, native, testrun, toolchain
from realm_build.paths import BUILD, REQUIREMENTS, ROOT, BuildError
from realm_build.toolchain import TARGETS, file_flags


def pins() -> dict[str, str]:
    lines = [line.split(";")[0].strip() for line in REQUIREMENTS.read_text().splitlines()]
    found = [re.fullmatch(r"([A-Za-z0-9_.-]+)==([\w.]+)", line) for line in lines if line and line[0] != "#"]
    assert all(found), "every requirement is NAME==VERSION"
    return {match[1].lower().replace("_", "-"): match[2] for match in found if match}


def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def requirement(text: str) -> tuple[str, str]:
    match = re.match(r"([\w-]+)(.*)", text)
    assert match
    return match[1].lower(), match[2]


# ---- pins ----


def test_the_environment_meets_what_the_package_asks_for() -> None:
    for text in project()["project"]["dependencies"]:  # type: ignore[index]
        name, wanted = requirement(text)
        have = tuple(map(int, pins()[name].split(".")))
        least = tuple(map(int, re.sub(r"[^\d.]", "", wanted).split(".")))
        assert have == least if wanted.startswith("==") else have >= least, text


def test_wheels_are_built_with_the_pinned_tools() -> None:
    for text in project()["build-system"]["requires"]:  # type: ignore[index]
        name, wanted = requirement(text)
        assert wanted == f"=={pins()[name]}"


# ---- targets ----


def test_every_target_is_complete_and_consistent() -> None:
    for name, target in TARGETS.items():
        system, machine, *musl = name.split("-")
        assert {"linux": "linux", "macos": "macos", "windows": "windows"}[system] in target.zig
        assert target.zig.startswith({"x64": "x86_64", "arm64": "aarch64"}[machine])
        assert target.isa == {"x64": "x86", "arm64": "arm64"}[machine]
        assert (
            target.library
            == {"linux": "librealm.so", "macos": "librealm.dylib", "windows": "realm.dll"}[system]
        )
        library = musl or (["gnu"] if system == "linux" else [])
        node_system = {"linux": "linux", "macos": "darwin", "windows": "win32"}[system]
        assert target.npm == "-".join([node_system, machine, *library])


@pytest.mark.parametrize("name", [name for name in TARGETS if name.startswith("linux")])
def test_linux_wheels_promise_the_c_library_they_are_linked_for(name: str) -> None:
    target = TARGETS[name]
    built_for = target.zig.rpartition("gnu.")[2].replace(".", "_")
    promised = "musllinux_1_2_" if target.zig.endswith("musl") else f"manylinux_{built_for}_"
    assert target.wheel_tag.startswith(promised)


def test_unknown_target_names_the_known_ones() -> None:
    with pytest.raises(BuildError, match="linux-x64"):
        toolchain.find_target("amiga-68k")


@pytest.mark.parametrize(
    ("stem", "isa", "expected"),
    [
        ("ops_avx2", "x86", "-mavx2"),
        ("ops_avx512", "x86", "-mavx512vnni"),
        ("matmul_avxvnni", "x86", "-mavxvnni"),
        ("matmul_q8_0_avx512", "x86", "-mavx512f"),
        ("matmul_amx", "x86", "-mamx-bf16"),
        ("ops_portable", "x86", "-ffp-contract=off"),
        ("ops_portable", "arm64", "-ffp-contract=off"),
        ("ops_neon", "arm64", "-mcpu=generic+dotprod"),
        ("matmul_i8mm", "arm64", "-mcpu=generic+dotprod+i8mm"),
    ],
)
def test_flags_follow_from_the_file_name(stem: str, isa: str, expected: str) -> None:
    flags = file_flags(stem, isa)
    assert flags is not None
    assert expected in flags


def test_files_of_other_processors_are_left_out() -> None:
    assert file_flags("ops_avx512", "arm64") is None
    assert file_flags("ops_neon", "x86") is None


def test_portable_files_get_no_instruction_set() -> None:
    assert not [flag for flag in file_flags("engine", "x86") or () if flag.startswith("-m")]


def test_library_commands_name_no_path_of_this_machine() -> None:
    compiler = toolchain.release_compiler(TARGETS["linux-x64"])
    step = native.compile_step(compiler, ROOT / "core" / "base.c")
    assert step
    link = native.link_step(compiler, [step.output], BUILD / "native" / "x.so")
    made = guest.guest_step("realm", [ROOT / "guest_src" / "a.c"])
    for command in (step.command[1:], link.command[1:], made.command[1:]):  # [0] is zig itself
        assert not [word for word in command if str(ROOT) in word]


# ---- bootstrap ----


def test_missing_packages_stop_other_users_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "is_root", lambda: False)
    with pytest.raises(BuildError, match="apt-get install -y python3-venv"):
        bootstrap.install_packages({"python3-venv": "venv"})


def test_root_installs_and_says_what(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(bootstrap, "is_root", lambda: True)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(bootstrap, "run", lambda command, quiet=False: commands.append(command))
    bootstrap.install_packages({"b": "two", "a": "one"})
    assert commands[-1][-2:] == ["a", "b"]
    assert "a (one), b (two)" in capsys.readouterr().out


def test_the_stamp_follows_the_pins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = bootstrap.stamp()
    changed = tmp_path / "requirements.txt"
    changed.write_text(REQUIREMENTS.read_text() + "x==1\n")
    monkeypatch.setattr(bootstrap, "REQUIREMENTS", changed)
    assert bootstrap.stamp() != before


# ---- test runner ----


@pytest.mark.parametrize(
    ("line", "status", "expected"),
    [
        ("===== 12 passed, 3 skipped in 0.42s =====", 0, testrun.Counts(12, 0, 3)),
        ("1 failed, 12 passed, 2 errors in 3.1s", 1, testrun.Counts(12, 3, 0)),
        ("4 passed, 0 failed", 0, testrun.Counts(4, 0, 0)),
        ("no tests ran in 0.01s", 5, testrun.Counts(0, 1, 0)),
        ("5 passed", 139, testrun.Counts(5, 1, 0)),
        ("Segmentation fault", 139, testrun.Counts(0, 1, 0)),
    ],
)
def test_counts_from_closing_lines(line: str, status: int, expected: testrun.Counts) -> None:
    assert testrun.read_counts(line, status) == expected


def test_closing_line_and_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert testrun.report({"a": (testrun.Counts(2), 0.1), "b": (testrun.Counts(1, 0, 4), 0.1)}) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "3 passed, 0 failed"
    assert testrun.report({"a": (testrun.Counts(2, 1), 0.1)}) == 1


# ---- check ----


def test_registry_addresses_are_found() -> None:
    address = "https://" + "files." + "pythonhosted" + ".org/packages/x.whl"
    assert [line for line, _ in check.forbidden_words(f"fine\n{address}\n")] == [2, 2]
    assert not check.forbidden_words("pip install realm-ai, see https://example.org/docs\n")


def test_machine_paths_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "ROOT", Path("/srv/checkouts/realm"))
    assert check.forbidden_words("open('/srv/checkouts/other')")
    assert not check.forbidden_words("open('./srv/checkouts/other')")


def test_big_files_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(check, "ROOT", tmp_path)
    big = tmp_path / "big.bin"
    big.write_bytes(b"\0" * (check.MAX_FILE_BYTES + 1))
    assert check.file_complaints(big)
    big.write_bytes(b"\0" * check.MAX_FILE_BYTES)
    assert not check.file_complaints(big)
