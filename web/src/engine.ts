// Opens the engine of a worker: finds out what this browser can do and what was asked for.

import { RealmError } from '../../js/src/errors.js';
import type { LocalEngine } from '../../js/src/local.js';
import type { CheckedEngineOptions } from '../../js/src/options.js';
import type { Assets } from './assets.js';

export interface WebEngineOptions extends CheckedEngineOptions {
  assets: Assets;
}

export async function openEngine(_options: WebEngineOptions): Promise<LocalEngine> {
  throw new RealmError('backend-unavailable', 'this build has no engine for pages yet');
}
