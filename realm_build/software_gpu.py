"""GPUs made of software, so that WebGPU kernels are tested anywhere: lavapipe (Mesa), SwiftShader (Chromium).

Both are Vulkan drivers for Dawn, the WebGPU of the npm package `webgpu`. SwiftShader comes with Debian's
Chromium. Debian 12's own Mesa is too old for Dawn; the one of its backports is unpacked into build/, and
nothing of the system changes, so no administrator is needed. Its mirror is the one apt already uses here.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from . import browser
from .bootstrap import locked, run, say
from .paths import BUILD, NODE_MODULES, BuildError, relative

ADAPTERS = ("lavapipe", "swiftshader")  # with half precision in shaders, and without
PACKAGES = ("mesa-vulkan-drivers", "libvulkan1")
MINIMUM_MESA = 25
FOLDER = BUILD / "software_gpu"
UNPACKED = FOLDER / "root"
STAMP = FOLDER / "stamp"
DAWN = NODE_MODULES / "webgpu" / "index.js"
CHROMIUM_FOLDERS = ("/usr/lib/chromium", "/usr/lib/chromium-browser", "/opt/google/chrome")


def environment(adapter: str) -> dict[str, str]:
    """What to add to a program's environment so that its Vulkan is this adapter; sets the adapter up."""
    driver, libraries = {"lavapipe": lavapipe, "swiftshader": swiftshader}[adapter]()
    runtime = FOLDER / "run"  # Mesa wants a folder of its own
    runtime.mkdir(parents=True, exist_ok=True, mode=0o700)
    return {
        "VK_ICD_FILENAMES": str(driver),
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
        "XDG_RUNTIME_DIR": str(runtime),
    }


def set_up() -> None:
    for adapter in ADAPTERS:
        environment(adapter)


# ---- SwiftShader ----


def swiftshader() -> tuple[Path, list[Path]]:
    browser.install()
    for folder in map(Path, CHROMIUM_FOLDERS):
        driver = folder / "vk_swiftshader_icd.json"
        if driver.is_file():
            return driver, [folder]  # where the Vulkan loader stands, too
    raise BuildError(
        f"no vk_swiftshader_icd.json in {', '.join(CHROMIUM_FOLDERS)}: install Debian's chromium"
    )


# ---- lavapipe ----


def lavapipe() -> tuple[Path, list[Path]]:
    if system_mesa() >= MINIMUM_MESA:
        return driver_below(Path("/")), []
    with locked():
        if not STAMP.exists():
            unpack_backport()
    return driver_below(UNPACKED), [UNPACKED / "usr" / "lib" / multiarch()]


def system_mesa() -> int:
    """Major version of the Vulkan drivers the system has; 0 without them or without Debian's packages."""
    if shutil.which("dpkg-query") is None:
        return 0
    command = ["dpkg-query", "--show", "--showformat=${Status} ${Version}", *PACKAGES]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.match(r"install ok installed (\d+)", done.stdout)
    return int(found[1]) if found and done.returncode == 0 else 0


def driver_below(root: Path) -> Path:
    drivers = sorted((root / "usr" / "share" / "vulkan" / "icd.d").glob("lvp_icd*.json"))
    if not drivers:
        raise BuildError(f"no lavapipe driver below {root}: the Mesa packages there are not complete")
    return drivers[0]


def multiarch() -> str:
    return f"{'aarch64' if platform.machine() == 'aarch64' else platform.machine()}-linux-gnu"


def unpack_backport() -> None:
    """What the backport's drivers need beyond the installed packages, by apt with folders of our own."""
    if shutil.which("apt-get") is None:
        raise BuildError(
            f"lavapipe of Mesa {MINIMUM_MESA} or newer is needed: install your system's Vulkan drivers"
        )
    suite = f"{codename()}-backports"
    say(f"unpacking Mesa's software GPU of {suite} into {relative(FOLDER)}; the system is left alone")
    shutil.rmtree(FOLDER, ignore_errors=True)
    archives = FOLDER / "cache" / "archives"
    for folder in (FOLDER / "lists" / "partial", archives / "partial", UNPACKED):
        folder.mkdir(parents=True)
    sources = FOLDER / "mirror.list"
    sources.write_text("".join(f"deb {mirror()} {name} main\n" for name in (codename(), suite)))
    apt = ["apt-get", *apt_options(sources)]
    run([*apt, "update", "-q"], quiet=True)
    install = ["install", "-y", "-q", "--download-only", "--no-install-recommends", "-t", suite]
    run([*apt, *install, *PACKAGES], quiet=True)
    for package in sorted(archives.glob("*.deb")):
        run(["dpkg-deb", "--extract", str(package), str(UNPACKED)], quiet=True)
    shutil.rmtree(FOLDER / "cache")
    shutil.rmtree(FOLDER / "lists")
    STAMP.write_text(suite)


def apt_options(sources: Path) -> list[str]:
    """Lists, cache and locks in our folder: any user may run it, and the system's state is only read."""
    options = {
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "/nonexistent",
        "Dir::State::lists": FOLDER / "lists",
        "Dir::Cache": FOLDER / "cache",
        "Debug::NoLocking": "1",
        "APT::Sandbox::User": "root",
    }
    return [f"-o{name}={value}" for name, value in options.items()]


def codename() -> str:
    release = Path("/etc/os-release").read_text()
    found = re.search(r"^VERSION_CODENAME=(\w+)$", release, re.MULTILINE)
    if found is None or not re.search(r"^ID=debian$", release, re.MULTILINE):
        raise BuildError(f"this is no Debian: install Mesa {MINIMUM_MESA} or newer with its Vulkan drivers")
    return found[1]


def mirror() -> str:
    """Where this machine's apt finds Debian's main archive."""
    command = [
        "apt-get",
        "indextargets",
        "--no-release-info",
        "--format",
        "$(REPO_URI) $(RELEASE) $(COMPONENT)",
    ]
    listed = subprocess.run([*command, "Created-By: Packages"], capture_output=True, text=True, check=False)
    for line in listed.stdout.splitlines():
        address, _, rest = line.partition(" ")
        if rest == f"{codename()} main":
            return address
    raise BuildError(f"apt knows no archive with {codename()} main: see /etc/apt/sources.list")
