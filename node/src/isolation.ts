// `isolation: 'worker'`: each realm's guest in a worker thread of its own, taken from a few that are started ahead.
//
// Models, tokenizers and compute stay where they are, in the process; only the guest moves. Its memory is bounded by the module's maximum
// and the thread's heap limit, its time by a watchdog. Whatever goes wrong ends the thread: the realm is gone, nobody else notices.

import { Worker } from 'node:worker_threads';

import { RealmError } from '../../js/src/errors.js';
import type { LocalEngine } from '../../js/src/local.js';
import type { CheckedEngineOptions, ResourceLimits } from '../../js/src/options.js';
import type { EngineStats, TenantStats } from '../../js/src/platform.js';
import type { EnginePort, Listener, LoadOptions, ModelInput, ModelPort, RealmPort } from '../../js/src/port.js';
import type { RealmPortOptions, RealmRequest, RunningRequest } from '../../js/src/port.js';
import { RemoteEngine, RemoteRealm, type RemoteModel } from '../../js/src/remote_client.js';
import { WorkerChannel } from './worker_channel.js';

const WARM = 2; // threads that wait for a guest
const HEAP_LIMITS = { maxOldGenerationSizeMb: 64, maxYoungGenerationSizeMb: 16, stackSizeMb: 4 };
const LOOKS = 4; // of the watchdog, within the time a guest may take

export class IsolatedEngine implements EnginePort {
  constructor(
    private readonly local: LocalEngine,
    private readonly options: CheckedEngineOptions,
  ) {}

  realm(options: RealmPortOptions): RealmPort {
    return new IsolatedRealm(this.options, options);
  }

  load(source: ModelInput | undefined, options: LoadOptions): Promise<ModelPort> {
    return this.local.load(source, options);
  }

  stats(): Promise<EngineStats> {
    return this.local.stats();
  }

  tenantStats(tenant: bigint): Promise<TenantStats> {
    return this.local.tenantStats(tenant);
  }
}

class IsolatedRealm implements RealmPort {
  readonly exports: Promise<readonly string[]>;
  readonly #engine: RemoteEngine;
  readonly #realm: RemoteRealm;
  readonly #models = new Map<string, RemoteModel>(); // the thread's own handles, by the model's key

  constructor(engine: CheckedEngineOptions, options: RealmPortOptions) {
    const thread = takeThread();
    const { guestSeconds } = options.limits;
    const watchdog = new Watchdog(thread.stays, guestSeconds, () => {
      const text = `the guest did not return within its limit of guestSeconds=${guestSeconds}`;
      this.#engine.end(new RealmError('timed-out', `${text}; its realm was ended`));
    });
    const busy = (busy: boolean): void => {
      thread.channel.hold(busy);
      watchdog.run(busy);
    };
    this.#engine = new RemoteEngine(thread.channel, engine, { busy });
    this.#realm = this.#engine.realm(options);
    this.exports = this.#realm.exports;
  }

  start(request: RealmRequest, model: ModelPort | undefined, listener: Listener): RunningRequest {
    return this.#realm.start(request, model && this.#own(model), listener);
  }

  call(name: string, values: readonly (number | bigint)[]): Promise<unknown> {
    return this.#realm.call(name, values);
  }

  setLimits(limits: Required<ResourceLimits>): Promise<void> {
    return this.#realm.setLimits(limits);
  }

  revoke(model: ModelPort): void {
    const own = this.#models.get(model.key);
    if (!own) return;
    this.#realm.revoke(own);
    own.close();
    this.#models.delete(model.key);
  }

  close(): void {
    this.#realm.close();
    this.#engine.end(new RealmError('closed', 'this realm was closed; make a new one'));
  }

  #own(model: ModelPort): RemoteModel {
    let own = this.#models.get(model.key);
    if (!own) this.#models.set(model.key, (own = this.#engine.find(model)));
    return own;
  }
}

/** Looks, while calls are open, whether the thread is still in the same stay in its guest. Nothing runs while none are. */
class Watchdog {
  #timer: NodeJS.Timeout | undefined;
  #stay = 0; // the one seen last; even: none
  #since = 0;

  constructor(
    private readonly stays: Int32Array,
    private readonly seconds: number,
    private readonly expired: () => void,
  ) {}

  run(wanted: boolean): void {
    clearInterval(this.#timer);
    this.#stay = 0;
    if (wanted) this.#timer = setInterval(() => this.#look(), Math.max(1, (this.seconds * 1000) / LOOKS)).unref();
  }

  #look(): void {
    const stay = Atomics.load(this.stays, 0);
    const now = performance.now();
    if (stay !== this.#stay) {
      this.#stay = stay;
      this.#since = now;
    } else if (stay % 2 !== 0 && now - this.#since >= this.seconds * 1000) {
      this.expired();
    }
  }
}

// ---- threads ----

interface Thread {
  channel: WorkerChannel;
  stays: Int32Array;
}

const warm: Thread[] = [];

function takeThread(): Thread {
  const thread = warm.shift() ?? startThread();
  setImmediate(fillUp).unref();
  return thread;
}

function fillUp(): void {
  while (warm.length < WARM) warm.push(startThread());
}

function startThread(): Thread {
  const stays = new SharedArrayBuffer(4);
  const worker = new Worker(new URL('./worker.mjs', import.meta.url), {
    workerData: { stays },
    resourceLimits: HEAP_LIMITS,
    execArgv: [],
  });
  return { channel: new WorkerChannel(worker), stays: new Int32Array(stays) };
}
