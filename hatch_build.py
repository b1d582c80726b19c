"""Hatchling's build hook: puts the native core, the guest and the demo model into the wheel.

The platform is this machine's, or the one `realm_build package --target` names in REALM_BUILD_TARGET.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).parent))

from realm_build import guest, native, paths, toolchain


class RealmBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        if version == "editable":  # the package is loaded from the checkout: put the files there
            native.install_library()
            guest.install_guest()
            return
        name = os.environ.get("REALM_BUILD_TARGET")
        target = toolchain.find_target(name) if name else toolchain.host_target()
        library = native.build_library(target)
        build_data["tag"] = f"py3-none-{target.wheel_tag}"
        build_data["pure_python"] = False
        build_data["force_include"] = {
            str(library): f"realm/_native/{library.name}",
            str(guest.build_guests()[0]): "realm/_native/realm.wasm",
            str(paths.DEMO_MODEL): "realm/_data/realm-demo.gguf",
        }
