/**
 * The packed tarballs, installed as a user would: an empty folder, no network, no compiler, no install scripts;
 * then both module systems answer. The tarballs are those of `build/npm-test`, made anew when something changed.
 */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const MOST_BYTES = 5 * 2 ** 20; // installed, for one platform, without the demo model
const QUESTION = `
  const realm = new Realm();
  const messages = [{ role: "user", content: "What is the capital of France?" }];
  realm.chat(messages, { temperature: 0, maxTokens: 32 }).then((answer) => {
    console.log(answer.text);
    realm.dispose();
  });`;

let folder;
let installed;

before(() => {
  const tarballs = pack();
  folder = mkdtempSync(join(tmpdir(), "realm-pack-"));
  writeFileSync(join(folder, "package.json"), '{ "name": "empty", "private": true }\n');
  npm(["install", "--offline", "--ignore-scripts", "--no-audit", "--no-fund", ...tarballs]);
  installed = join(folder, "node_modules", "@realm-ai");
});

after(() => folder && rmSync(folder, { recursive: true, force: true }));

/** The build tool prints the tarballs' paths as its last lines. */
function pack() {
  const python = process.env.REALM_PYTHON ?? join(ROOT, "build/venv", process.platform === "win32" ? "Scripts/python.exe" : "bin/python");
  const made = execFileSync(python, ["-m", "realm_build.node_package"], { cwd: ROOT, encoding: "utf8" });
  const tarballs = made.trim().split("\n").filter((line) => line.endsWith(".tgz"));
  assert.equal(tarballs.length, 2, made);
  return tarballs;
}

function npm(args) {
  const script = process.env.REALM_NPM;
  const command = script ? [process.execPath, script] : ["npm"];
  const done = spawnSync(command[0], [...command.slice(1), ...args], { cwd: folder, encoding: "utf8", env: bare() });
  assert.equal(done.status, 0, `npm ${args.join(" ")}\n${done.stdout}${done.stderr}`);
}

/** An environment in which no compiler and no Python can be reached, only this Node. */
function bare() {
  const { REALM_ADDON, ...rest } = process.env;
  return process.env.REALM_NPM ? { ...rest, PATH: join(process.execPath, "..") } : rest;
}

function run(name, code) {
  writeFileSync(join(folder, name), code);
  const environment = { ...bare(), PATH: "" };
  return execFileSync(process.execPath, [name], { cwd: folder, encoding: "utf8", env: environment, timeout: 60_000 });
}

test("import answers", () => {
  assert.match(run("a.mjs", `import { Realm } from "@realm-ai/sdk";${QUESTION}`), /Paris/);
});

test("require answers", () => {
  assert.match(run("a.cjs", `const { Realm } = require("@realm-ai/sdk");${QUESTION}`), /Paris/);
});

test("the command answers", () => {
  const cli = join(folder, "node_modules", "@realm-ai", "sdk", "dist", "cli.mjs");
  const args = [cli, "generate", "What is the capital of France?", "--temperature", "0", "--max-tokens", "32"];
  assert.match(execFileSync(process.execPath, args, { cwd: folder, encoding: "utf8", env: { ...bare(), PATH: "" } }), /Paris/);
  assert.ok(existsSync(join(folder, "node_modules", ".bin", process.platform === "win32" ? "realm.cmd" : "realm")));
});

test("nothing else is installed, and no script was", () => {
  assert.deepEqual(readdirSync(join(folder, "node_modules")).filter((name) => !name.startsWith(".")), ["@realm-ai"]);
  for (const name of readdirSync(installed)) {
    const manifest = JSON.parse(readFileSync(join(installed, name, "package.json"), "utf8"));
    assert.equal(manifest.scripts, undefined);
    assert.equal(manifest.dependencies, undefined);
  }
});

test("the main package names every platform at exactly its version", () => {
  const manifest = JSON.parse(readFileSync(join(installed, "sdk", "package.json"), "utf8"));
  const names = Object.keys(manifest.optionalDependencies);
  assert.equal(names.length, 8);
  for (const name of names) assert.equal(manifest.optionalDependencies[name], manifest.version);
  assert.equal(manifest.devDependencies, undefined);
});

test("what is installed is small", (t) => {
  const files = readdirSync(installed, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  const sizes = files
    .filter((entry) => !entry.name.endsWith(".gguf"))
    .map((entry) => statSync(join(entry.parentPath ?? entry.path, entry.name)).size);
  const total = sizes.reduce((sum, size) => sum + size, 0);
  t.diagnostic(`${total} bytes in ${sizes.length} files`);
  assert.ok(total < MOST_BYTES, `${total} bytes`);
});

test("the declarations name every file they import", () => {
  const types = join(installed, "sdk", "dist", "types");
  const files = readdirSync(types, { recursive: true }).filter((name) => name.endsWith(".d.ts"));
  assert.ok(files.length > 0);
  for (const file of files) {
    for (const [, target] of readFileSync(join(types, file), "utf8").matchAll(/from ["'](\.[^"']+)["']/g)) {
      const there = join(types, file, "..", target.replace(/\.js$|\.ts$/, "") + ".d.ts");
      assert.ok(existsSync(there), `${file} imports ${target}`);
    }
  }
});

test("without the platform's package core.wasm answers and a warning says what to do; without that too, an error does", () => {
  const [platform] = readdirSync(installed).filter((name) => name !== "sdk");
  rmSync(join(installed, platform), { recursive: true });
  const explained = (said) => {
    assert.match(said, new RegExp(`${process.platform}-${process.arch}`));
    assert.match(said, /--omit=optional/);
  };
  writeFileSync(join(folder, "slow.mjs"), `import { Realm } from "@realm-ai/sdk";${QUESTION}`);
  const slow = spawnSync(process.execPath, ["slow.mjs"], { cwd: folder, encoding: "utf8", env: { ...bare(), PATH: "" }, timeout: 60_000 });
  assert.match(slow.stdout, /Paris/);
  explained(slow.stderr);
  rmSync(join(installed, "sdk", "dist", "assets", "core.wasm"));
  const code = `const { Realm, RealmError } = require("@realm-ai/sdk");
    try { new Realm(); } catch (error) { console.log(error instanceof RealmError, error.code, error.message); }`;
  const said = run("missing.cjs", code);
  assert.match(said, /^true unsupported/);
  explained(said);
});
