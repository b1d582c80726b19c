// What the application may ask of the cache of models on this device.

import { RealmError } from '../../js/src/errors.js';
import { openCache, type CachedModel, type CacheRoom, type ModelCache } from './opfs.js';

export type { CachedModel, CacheRoom };

export const modelCache = {
  /** Also those that have not come whole; nothing where the browser refuses storage. */
  async list(): Promise<CachedModel[]> {
    const cache = await openCache();
    return typeof cache === 'string' ? [] : cache.list();
  },

  /** Deletes a model by the id or the key that `list` tells; false: there is none. */
  async delete(name: string): Promise<boolean> {
    const cache = await opened();
    const found = (await cache.list()).find(({ id, key }) => id === name || key === name);
    if (found) await cache.delete(found.id);
    return found !== undefined;
  },

  async room(): Promise<CacheRoom> {
    return (await opened()).room();
  },
};

async function opened(): Promise<ModelCache> {
  const cache = await openCache();
  if (typeof cache === 'string') throw new RealmError('io', cache);
  return cache;
}
