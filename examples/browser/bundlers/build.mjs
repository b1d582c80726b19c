// Bundles this page with one of three tools: node build.mjs vite|webpack|esbuild [folder]
//
// The SDK names the files beside it (worker, WebAssembly, demo model) by new URL('./worker.js', import.meta.url). Vite and
// webpack see that and bring them along; for esbuild they are copied beside the output.

import { copyFileSync, cpSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = import.meta.dirname ?? dirname(fileURLToPath(import.meta.url));
const [tool, folder = `dist/${process.argv[2]}`] = process.argv.slice(2);
const output = resolve(folder);

const tools = {
  async vite() {
    const { build } = await import('vite');
    await build({ root: here, base: './', build: { outDir: output, emptyOutDir: true, target: 'es2022' }, logLevel: 'warn' });
  },

  async webpack() {
    const { default: webpack } = await import('webpack');
    const options = { mode: 'production', context: here, entry: './main.js', output: { path: output, clean: true } };
    const stats = await new Promise((done, failed) => {
      webpack(options, (problem, result) => (problem ? failed(problem) : done(result)));
    });
    if (stats.hasErrors()) throw new Error(stats.toString('errors-only'));
    copyFileSync(join(here, 'index.html'), join(output, 'index.html'));
  },

  async esbuild() {
    const { build } = await import('esbuild');
    const options = { absWorkingDir: here, entryPoints: ['main.js'], outdir: output, bundle: true, minify: true };
    await build({ ...options, format: 'esm', target: 'es2022' });
    cpSync(join(here, 'node_modules/@realm-ai/sdk/dist/assets'), output, { recursive: true });
    copyFileSync(join(here, 'index.html'), join(output, 'index.html'));
  },
};

if (!Object.hasOwn(tools, tool)) throw new Error(`node build.mjs ${Object.keys(tools).join('|')} [folder]`);
await tools[tool]();
