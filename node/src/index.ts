// The package for Node: the shared API over the native addon.

import { usePlatform } from '../../js/src/platform.js';
import { nodePlatform } from './host.js';

usePlatform(nodePlatform);

export { Realm, type ChatGenerateOptions, type LoadModelOptions, type RealmOptions } from '../../js/src/api.js';
export type { ChatOptions, Message } from '../../js/src/chat.js';
export { RealmError, type ErrorCode } from '../../js/src/errors.js';
export { Model } from '../../js/src/model.js';
export type { Backend, CpuFeature, EngineOptions, GenerateOptions, KvType, ResourceLimits } from '../../js/src/options.js';
export type { EngineStats, ModelInfo } from '../../js/src/platform.js';
export { TokenStream, type Generation, type Timings, type Usage } from '../../js/src/request.js';
export { GuestModule, Runtime, type GuestResult, type RuntimeOptions } from '../../js/src/runtime.js';
