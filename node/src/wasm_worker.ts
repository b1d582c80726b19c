// The worker thread of fallback.ts: an engine over core.wasm, with all its realms and models. With a backend of a GPU the core only
// schedules, and a GPU computes.

import { existsSync, readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { parentPort } from 'node:worker_threads';

import { LocalEngine } from '../../js/src/local.js';
import type { CheckedEngineOptions } from '../../js/src/options.js';
import { usePlatform } from '../../js/src/platform.js';
import { serve } from '../../js/src/remote_server.js';
import { chooseBuild, type CoreBuild } from '../../js/src/wasm/features.js';
import { openWasmPlatform } from '../../js/src/wasm/host.js';
import { GPU_BACKENDS, openGpu } from './dawn.js';
import { asset, demoModel, standardGuest } from './host.js';
import { openNodeSource } from './source.js';
import { spawnNodeThread } from './threads.js';
import { portChannel } from './worker_channel.js';

const BUILDS: readonly CoreBuild[] = ['core', 'core-relaxed', 'core-threads', 'core-threads-relaxed'];
const MOST_THREADS = 16;

async function open(options: CheckedEngineOptions): Promise<LocalEngine> {
  const { backend } = options;
  const gpu = GPU_BACKENDS.includes(backend);
  const threads = gpu ? 1 : options.threads || Math.min(availableParallelism(), MOST_THREADS);
  const build = chooseBuild(threads, BUILDS.filter((name) => existsSync(asset(`${name}.wasm`))));
  const platform = await openWasmPlatform({
    module: await WebAssembly.compile(readFileSync(asset(`${build}.wasm`))),
    threads,
    spawn: spawnNodeThread,
    guest: standardGuest(),
    demoModel: demoModel(),
    open: openNodeSource,
    ...(gpu && { gpu: () => openGpu(backend) }),
  });
  usePlatform(platform);
  return new LocalEngine(platform.engine({ ...options, threads }), { backend: gpu ? 'webgpu' : 'wasm' });
}

serve(portChannel(parentPort!), open);
