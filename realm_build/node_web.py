"""The browser's part of the npm package, in `node/dist/assets`: bundles of the page and of its worker.

The folder is complete: copied to any static server, a page can use it as it is.
"""

from __future__ import annotations

from pathlib import Path

from . import node
from .incremental import Step
from .paths import NODE_MODULES, ROOT, relative, sources

WEB = ROOT / "web"
# In a classic script there is no import.meta; its address is only known while it is run first.
SCRIPT_ADDRESS = (
    "--define:import.meta.url=realmScriptAddress",
    "--banner:js=const realmScriptAddress = document.currentScript.src;",
)


def steps() -> list[Step]:
    return [
        bundle("realm.mjs", "index.ts", "--format=esm"),
        bundle("realm.min.js", "global.ts", "--format=iife", "--global-name=realmScript", *SCRIPT_ADDRESS),
        bundle("worker.js", "worker.ts", "--format=iife"),
        types(),
    ]


def bundle(name: str, entry: str, *options: str) -> Step:
    output = node.WEB_DIST / name
    tool = relative(NODE_MODULES / "esbuild" / "bin" / "esbuild")
    fixed = ("--bundle", "--minify", "--platform=browser", "--target=es2022", "--log-level=warning")
    resolve = f"--alias:@huggingface/jinja=./{relative(NODE_MODULES)}/@huggingface/jinja"
    place = (f"--outfile={relative(output)}", relative(WEB / "src" / entry))
    command = (str(node.node()), tool, *fixed, "--loader:.wgsl=text", resolve, *options, *place)
    return Step(f"bundle {relative(output)}", output, command, tuple(inputs()))


def types() -> Step:
    tool = relative(NODE_MODULES / "typescript" / "bin" / "tsc")
    out = node.DIST / "types"
    options = ("--emitDeclarationOnly", "--noEmit", "false", "--outDir", relative(out))
    command = (str(node.node()), tool, "--project", relative(WEB), *options)
    output = out / "web" / "src" / "index.d.ts"
    return Step(f"types {relative(output.parent)}", output, command, tuple(inputs()))


def inputs() -> list[Path]:
    return [*node.typescript(), *sources("web/src/**/*.ts", "web/tsconfig.json", "kernels/wgsl/*.wgsl")]
