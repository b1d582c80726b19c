// Engines in workers of their own: one for all who ask for the same options, ended some seconds after its last realm and model.

import { RealmError } from './errors.js';
import type { CheckedEngineOptions } from './options.js';
import type { EngineOwner, RemoteEngine } from './remote_client.js';

const IDLE_MS = 5000; // memory of an engine is only given back with its worker

export class RemoteEngines {
  readonly #engines = new Map<string, RemoteEngine>();

  /** `start` makes a worker and the engine in it. */
  constructor(private readonly start: (options: CheckedEngineOptions, owner: EngineOwner) => RemoteEngine) {}

  get(options: CheckedEngineOptions): RemoteEngine {
    const key = JSON.stringify(options);
    return this.#engines.get(key) ?? this.#make(key, options);
  }

  #make(key: string, options: CheckedEngineOptions): RemoteEngine {
    let idle: ReturnType<typeof setTimeout> | undefined;
    const end = (): void => engine.end(new RealmError('closed', 'this engine is no longer in use'));
    const engine: RemoteEngine = this.start(options, {
      used: () => clearTimeout(idle),
      unused: () => {
        idle = setTimeout(end, IDLE_MS);
        (idle as { unref?: () => void }).unref?.(); // in Node: no reason for the process to stay
      },
      gone: () => {
        clearTimeout(idle);
        if (this.#engines.get(key) === engine) this.#engines.delete(key);
      },
    });
    this.#engines.set(key, engine);
    return engine;
  }
}
