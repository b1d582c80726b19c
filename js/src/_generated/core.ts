// Generated from core/include/realm.h by realm_build gen; do not edit.
// The core's C interface inside a wasm32 module. Addresses are numbers, 64-bit integers bigints.

const text = new TextDecoder();

/** A NUL-terminated text; copied, because a decoder does not take shared memory. */
function readText(view: DataView, at: number, cap: number): string {
  const bytes = new Uint8Array(view.buffer, at, cap).slice();
  const end = bytes.indexOf(0);
  return text.decode(end < 0 ? bytes : bytes.subarray(0, end));
}

export const INITIAL_PAGES = 64;
export const MAXIMUM_PAGES = 65535;
export const REALM_LIMIT_NONE = 0;
export const REALM_LIMIT_SESSIONS = 1;
export const REALM_LIMIT_TICKETS = 2;
export const REALM_LIMIT_TENSOR_BYTES = 3;
export const REALM_LIMIT_KV_TOKENS = 4;
export const REALM_LIMIT_CONTEXT_LENGTH = 5;
export const REALM_LIMIT_CONCURRENT_REQUESTS = 6;
export const REALM_LIMIT_QUEUE_LENGTH = 7;
export const REALM_LIMIT_TOKENS_PER_SECOND = 8;
export const REALM_LIMIT_TOKENS_PER_MINUTE = 9;
export const REALM_LIMIT_DEADLINE = 10;
export const REALM_LIMIT_KV_BYTES = 11;
export const REALM_CPU_PORTABLE = 1;
export const REALM_CPU_AVX2 = 2;
export const REALM_CPU_AVX512 = 4;
export const REALM_CPU_AMX = 8;
export const REALM_CPU_AVXVNNI = 16;
export const REALM_CPU_NEON_DOTPROD = 256;
export const REALM_CPU_NEON_I8MM = 512;
export const REALM_CPU_SIMD128 = 65536;
export const REALM_CPU_RELAXED = 131072;
export const REALM_EXECUTOR_CPU = 0;
export const REALM_EXECUTOR_FAKE = 1;
export const REALM_EXECUTOR_EXTERNAL = 2;
export const REALM_LOAD_FULL = 0;
export const REALM_LOAD_VOCAB = 1;
export const REALM_LOAD_HEADER = 2;
export const REALM_KV_F16 = 0;
export const REALM_KV_F32 = 1;
export const REALM_KV_MODEL = 2;
export const REALM_ENCODE_ADD_SPECIAL = 1;
export const REALM_ENCODE_PARSE_SPECIAL = 2;
export const REALM_DECODE_SPECIAL = 1;
export const REALM_DECODE_TEXT_START = 2;
export const REALM_TICKET_PENDING = 0;
export const REALM_TICKET_PROGRESS = 1;
export const REALM_TICKET_READY = 2;
export const REALM_TICKET_FAILED = 3;

/** What a module of the core exports. */
export interface CoreExports {
  realm_limit_name(limit: number): number;
  realm_abi_version(): number;
  realm_status_name(status: number): number;
  realm_runtime_create(options: number, out: number, err: number): number;
  realm_runtime_destroy(rt: number): void;
  realm_runtime_kernels(rt: number): number;
  realm_cpu_features(): number;
  realm_runtime_threads(rt: number): number;
  realm_runtime_wait(rt: number, out: number, cap: number, timeoutNs: bigint): number;
  realm_runtime_set_listener(rt: number, listener: number, arg: number): void;
  realm_runtime_acknowledge(rt: number): void;
  realm_runtime_announce(rt: number): void;
  realm_runtime_wake(rt: number): void;
  realm_runtime_step(rt: number, nowNs: bigint, budget: bigint, busy: number, err: number): number;
  realm_runtime_next_due(rt: number): bigint;
  realm_runtime_take_batch(rt: number, out: number, some: number, err: number): number;
  realm_runtime_batch_wanted(rt: number, batch: bigint): number;
  realm_runtime_finish_batch(rt: number, batch: bigint, failed: number, message: number, err: number): number;
  realm_runtime_get_stats(rt: number, out: number): void;
  realm_loader_begin(rt: number, path: number, options: number, out: number, err: number): number;
  realm_loader_begin_bytes(rt: number, data: number, size: bigint, options: number, out: number, err: number): number;
  realm_pages_alloc(bytes: bigint): number;
  realm_pages_free(pages: number, bytes: bigint): void;
  realm_loader_own_pages(loader: number, pages: number, bytes: bigint): void;
  realm_loader_begin_header(rt: number, shards: number, count: number, options: number, out: number, err: number): number;
  realm_loader_begin_shards(rt: number, shards: number, count: number, options: number, out: number, err: number): number;
  realm_loader_wants(loader: number, offset: number, size: number): void;
  realm_loader_supply(loader: number, data: number, size: bigint, err: number): number;
  realm_loader_step(loader: number, progress: number, err: number): number;
  realm_loader_pack(loader: number, budget: bigint, progress: number, err: number): number;
  realm_loader_finish(loader: number, out: number, err: number): number;
  realm_loader_abandon(loader: number): void;
  realm_model_close(model: number): void;
  realm_model_get_info(model: number, out: number): void;
  realm_model_describe(model: number, out: number, cap: number): number;
  realm_model_plan(model: number, out: number, cap: number): number;
  realm_model_string(model: number, key: number, data: number, size: number): number;
  realm_model_encode(model: number, text: number, size: number, flags: number, ids: number, cap: number, count: number, err: number): number;
  realm_model_decode(model: number, ids: number, count: number, flags: number, out: number, cap: number, size: number, err: number): number;
  realm_context_create(rt: number, tag: bigint, tenant: bigint, limits: number, out: number, err: number): number;
  realm_context_set_limits(ctx: number, limits: number): void;
  realm_context_destroy(ctx: number): void;
  realm_context_hold_progress(ctx: number, holdNs: bigint): void;
  realm_context_grant(ctx: number, model: number, handle: number, err: number): number;
  realm_context_revoke(ctx: number, handle: number, err: number): number;
  realm_context_model(ctx: number, handle: number): number;
  realm_session_open(ctx: number, model: number, options: number, session: number, err: number): number;
  realm_session_close(ctx: number, session: number, err: number): number;
  realm_session_position(ctx: number, session: number, position: number, err: number): number;
  realm_session_rewind(ctx: number, session: number, position: number, err: number): number;
  realm_prefix_publish(ctx: number, session: number, prefix: number, tokens: number, err: number): number;
  realm_prefix_unpublish(model: number, prefix: number, err: number): number;
  realm_tenant_set_limits(rt: number, tenant: bigint, limits: number, err: number): number;
  realm_tenant_get_stats(rt: number, tenant: bigint, out: number): void;
  realm_tenant_refused(rt: number, tenant: bigint, limit: number): bigint;
  realm_forward(ctx: number, session: number, tokens: number, count: number, ticket: number, err: number): number;
  realm_forward_layers(ctx: number, session: number, first: number, count: number, tokens: number, countTokens: number, ticket: number, err: number): number;
  realm_forward_logits(ctx: number, session: number, tokens: number, count: number, out: number, ticket: number, err: number): number;
  realm_score(ctx: number, session: number, tokens: number, count: number, ticket: number, err: number): number;
  realm_sample(ctx: number, session: number, params: number, out: number, err: number): number;
  realm_likeliest(ctx: number, session: number, out: number, count: number, err: number): number;
  realm_generate(ctx: number, session: number, tokens: number, count: number, params: number, maxTokens: number, ticket: number, err: number): number;
  realm_ticket_get_state(ctx: number, ticket: number, state: number, err: number): number;
  realm_ticket_error(ctx: number, ticket: number, err: number): number;
  realm_ticket_tokens(ctx: number, ticket: number, out: number, cap: number, count: number, err: number): number;
  realm_ticket_scores(ctx: number, ticket: number, out: number, cap: number, count: number, err: number): number;
  realm_ticket_get_work(ctx: number, ticket: number, out: number, err: number): number;
  realm_ticket_tensor(ctx: number, ticket: number, tensor: number, err: number): number;
  realm_ticket_cancel(ctx: number, ticket: number, err: number): number;
  realm_ticket_drop(ctx: number, ticket: number, err: number): number;
  realm_context_open_tickets(ctx: number): number;
  realm_tensor_create(ctx: number, rows: number, cols: number, data: number, tensor: number, err: number): number;
  realm_tensor_weight(ctx: number, model: number, name: number, nameSize: number, tensor: number, err: number): number;
  realm_tensor_shape(ctx: number, tensor: number, rows: number, cols: number, err: number): number;
  realm_tensor_read(ctx: number, tensor: number, out: number, cap: number, count: number, err: number): number;
  realm_tensor_drop(ctx: number, tensor: number, err: number): number;
  realm_matmul(ctx: number, a: number, b: number, ticket: number, err: number): number;
  realm_matmul_transposed(ctx: number, a: number, b: number, ticket: number, err: number): number;
  realm_store_layer(ctx: number, address: bigint, tensor: number, err: number): number;
  realm_load_layer(ctx: number, address: bigint, ticket: number, err: number): number;
  realm_get_cache_stats(ctx: number, out: number, err: number): number;
  realm_bench_read_bandwidth(rt: number, bytes: bigint, repeats: number): number;
  realm_wasm_alloc(bytes: number): number;
  realm_wasm_free(p: number): void;
}

/** And with threads: the places where workers sit and serve. */
export interface SeatExports {
  realm_wasm_seat_create(): number;
  realm_wasm_seat_stack(seat: number): number;
  realm_wasm_seat_tls(seat: number): number;
  realm_wasm_seat_serve(seat: number): void;
  realm_wasm_seat_ready(seat: number): number;
  realm_wasm_seat_leave(seat: number): void;
}

export interface CoreError {
  code: number;
  message: string;
  limit: number;
  limitValue: bigint;
  retryAfterNs: bigint;
}

export const REALM_ERROR_SIZE = 280;

export function readCoreError(view: DataView, at: number): CoreError {
  return {
    code: view.getInt32(at + 0, true),
    message: readText(view, at + 4, 256),
    limit: view.getUint32(at + 260, true),
    limitValue: view.getBigUint64(at + 264, true),
    retryAfterNs: view.getBigUint64(at + 272, true),
  };
}

export function writeCoreError(view: DataView, at: number, value: CoreError): void {
  view.setInt32(at + 0, value.code, true);
  view.setUint32(at + 260, value.limit, true);
  view.setBigUint64(at + 264, value.limitValue, true);
  view.setBigUint64(at + 272, value.retryAfterNs, true);
}

export interface CoreRuntimeOptions {
  threads: number;
  features: number;
  executor: number;
  noDriver: number;
  batchRows: number;
  hostClock: number;
  kvBytes: bigint;
  fakeStepNs: bigint;
  fakeRowNs: bigint;
  fakePositionNs: bigint;
}

export const REALM_RUNTIME_OPTIONS_SIZE = 56;

export function readCoreRuntimeOptions(view: DataView, at: number): CoreRuntimeOptions {
  return {
    threads: view.getUint32(at + 0, true),
    features: view.getUint32(at + 4, true),
    executor: view.getUint32(at + 8, true),
    noDriver: view.getUint32(at + 12, true),
    batchRows: view.getUint32(at + 16, true),
    hostClock: view.getUint32(at + 20, true),
    kvBytes: view.getBigUint64(at + 24, true),
    fakeStepNs: view.getBigUint64(at + 32, true),
    fakeRowNs: view.getBigUint64(at + 40, true),
    fakePositionNs: view.getBigUint64(at + 48, true),
  };
}

export function writeCoreRuntimeOptions(view: DataView, at: number, value: CoreRuntimeOptions): void {
  view.setUint32(at + 0, value.threads, true);
  view.setUint32(at + 4, value.features, true);
  view.setUint32(at + 8, value.executor, true);
  view.setUint32(at + 12, value.noDriver, true);
  view.setUint32(at + 16, value.batchRows, true);
  view.setUint32(at + 20, value.hostClock, true);
  view.setBigUint64(at + 24, value.kvBytes, true);
  view.setBigUint64(at + 32, value.fakeStepNs, true);
  view.setBigUint64(at + 40, value.fakeRowNs, true);
  view.setBigUint64(at + 48, value.fakePositionNs, true);
}

export interface CoreCompletion {
  tag: bigint;
  ticket: number;
  state: number;
}

export const REALM_COMPLETION_SIZE = 16;

export function readCoreCompletion(view: DataView, at: number): CoreCompletion {
  return {
    tag: view.getBigUint64(at + 0, true),
    ticket: view.getUint32(at + 8, true),
    state: view.getUint32(at + 12, true),
  };
}

export function writeCoreCompletion(view: DataView, at: number, value: CoreCompletion): void {
  view.setBigUint64(at + 0, value.tag, true);
  view.setUint32(at + 8, value.ticket, true);
  view.setUint32(at + 12, value.state, true);
}

export interface CoreRuntimeStats {
  steps: bigint;
  rows: bigint;
  stepNs: bigint;
  prefixHits: bigint;
  kvBytesUsed: bigint;
  kvBytesLimit: bigint;
}

export const REALM_RUNTIME_STATS_SIZE = 80;

export function readCoreRuntimeStats(view: DataView, at: number): CoreRuntimeStats {
  return {
    steps: view.getBigUint64(at + 0, true),
    rows: view.getBigUint64(at + 8, true),
    stepNs: view.getBigUint64(at + 16, true),
    prefixHits: view.getBigUint64(at + 24, true),
    kvBytesUsed: view.getBigUint64(at + 32, true),
    kvBytesLimit: view.getBigUint64(at + 40, true),
  };
}

export function writeCoreRuntimeStats(view: DataView, at: number, value: CoreRuntimeStats): void {
  view.setBigUint64(at + 0, value.steps, true);
  view.setBigUint64(at + 8, value.rows, true);
  view.setBigUint64(at + 16, value.stepNs, true);
  view.setBigUint64(at + 24, value.prefixHits, true);
  view.setBigUint64(at + 32, value.kvBytesUsed, true);
  view.setBigUint64(at + 40, value.kvBytesLimit, true);
}

export interface CoreModelOptions {
  mode: number;
  contextLength: number;
  kvType: number;
  prefetch: number;
}

export const REALM_MODEL_OPTIONS_SIZE = 16;

export function readCoreModelOptions(view: DataView, at: number): CoreModelOptions {
  return {
    mode: view.getUint32(at + 0, true),
    contextLength: view.getUint32(at + 4, true),
    kvType: view.getUint32(at + 8, true),
    prefetch: view.getUint32(at + 12, true),
  };
}

export function writeCoreModelOptions(view: DataView, at: number, value: CoreModelOptions): void {
  view.setUint32(at + 0, value.mode, true);
  view.setUint32(at + 4, value.contextLength, true);
  view.setUint32(at + 8, value.kvType, true);
  view.setUint32(at + 12, value.prefetch, true);
}

export interface CoreShard {
  data: number;
  size: bigint;
  fileSize: bigint;
  base: bigint;
  needed: bigint;
}

export const REALM_SHARD_SIZE = 40;

export function readCoreShard(view: DataView, at: number): CoreShard {
  return {
    data: view.getUint32(at + 0, true),
    size: view.getBigUint64(at + 8, true),
    fileSize: view.getBigUint64(at + 16, true),
    base: view.getBigUint64(at + 24, true),
    needed: view.getBigUint64(at + 32, true),
  };
}

export function writeCoreShard(view: DataView, at: number, value: CoreShard): void {
  view.setUint32(at + 0, value.data, true);
  view.setBigUint64(at + 8, value.size, true);
  view.setBigUint64(at + 16, value.fileSize, true);
  view.setBigUint64(at + 24, value.base, true);
  view.setBigUint64(at + 32, value.needed, true);
}

export interface CoreModelInfo {
  vocabSize: number;
  contextLength: number;
  embeddingLength: number;
  layerCount: number;
  headCount: number;
  headCountKv: number;
  bos: number;
  eos: number;
  eot: number;
  addBos: number;
  addEos: number;
  hasWeights: number;
  parameterCount: bigint;
  weightBytes: bigint;
  kvBytesPerToken: bigint;
}

export const REALM_MODEL_INFO_SIZE = 72;

export function readCoreModelInfo(view: DataView, at: number): CoreModelInfo {
  return {
    vocabSize: view.getUint32(at + 0, true),
    contextLength: view.getUint32(at + 4, true),
    embeddingLength: view.getUint32(at + 8, true),
    layerCount: view.getUint32(at + 12, true),
    headCount: view.getUint32(at + 16, true),
    headCountKv: view.getUint32(at + 20, true),
    bos: view.getUint32(at + 24, true),
    eos: view.getUint32(at + 28, true),
    eot: view.getUint32(at + 32, true),
    addBos: view.getUint32(at + 36, true),
    addEos: view.getUint32(at + 40, true),
    hasWeights: view.getUint32(at + 44, true),
    parameterCount: view.getBigUint64(at + 48, true),
    weightBytes: view.getBigUint64(at + 56, true),
    kvBytesPerToken: view.getBigUint64(at + 64, true),
  };
}

export function writeCoreModelInfo(view: DataView, at: number, value: CoreModelInfo): void {
  view.setUint32(at + 0, value.vocabSize, true);
  view.setUint32(at + 4, value.contextLength, true);
  view.setUint32(at + 8, value.embeddingLength, true);
  view.setUint32(at + 12, value.layerCount, true);
  view.setUint32(at + 16, value.headCount, true);
  view.setUint32(at + 20, value.headCountKv, true);
  view.setUint32(at + 24, value.bos, true);
  view.setUint32(at + 28, value.eos, true);
  view.setUint32(at + 32, value.eot, true);
  view.setUint32(at + 36, value.addBos, true);
  view.setUint32(at + 40, value.addEos, true);
  view.setUint32(at + 44, value.hasWeights, true);
  view.setBigUint64(at + 48, value.parameterCount, true);
  view.setBigUint64(at + 56, value.weightBytes, true);
  view.setBigUint64(at + 64, value.kvBytesPerToken, true);
}

export interface CoreLimits {
  sessions: number;
  tickets: number;
  kvTokens: bigint;
  tensorBytes: bigint;
}

export const REALM_LIMITS_SIZE = 32;

export function readCoreLimits(view: DataView, at: number): CoreLimits {
  return {
    sessions: view.getUint32(at + 0, true),
    tickets: view.getUint32(at + 4, true),
    kvTokens: view.getBigUint64(at + 8, true),
    tensorBytes: view.getBigUint64(at + 16, true),
  };
}

export function writeCoreLimits(view: DataView, at: number, value: CoreLimits): void {
  view.setUint32(at + 0, value.sessions, true);
  view.setUint32(at + 4, value.tickets, true);
  view.setBigUint64(at + 8, value.kvTokens, true);
  view.setBigUint64(at + 16, value.tensorBytes, true);
}

export interface CoreSessionOptions {
  kvType: number;
  contextLength: number;
  noPrefix: number;
  priority: number;
  deadlineNs: bigint;
}

export const REALM_SESSION_OPTIONS_SIZE = 24;

export function readCoreSessionOptions(view: DataView, at: number): CoreSessionOptions {
  return {
    kvType: view.getUint32(at + 0, true),
    contextLength: view.getUint32(at + 4, true),
    noPrefix: view.getUint32(at + 8, true),
    priority: view.getUint32(at + 12, true),
    deadlineNs: view.getBigUint64(at + 16, true),
  };
}

export function writeCoreSessionOptions(view: DataView, at: number, value: CoreSessionOptions): void {
  view.setUint32(at + 0, value.kvType, true);
  view.setUint32(at + 4, value.contextLength, true);
  view.setUint32(at + 8, value.noPrefix, true);
  view.setUint32(at + 12, value.priority, true);
  view.setBigUint64(at + 16, value.deadlineNs, true);
}

export interface CoreTenantLimits {
  weight: number;
  concurrentRequests: number;
  queueLength: number;
  contextLength: number;
  kvTokens: bigint;
  tokensPerSecond: bigint;
  tokensPerMinute: bigint;
}

export const REALM_TENANT_LIMITS_SIZE = 56;

export function readCoreTenantLimits(view: DataView, at: number): CoreTenantLimits {
  return {
    weight: view.getUint32(at + 0, true),
    concurrentRequests: view.getUint32(at + 4, true),
    queueLength: view.getUint32(at + 8, true),
    contextLength: view.getUint32(at + 12, true),
    kvTokens: view.getBigUint64(at + 16, true),
    tokensPerSecond: view.getBigUint64(at + 24, true),
    tokensPerMinute: view.getBigUint64(at + 32, true),
  };
}

export function writeCoreTenantLimits(view: DataView, at: number, value: CoreTenantLimits): void {
  view.setUint32(at + 0, value.weight, true);
  view.setUint32(at + 4, value.concurrentRequests, true);
  view.setUint32(at + 8, value.queueLength, true);
  view.setUint32(at + 12, value.contextLength, true);
  view.setBigUint64(at + 16, value.kvTokens, true);
  view.setBigUint64(at + 24, value.tokensPerSecond, true);
  view.setBigUint64(at + 32, value.tokensPerMinute, true);
}

export interface CoreTenantStats {
  contexts: bigint;
  sessions: bigint;
  running: bigint;
  queued: bigint;
  kvTokens: bigint;
  requests: bigint;
  tokensPrompt: bigint;
  tokensGenerated: bigint;
  waitedNs: bigint;
  retryAfterNs: bigint;
  refused: bigint;
}

export const REALM_TENANT_STATS_SIZE = 120;

export function readCoreTenantStats(view: DataView, at: number): CoreTenantStats {
  return {
    contexts: view.getBigUint64(at + 0, true),
    sessions: view.getBigUint64(at + 8, true),
    running: view.getBigUint64(at + 16, true),
    queued: view.getBigUint64(at + 24, true),
    kvTokens: view.getBigUint64(at + 32, true),
    requests: view.getBigUint64(at + 40, true),
    tokensPrompt: view.getBigUint64(at + 48, true),
    tokensGenerated: view.getBigUint64(at + 56, true),
    waitedNs: view.getBigUint64(at + 64, true),
    retryAfterNs: view.getBigUint64(at + 72, true),
    refused: view.getBigUint64(at + 80, true),
  };
}

export function writeCoreTenantStats(view: DataView, at: number, value: CoreTenantStats): void {
  view.setBigUint64(at + 0, value.contexts, true);
  view.setBigUint64(at + 8, value.sessions, true);
  view.setBigUint64(at + 16, value.running, true);
  view.setBigUint64(at + 24, value.queued, true);
  view.setBigUint64(at + 32, value.kvTokens, true);
  view.setBigUint64(at + 40, value.requests, true);
  view.setBigUint64(at + 48, value.tokensPrompt, true);
  view.setBigUint64(at + 56, value.tokensGenerated, true);
  view.setBigUint64(at + 64, value.waitedNs, true);
  view.setBigUint64(at + 72, value.retryAfterNs, true);
  view.setBigUint64(at + 80, value.refused, true);
}

export interface CoreSampling {
  temperature: number;
  topK: number;
  topP: number;
  minP: number;
  repetitionPenalty: number;
  frequencyPenalty: number;
  presencePenalty: number;
  penaltyWindow: number;
  seed: bigint;
  biasCount: number;
  ignoreEnd: number;
  biasIds: number;
  biasValues: number;
}

export const REALM_SAMPLING_SIZE = 56;

export function readCoreSampling(view: DataView, at: number): CoreSampling {
  return {
    temperature: view.getFloat32(at + 0, true),
    topK: view.getUint32(at + 4, true),
    topP: view.getFloat32(at + 8, true),
    minP: view.getFloat32(at + 12, true),
    repetitionPenalty: view.getFloat32(at + 16, true),
    frequencyPenalty: view.getFloat32(at + 20, true),
    presencePenalty: view.getFloat32(at + 24, true),
    penaltyWindow: view.getUint32(at + 28, true),
    seed: view.getBigUint64(at + 32, true),
    biasCount: view.getUint32(at + 40, true),
    ignoreEnd: view.getUint32(at + 44, true),
    biasIds: view.getUint32(at + 48, true),
    biasValues: view.getUint32(at + 52, true),
  };
}

export function writeCoreSampling(view: DataView, at: number, value: CoreSampling): void {
  view.setFloat32(at + 0, value.temperature, true);
  view.setUint32(at + 4, value.topK, true);
  view.setFloat32(at + 8, value.topP, true);
  view.setFloat32(at + 12, value.minP, true);
  view.setFloat32(at + 16, value.repetitionPenalty, true);
  view.setFloat32(at + 20, value.frequencyPenalty, true);
  view.setFloat32(at + 24, value.presencePenalty, true);
  view.setUint32(at + 28, value.penaltyWindow, true);
  view.setBigUint64(at + 32, value.seed, true);
  view.setUint32(at + 40, value.biasCount, true);
  view.setUint32(at + 44, value.ignoreEnd, true);
  view.setUint32(at + 48, value.biasIds, true);
  view.setUint32(at + 52, value.biasValues, true);
}

export interface CoreToken {
  id: number;
  isEnd: number;
  logprob: number;
}

export const REALM_TOKEN_SIZE = 12;

export function readCoreToken(view: DataView, at: number): CoreToken {
  return {
    id: view.getUint32(at + 0, true),
    isEnd: view.getUint32(at + 4, true),
    logprob: view.getFloat32(at + 8, true),
  };
}

export function writeCoreToken(view: DataView, at: number, value: CoreToken): void {
  view.setUint32(at + 0, value.id, true);
  view.setUint32(at + 4, value.isEnd, true);
  view.setFloat32(at + 8, value.logprob, true);
}

export interface CoreTicketWork {
  queuedNs: bigint;
  prefillNs: bigint;
  decodeNs: bigint;
  stepNs: bigint;
  steps: bigint;
  rows: bigint;
}

export const REALM_TICKET_WORK_SIZE = 64;

export function readCoreTicketWork(view: DataView, at: number): CoreTicketWork {
  return {
    queuedNs: view.getBigUint64(at + 0, true),
    prefillNs: view.getBigUint64(at + 8, true),
    decodeNs: view.getBigUint64(at + 16, true),
    stepNs: view.getBigUint64(at + 24, true),
    steps: view.getBigUint64(at + 32, true),
    rows: view.getBigUint64(at + 40, true),
  };
}

export function writeCoreTicketWork(view: DataView, at: number, value: CoreTicketWork): void {
  view.setBigUint64(at + 0, value.queuedNs, true);
  view.setBigUint64(at + 8, value.prefillNs, true);
  view.setBigUint64(at + 16, value.decodeNs, true);
  view.setBigUint64(at + 24, value.stepNs, true);
  view.setBigUint64(at + 32, value.steps, true);
  view.setBigUint64(at + 40, value.rows, true);
}

export interface CoreCacheStats {
  layers: bigint;
  bytes: bigint;
  limitBytes: bigint;
  hits: bigint;
  misses: bigint;
  evictions: bigint;
}

export const REALM_CACHE_STATS_SIZE = 48;

export function readCoreCacheStats(view: DataView, at: number): CoreCacheStats {
  return {
    layers: view.getBigUint64(at + 0, true),
    bytes: view.getBigUint64(at + 8, true),
    limitBytes: view.getBigUint64(at + 16, true),
    hits: view.getBigUint64(at + 24, true),
    misses: view.getBigUint64(at + 32, true),
    evictions: view.getBigUint64(at + 40, true),
  };
}

export function writeCoreCacheStats(view: DataView, at: number, value: CoreCacheStats): void {
  view.setBigUint64(at + 0, value.layers, true);
  view.setBigUint64(at + 8, value.bytes, true);
  view.setBigUint64(at + 16, value.limitBytes, true);
  view.setBigUint64(at + 24, value.hits, true);
  view.setBigUint64(at + 32, value.misses, true);
  view.setBigUint64(at + 40, value.evictions, true);
}
