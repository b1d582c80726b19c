// The package for pages: the shared API over an engine in a worker.
//
//   const realm = new Realm({ backend: 'auto' });            // 'auto' | 'webgpu' | 'wasm'
//   const model = await realm.loadModel(file, { progress }); // an address, File, Blob or bytes; without: the demo model
//   for await (const piece of realm.chatStream(messages, { signal })) ...

import { usePorts } from '../../js/src/port.js';
import { webPorts } from './ports.js';

usePorts(webPorts);

export * from '../../js/src/public.js';
export { modelCache, type CachedModel, type CacheRoom } from './cache.js';
