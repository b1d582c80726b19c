// The host side of one realm on core.wasm: each import of the guest is a function of realm.h.
//
// These run for every token. A failed status becomes the code that the guest sees; nothing else throws but for a full memory.

import { BIAS_SIZE, InterfaceError, TICKET_STATES, TOKEN_SIZE, readToken } from '../_generated/abi.js';
import type { CacheInfo, ErrorCode, ModelProperties, Packed, Sampling, TicketState, Token } from '../_generated/abi.js';
import * as layout from '../_generated/core.js';
import { workOf, type Work } from '../drawn.js';
import { RealmError } from '../errors.js';
import { asResult, codeOf, GrantedModels, limitError, meetsLimit } from '../host_results.js';
import { limitsTenant, type ResourceLimits, type Urgency } from '../options.js';
import type { ContextHost, ModelHost } from '../platform.js';
import type { Core, Exports } from './core.js';
import type { WasmModel } from './model.js';

const SESSION = { kvType: layout.REALM_KV_MODEL, contextLength: 0, noPrefix: 0, priority: 0, deadlineNs: 0n };

/** What a context needs of its engine. */
export interface ContextOwner {
  readonly core: Core;
  readonly runtime: number;
  /** There may be something to compute. */
  work(): void;
  left(serial: number): void;
}

/** Where forwardLogits writes until its ticket has ended. */
interface LogitsRoom {
  address: number;
  count: number;
}

export class WasmContext implements ContextHost {
  readonly #core: Core;
  readonly #exports: Exports;
  readonly #models = new GrantedModels();
  readonly #rooms = new Map<number, LogitsRoom>(); // by ticket
  #address = 0;
  #refusal: RealmError | undefined;

  constructor(
    private readonly owner: ContextOwner,
    private readonly serial: number,
    private readonly tenant: bigint,
    limits: Required<ResourceLimits>,
  ) {
    const core = (this.#core = owner.core).begin();
    this.#exports = core.exports;
    if (limitsTenant(limits)) this.#limitTenant(limits);
    const at = this.#putLimits(limits);
    const status = this.#exports.realm_context_create(owner.runtime, BigInt(serial), tenant, at, core.out, core.error);
    core.check(status);
    this.#address = core.result;
  }

  /** The work of a running step is dropped when the step ends. Another's request may have waited for the place. */
  close(): void {
    if (this.#address === 0) return;
    this.#exports.realm_context_destroy(this.#address);
    this.#address = 0;
    for (const ticket of [...this.#rooms.keys()]) this.#dropRoom(ticket);
    this.#models.clear();
    this.owner.left(this.serial);
    this.owner.work();
  }

  #putLimits({ sessions, tickets, tensorBytes }: Required<ResourceLimits>): number {
    const at = this.#core.begin().room(layout.REALM_LIMITS_SIZE);
    const own = { sessions, tickets, kvTokens: 0n, tensorBytes: BigInt(tensorBytes) };
    layout.writeCoreLimits(this.#core.view, at, own);
    return at;
  }

  #limitTenant(limits: Required<ResourceLimits>): void {
    const { weight, concurrentRequests, queueLength, contextLength } = limits;
    const core = this.#core.begin();
    const at = core.room(layout.REALM_TENANT_LIMITS_SIZE);
    layout.writeCoreTenantLimits(core.view, at, {
      weight,
      concurrentRequests,
      queueLength,
      contextLength,
      kvTokens: BigInt(limits.kvTokens),
      tokensPerSecond: BigInt(limits.tokensPerSecond),
      tokensPerMinute: BigInt(limits.tokensPerMinute),
    });
    core.check(this.#exports.realm_tenant_set_limits(this.owner.runtime, this.tenant, at, core.error));
  }

  setLimits(limits: Required<ResourceLimits>): void {
    this.#exports.realm_context_set_limits(this.#open, this.#putLimits(limits));
    this.#limitTenant(limits);
    this.owner.work();
  }

  refusal(): RealmError | undefined {
    const refusal = this.#refusal;
    this.#refusal = undefined;
    return refusal;
  }

  /** Keeps what the core says about a limit: the guest is told a code only. */
  #remember(status: number): void {
    if (status === 0 || !meetsLimit(codeOf(status))) return;
    const said = layout.readCoreError(this.#core.view, this.#core.error);
    if (said.code !== status) return;
    const name = this.#core.text(this.#exports.realm_limit_name(said.limit));
    this.#refusal = limitError(codeOf(status), said.message, name, Number(said.limitValue), Number(said.retryAfterNs));
  }

  /** The context's address; calls on a closed one fail. */
  get #open(): number {
    if (this.#address === 0) throw new InterfaceError('closed');
    return this.#address;
  }

  /** The handle or number that a call wrote. */
  #made(status: number): number {
    if (status !== 0) throw new InterfaceError(codeOf(status));
    return this.#core.result;
  }

  #submitted(status: number): number {
    this.#remember(status);
    const ticket = this.#made(status);
    this.owner.work();
    return ticket;
  }

  // ---- models ----

  grant(model: ModelHost): number {
    const context = this.#address;
    if (context === 0) throw new RealmError('closed', 'this realm was closed');
    return this.#models.add(model as WasmModel, (shared) => {
      const status = this.#exports.realm_context_grant(context, shared.address, this.#core.out, this.#core.error);
      this.#core.check(status);
      return this.#core.result;
    });
  }

  revoke(model: number): void {
    if (this.#address !== 0) this.#exports.realm_context_revoke(this.#address, model, 0);
    this.#models.remove(model);
  }

  openTickets(): number {
    return this.#address === 0 ? 0 : this.#exports.realm_context_open_tickets(this.#address);
  }

  modelInfo(model: number): ModelProperties {
    return this.#models.modelInfo(model);
  }

  encode(model: number, text: Uint8Array, addSpecial: boolean, parseSpecial: boolean): Uint32Array {
    return this.#models.encode(model, text, addSpecial, parseSpecial);
  }

  decode(model: number, tokens: Uint32Array, special: boolean, textStart: boolean): Uint8Array {
    return this.#models.decode(model, tokens, special, textStart);
  }

  // ---- sessions ----

  sessionOpen(model: number, { priority, deadline }: Urgency = { priority: 0, deadline: 0 }): number {
    return this.#openSession(model, { priority, deadlineNs: BigInt(Math.ceil(deadline * 1e9)) });
  }

  sessionOpenExact(model: number): number {
    return this.#openSession(model, { kvType: layout.REALM_KV_F32, noPrefix: 1 });
  }

  sessionOpenPrivate(model: number): number {
    return this.#openSession(model, { noPrefix: 1 });
  }

  publish(session: number): { prefix: number; tokens: number } {
    const { out } = this.#core;
    const prefix = this.#made(this.#exports.realm_prefix_publish(this.#open, session, out, out + 4, 0));
    return { prefix, tokens: this.#core.view.getUint32(out + 4, true) };
  }

  #openSession(model: number, own: Partial<layout.CoreSessionOptions>): number {
    const context = this.#open;
    const options = this.#guarded(() => this.#core.begin().room(layout.REALM_SESSION_OPTIONS_SIZE));
    layout.writeCoreSessionOptions(this.#core.view, options, { ...SESSION, ...own });
    const { out, error } = this.#core;
    const status = this.#exports.realm_session_open(context, model, options, out, error);
    this.#remember(status);
    return this.#made(status);
  }

  /** A request that waited for its place begins. */
  sessionClose(session: number): void {
    if (this.#address === 0) return;
    this.#exports.realm_session_close(this.#address, session, 0);
    this.owner.work();
  }

  sessionPosition(session: number): number {
    return this.#made(this.#exports.realm_session_position(this.#open, session, this.#core.out, 0));
  }

  sessionRewind(session: number, position: number): number {
    this.#made(this.#exports.realm_session_rewind(this.#open, session, position, 0));
    return position;
  }

  // ---- work ----

  forward(session: number, tokens: Uint32Array): number {
    const context = this.#open;
    const at = this.#put(tokens);
    const { out, error } = this.#core;
    return this.#submitted(this.#exports.realm_forward(context, session, at, tokens.length, out, error));
  }

  forwardLayers(session: number, first: number, count: number, tokens: Uint32Array): number {
    const context = this.#open;
    const [at, size] = [this.#put(tokens), tokens.length];
    const { out, error } = this.#core;
    return this.#submitted(this.#exports.realm_forward_layers(context, session, first, count, at, size, out, error));
  }

  score(session: number, tokens: Uint32Array): number {
    const context = this.#open;
    const at = this.#put(tokens);
    const { out, error } = this.#core;
    return this.#submitted(this.#exports.realm_score(context, session, at, tokens.length, out, error));
  }

  forwardLogits(model: number, session: number, tokens: Uint32Array): number {
    const context = this.#open;
    const room = this.#makeRoom(tokens.length * this.#models.get(model).info.vocabSize);
    try {
      const [at, size, out] = [this.#put(tokens), tokens.length, this.#core.out];
      const status = this.#exports.realm_forward_logits(context, session, at, size, room.address, out, this.#core.error);
      const ticket = this.#submitted(status);
      this.#rooms.set(ticket, room);
      return ticket;
    } catch (problem) {
      this.#exports.realm_pages_free(room.address, BigInt(room.count * 4));
      throw problem;
    }
  }

  sample(session: number, params: Sampling, biases: Packed): Token {
    const context = this.#open;
    const at = this.#putSampling(params, biases);
    const out = this.#core.out;
    this.#made(this.#exports.realm_sample(context, session, at, out, 0));
    return readToken(this.#core.view, out);
  }

  generate(session: number, tokens: Uint32Array, params: Sampling, biases: Packed, maxTokens: number): number {
    const context = this.#open;
    const sampling = this.#putSampling(params, biases);
    const [at, size, out] = [this.#guarded(() => this.#core.put(tokens)), tokens.length, this.#core.out];
    const { error } = this.#core;
    return this.#submitted(this.#exports.realm_generate(context, session, at, size, sampling, maxTokens, out, error));
  }

  #put(data: ArrayBufferView): number {
    return this.#guarded(() => this.#core.begin().put(data));
  }

  /** A full memory is an error that the guest may handle. */
  #guarded<Value>(action: () => Value): Value {
    return asResult(action);
  }

  /** The biases as the two arrays of realm_sampling, and the record. */
  #putSampling(params: Sampling, biases: Packed): number {
    return this.#guarded(() => {
      const core = this.#core.begin();
      const count = Math.floor(biases.length / BIAS_SIZE);
      const ids = core.room(count * 4);
      const values = core.room(count * 4);
      const at = core.room(layout.REALM_SAMPLING_SIZE);
      const from = new DataView(biases.buffer, biases.byteOffset, biases.byteLength);
      const view = core.view;
      for (let i = 0; i < count; i++) {
        view.setUint32(ids + 4 * i, from.getUint32(i * BIAS_SIZE, true), true);
        view.setFloat32(values + 4 * i, from.getFloat32(i * BIAS_SIZE + 4, true), true);
      }
      const { ignoreEnd, ...rest } = params;
      const lists = { biasCount: count, biasIds: ids, biasValues: values };
      layout.writeCoreSampling(view, at, { ...rest, ...lists, ignoreEnd: ignoreEnd ? 1 : 0 });
      return at;
    });
  }

  #makeRoom(count: number): LogitsRoom {
    const address = this.#exports.realm_pages_alloc(BigInt(count * 4)) >>> 0;
    if (address === 0) throw new InterfaceError('out-of-memory');
    return { address, count };
  }

  #dropRoom(ticket: number): void {
    const room = this.#rooms.get(ticket)!;
    this.#rooms.delete(ticket);
    this.#exports.realm_pages_free(room.address, BigInt(room.count * 4));
  }

  // ---- tickets ----

  /** A handle that is no ticket has failed. */
  ticketReady(ticket: number): TicketState {
    if (this.#address === 0) return 'failed';
    const status = this.#exports.realm_ticket_get_state(this.#address, ticket, this.#core.out, 0);
    return status === 0 ? (TICKET_STATES[this.#core.result] ?? 'failed') : 'failed';
  }

  ticketError(ticket: number): ErrorCode {
    const status = this.#exports.realm_ticket_error(this.#open, ticket, this.#core.error);
    this.#remember(status);
    return status === 0 ? 'invalid-argument' : codeOf(status); // asked although nothing failed
  }

  /** realm_token has the layout of the record token; a test compares them. */
  ticketTokens(ticket: number): Packed {
    const context = this.#open;
    const { begin, out } = { begin: this.#core.begin(), out: this.#core.out };
    const count = this.#made(this.#exports.realm_ticket_tokens(context, ticket, 0, 0, out, 0));
    const at = begin.room(count * TOKEN_SIZE);
    this.#made(this.#exports.realm_ticket_tokens(context, ticket, at, count, out, 0));
    return this.#core.copyBytes(at, count * TOKEN_SIZE);
  }

  ticketScores(ticket: number): Float32Array {
    const context = this.#open;
    const count = this.#made(this.#exports.realm_ticket_scores(context, ticket, 0, 0, this.#core.out, 0));
    const at = this.#guarded(() => this.#core.begin().room(count * 4));
    this.#made(this.#exports.realm_ticket_scores(context, ticket, at, count, this.#core.out, 0));
    return this.#core.copyFloats(at, count);
  }

  ticketLogits(ticket: number): Float32Array {
    const room = this.#rooms.get(ticket);
    if (!room) throw new InterfaceError('invalid-handle');
    if (this.ticketReady(ticket) === 'pending') throw new InterfaceError('busy');
    const values = this.#core.copyFloats(room.address, room.count);
    this.#dropRoom(ticket);
    return values;
  }

  likeliest(session: number, count: number): Packed {
    const context = this.#open;
    const at = this.#guarded(() => this.#core.begin().room(count * TOKEN_SIZE));
    this.#made(this.#exports.realm_likeliest(context, session, at, count, 0));
    return this.#core.copyBytes(at, count * TOKEN_SIZE);
  }

  ticketWork(ticket: number): Work | undefined {
    if (this.#address === 0) return undefined;
    const at = this.#guarded(() => this.#core.begin().room(layout.REALM_TICKET_WORK_SIZE));
    if (this.#exports.realm_ticket_get_work(this.#address, ticket, at, 0) !== 0) return undefined;
    const { queuedNs, prefillNs, decodeNs, stepNs, steps, rows } = layout.readCoreTicketWork(this.#core.view, at);
    return workOf(queuedNs, prefillNs, decodeNs, stepNs, steps, rows);
  }

  ticketTensor(ticket: number): number {
    return this.#made(this.#exports.realm_ticket_tensor(this.#open, ticket, this.#core.out, 0));
  }

  /** Its event has to be handed out, though nothing is left to compute. */
  ticketCancel(ticket: number): void {
    if (this.#address === 0) return;
    this.#exports.realm_ticket_cancel(this.#address, ticket, 0);
    this.owner.work();
  }

  ticketDrop(ticket: number): void {
    if (this.#address !== 0) this.#exports.realm_ticket_drop(this.#address, ticket, 0);
  }

  // ---- tensors and the layer store ----

  tensorCreate(rows: number, cols: number, data: Float32Array): number {
    const context = this.#open;
    if (data.length !== 0 && data.length !== rows * cols) throw new InterfaceError('invalid-argument');
    const at = data.length === 0 ? 0 : this.#put(data);
    return this.#made(this.#exports.realm_tensor_create(context, rows, cols, at, this.#core.out, 0));
  }

  tensorWeight(model: number, name: string): number {
    const context = this.#open;
    const text = new TextEncoder().encode(name);
    const at = this.#put(text);
    return this.#made(this.#exports.realm_tensor_weight(context, model, at, text.length, this.#core.out, 0));
  }

  tensorRead(tensor: number): Float32Array {
    const context = this.#open;
    const { out } = this.#core;
    const rows = this.#made(this.#exports.realm_tensor_shape(context, tensor, out, out + 4, 0));
    const count = rows * this.#core.view.getUint32(out + 4, true);
    const at = this.#guarded(() => this.#core.begin().room(count * 4));
    this.#made(this.#exports.realm_tensor_read(context, tensor, at, count, out, 0));
    return this.#core.copyFloats(at, count);
  }

  tensorDrop(tensor: number): void {
    if (this.#address !== 0) this.#exports.realm_tensor_drop(this.#address, tensor, 0);
  }

  matmul(a: number, b: number): number {
    return this.#submitted(this.#exports.realm_matmul(this.#open, a, b, this.#core.out, 0));
  }

  matmulTransposed(a: number, b: number): number {
    return this.#submitted(this.#exports.realm_matmul_transposed(this.#open, a, b, this.#core.out, 0));
  }

  storeLayer(address: bigint, tensor: number): number {
    this.#made(this.#exports.realm_store_layer(this.#open, address, tensor, 0));
    return tensor;
  }

  loadLayer(address: bigint): number {
    return this.#submitted(this.#exports.realm_load_layer(this.#open, address, this.#core.out, 0));
  }

  cacheStats(): CacheInfo {
    const at = this.#core.begin().room(layout.REALM_CACHE_STATS_SIZE);
    if (this.#address !== 0) this.#exports.realm_get_cache_stats(this.#address, at, 0);
    return layout.readCoreCacheStats(this.#core.view, at);
  }
}
