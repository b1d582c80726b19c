// What every host exports: the list of public names, once.

export { Realm, type ChatGenerateOptions, type LoadModelOptions, type RealmOptions } from './api.js';
export type { ChatOptions, Message } from './chat.js';
export { RealmError, type ErrorCode, type LimitFacts } from './errors.js';
export { Model, type PublicPrefix } from './model.js';
export type { Backend, CpuFeature, EngineOptions, GenerateOptions, Isolation, KvType, ResourceLimits } from './options.js';
export type { EngineStats, ModelInfo, TenantStats } from './platform.js';
export type { ModelInput, Transfer } from './port.js';
export { TokenStream, type Generation, type LikelyToken, type Timings, type Usage } from './request.js';
export { GuestModule, Runtime, type GuestResult, type RuntimeOptions } from './runtime.js';
