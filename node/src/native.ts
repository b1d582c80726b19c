/**
 * Finds the native addon of this machine and loads it: the file REALM_ADDON names, else the package of this
 * platform, else what a checkout of the sources has built. Nothing is compiled or fetched here.
 *
 * Linux comes in two C libraries, and no quick question tells them apart, so both packages are tried: npm
 * installs only the right one, and the wrong one does not load.
 */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

import { RealmError } from '../../js/src/errors.js';

const PACKAGE = '@realm-ai/sdk';
const PLATFORMS = [
  'darwin-arm64', 'darwin-x64', 'linux-arm64-gnu', 'linux-arm64-musl', 'linux-x64-gnu', 'linux-x64-musl',
  'win32-arm64', 'win32-x64',
];

/** The addon could not be loaded; the message says for which platform and what to do. */
export class NativeError extends RealmError {
  constructor(message: string) {
    super('unsupported', message);
  }
}

/** Loads the addon; every call in one thread gives the same object. */
export function loadNative(): unknown {
  const require = createRequire(import.meta.url);
  const named = process.env['REALM_ADDON'];
  if (named) return loaded(require, named);
  const failures: string[] = [];
  for (const platform of candidates()) {
    for (const place of [`${PACKAGE}-${platform}`, checkoutFile(platform)]) {
      if (!isThere(require, place)) continue;
      try {
        return require(place);
      } catch (error) {
        failures.push(`${place}: ${error instanceof Error ? error.message : String(error)}`);
      }
    }
  }
  throw new NativeError(explain(failures));
}

function loaded(require: NodeJS.Require, named: string): unknown {
  try {
    return require(named);
  } catch (error) {
    throw new NativeError(`The addon that REALM_ADDON names does not load: ${error instanceof Error ? error.message : String(error)}.`);
  }
}

/** The names of the packages that may fit this machine, the likelier first. */
export function candidates(platform: string = process.platform, arch: string = process.arch): string[] {
  const names = platform === 'linux' ? [`linux-${arch}-gnu`, `linux-${arch}-musl`] : [`${platform}-${arch}`];
  return names.filter((name) => PLATFORMS.includes(name));
}

/** This file is bundled into node/dist, two folders below the root of a checkout. */
function checkoutFile(platform: string): string {
  return fileURLToPath(new URL(`../../build/node/${platform}/realm.node`, import.meta.url));
}

/** Told apart from what is there and does not load: that error must reach the user. */
function isThere(require: NodeJS.Require, place: string): boolean {
  if (!place.startsWith(PACKAGE)) return existsSync(place);
  try {
    require.resolve(place);
    return true;
  } catch {
    return false;
  }
}

export function explain(failures: string[], platform: string = process.platform, arch: string = process.arch): string {
  const here = `${platform}-${arch}`;
  const names = candidates(platform, arch);
  if (names.length === 0) {
    return `${PACKAGE} has no native addon for ${here}; there is one for ${PLATFORMS.join(', ')}.`;
  }
  if (failures.length > 0) {
    return `The native addon of ${PACKAGE} for ${here} does not load: ${failures.join('; ')}`;
  }
  const packages = names.map((name) => `${PACKAGE}-${name}`).join(' or ');
  return (
    `The native addon of ${PACKAGE} for ${here} is not installed. It is the optional package ${packages}: install again ` +
    `on this machine without --omit=optional (a node_modules folder made on another platform lacks it). ` +
    `In a checkout of the sources run: python3 -m realm_build build`
  );
}
