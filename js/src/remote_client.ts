// Ports to an engine in a worker: what is asked of them becomes messages, and what the worker says is checked before it is believed.
//
// A cancelled call is over for its caller at once; the worker hears of it and its later words are dropped. When the worker dies,
// everything that still runs in it ends with the reason.

import type { ChatOptions, Message, Prompt } from './chat.js';
import { cancelled, checkSignal, RealmError } from './errors.js';
import { invalid } from './options.js';
import type { ResourceLimits } from './options.js';
import type { EngineStats, ModelInfo, TenantStats } from './platform.js';
import { NOTHING, type EnginePort, type Listener, type LoadOptions, type ModelInput, type ModelPort, type Transfer } from './port.js';
import type { Published, RealmPort, RealmPortOptions, RealmRequest, RunningRequest } from './port.js';
import {
  isBytes,
  isEnded,
  isFromWorker,
  isIds,
  isLogitRows,
  isMaybeText,
  isModelFacts,
  isNothing,
  isNumeric,
  isPrompt,
  isPublished,
  isStats,
  isTenantStats,
  isText,
  isTexts,
  receivedError,
  type Channel,
  type FromWorker,
  type ModelFacts,
} from './remote_messages.js';

/** What the owner of a worker hears. */
export interface EngineOwner {
  /** Whether calls are open: for as long a program should not end. */
  busy?(busy: boolean): void;
  /** The first realm or model came; the last one was closed. */
  used?(): void;
  unused?(): void;
  /** Nothing works any more. */
  gone?(problem: RealmError): void;
  /** What a text given to loadModel means to the worker. */
  address?(text: string): string;
}

/** A call that waits for its answer; these functions do not throw. */
interface Waiting {
  result(value: unknown): void;
  error(problem: RealmError): void;
  progress?(done: number): void;
  transfer?(state: Transfer): void;
  notice?(text: string): void;
  text?(piece: Uint8Array): void;
}

interface CallOptions {
  signal?: AbortSignal | undefined;
  progress?: ((done: number) => void) | undefined;
  transfer?: ((state: Transfer) => void) | undefined;
  notice?: ((text: string) => void) | undefined;
}

export class RemoteEngine implements EnginePort {
  readonly #waiting = new Map<number, Waiting>();
  #problem: RealmError | undefined;
  #serial = 0;
  #users = 0;

  constructor(
    private readonly channel: Channel,
    options: object,
    private readonly owner: EngineOwner = {},
  ) {
    channel.listen((message) => this.#receive(message), (problem) => this.end(problem));
    this.call('open', [options], isNothing).catch((problem: RealmError) => this.end(problem));
  }

  // ---- the engine's port ----

  realm(options: RealmPortOptions): RemoteRealm {
    return new RemoteRealm(this, options);
  }

  async load(source: ModelInput | undefined, options: LoadOptions): Promise<RemoteModel> {
    const { contextLength, kvType, download = {}, progress, transfer, notice, signal } = options;
    const id = this.number();
    const args = [id, source === undefined ? undefined : this.#sendable(source), { contextLength, kvType, download }];
    this.use(1);
    try {
      return new RemoteModel(this, id, await this.call('load', args, isModelFacts, { progress, transfer, notice, signal }));
    } catch (problem) {
      this.tell('closeModel', [id]);
      this.use(-1);
      throw problem;
    }
  }

  /** The worker's own handle on a model that this process has loaded. */
  find(model: ModelPort): RemoteModel {
    const id = this.number();
    this.use(1);
    this.tell('findModel', [id, model.key]);
    return new RemoteModel(this, id, model);
  }

  stats(): Promise<EngineStats> {
    return this.call('stats', [], isStats);
  }

  tenantStats(tenant: bigint): Promise<TenantStats> {
    return this.call('tenantStats', [tenant], isTenantStats);
  }

  /** Closes the worker: whatever runs in it ends with this. */
  end(problem: RealmError): void {
    if (this.#problem) return;
    this.#problem = problem;
    this.channel.close();
    const all = [...this.#waiting.values()];
    this.#waiting.clear();
    this.owner.gone?.(problem);
    for (const waiting of all) waiting.error(problem);
    if (all.length > 0) this.owner.busy?.(false);
  }

  #sendable(source: ModelInput): unknown {
    const address = this.owner.address ?? ((text: string) => text);
    if (source instanceof URL) return source.href;
    if (typeof source === 'string') return address(source);
    return Array.isArray(source) ? source.map((part) => this.#sendable(part as ModelInput)) : source;
  }

  // ---- for the ports on this engine ----

  number(): number {
    return ++this.#serial;
  }

  /** A realm or model more (1) or less (-1). */
  use(change: 1 | -1): void {
    this.#users += change;
    if (this.#users === 0) this.owner.unused?.();
    else if (this.#users === 1 && change === 1) this.owner.used?.();
  }

  /** A call that nobody waits for. */
  tell(method: string, args: readonly unknown[]): void {
    if (!this.#problem) this.#send({ kind: 'call', id: 0, method, args });
  }

  /** A call for its value, which must pass the check. */
  call<Value>(
    method: string,
    args: readonly unknown[],
    check: (value: unknown) => value is Value,
    { signal, ...told }: CallOptions = {},
  ): Promise<Value> {
    return new Promise((resolve, reject) => {
      checkSignal(signal);
      const over = new AbortController(); // takes the listener off the caller's signal
      const fail = (problem: unknown): void => (over.abort(), reject(problem));
      const id = this.submit(method, args, {
        result: (value) => (over.abort(), check(value) ? resolve(value) : reject(malformed())),
        error: fail,
        progress: (done) => tell(told.progress, done),
        transfer: (state) => tell(told.transfer, state),
        notice: (text) => tell(told.notice, text),
      });
      const tell = <Told>(callback: ((told: Told) => void) | undefined, what: Told): void => {
        try {
          callback?.(what);
        } catch (problem) {
          this.cancel(id, true);
          fail(problem); // the callback's own
        }
      };
      const abort = (): void => (this.cancel(id, true), fail(cancelled(signal?.reason)));
      signal?.addEventListener('abort', abort, { signal: over.signal });
    });
  }

  /** Sends a call and returns its number. */
  submit(method: string, args: readonly unknown[], waiting: Waiting): number {
    if (this.#problem) throw this.#problem;
    const id = this.number();
    this.#send({ kind: 'call', id, method, args });
    this.#waiting.set(id, waiting);
    if (this.#waiting.size === 1) this.owner.busy?.(true);
    return id;
  }

  /** Asks the worker to end a call; `forget`: its end is of no interest. */
  cancel(id: number, forget: boolean): void {
    if (!this.#waiting.has(id) || this.#problem) return;
    this.#send({ kind: 'cancel', id });
    if (forget) this.#settle(id);
  }

  took(id: number, size: number): void {
    if (this.#waiting.has(id) && !this.#problem) this.#send({ kind: 'took', id, size });
  }

  forget(id: number): void {
    this.#settle(id);
  }

  // ---- messages ----

  #send(message: Parameters<Channel['send']>[0]): void {
    try {
      this.channel.send(message);
    } catch (problem) {
      throw invalid(`this cannot be handed to a worker: ${(problem as Error).message}`);
    }
  }

  /** Data from the worker; what nobody waits for or what is malformed is dropped. */
  #receive(message: unknown): void {
    if (!isFromWorker(message)) return;
    const waiting = this.#waiting.get(message.id);
    if (!waiting) return;
    if (message.kind === 'progress') waiting.progress?.(message.done);
    else if (message.kind === 'transfer') waiting.transfer?.(message.state);
    else if (message.kind === 'notice') waiting.notice?.(message.text);
    else if (message.kind === 'text') waiting.text?.(message.piece);
    else this.#answered(message, waiting);
  }

  #answered(message: FromWorker & { kind: 'result' | 'error' }, waiting: Waiting): void {
    this.#settle(message.id);
    if (message.kind === 'result') waiting.result(message.value);
    else waiting.error(receivedError(message.code, message.message, message.facts));
  }

  #settle(id: number): void {
    if (this.#waiting.delete(id) && this.#waiting.size === 0) this.owner.busy?.(false);
  }
}

export class RemoteRealm implements RealmPort {
  readonly exports: Promise<readonly string[]>;
  readonly #id: number;
  readonly #textBytes: number;
  readonly #running = new Map<number, Listener>();
  #textHeld = 0;
  #closed = false;

  constructor(
    private readonly engine: RemoteEngine,
    { guest, tenant, limits }: RealmPortOptions,
  ) {
    this.#id = engine.number();
    this.#textBytes = limits.textBytes;
    this.exports = engine.call('realm', [this.#id, guest, tenant, limits], isTexts);
    this.exports.catch(() => undefined); // whoever uses the realm hears of it too
    engine.use(1);
  }

  start(request: RealmRequest, model: ModelPort | undefined, listener: Listener): RunningRequest {
    this.#checkOpen();
    const args = [this.#id, model && this.engineModel(model), request, listener.patient === true];
    let held = 0;
    const release = (): void => {
      this.#running.delete(id);
      this.#textHeld -= held;
      held = 0;
    };
    const end = (problem: RealmError): void => (release(), listener.end({ ...NOTHING, problem }));
    const id: number = this.engine.submit('start', args, {
      result: (value) => {
        if (!isEnded(value)) return end(malformed());
        release();
        listener.end(value);
      },
      error: end,
      text: (piece) => {
        held += piece.length;
        this.#textHeld += piece.length;
        if (this.#textHeld > this.#textBytes) this.engine.end(malformed());
        else listener.text(piece);
      },
    });
    this.#running.set(id, listener);
    const took = (size: number): void => {
      held -= size;
      this.#textHeld -= size;
      this.engine.took(id, size);
    };
    return { cancel: () => this.engine.cancel(id, false), took };
  }

  async call(name: string, values: readonly (number | bigint)[]): Promise<unknown> {
    this.#checkOpen();
    return this.engine.call('callExport', [this.#id, name, values], isNumeric);
  }

  async setLimits(limits: Required<ResourceLimits>): Promise<void> {
    this.#checkOpen();
    await this.engine.call('setLimits', [this.#id, limits], isNothing);
  }

  revoke(model: ModelPort): void {
    this.engine.tell('revoke', [this.#id, this.engineModel(model)]);
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.engine.tell('closeRealm', [this.#id]);
    const problem = new RealmError('closed', 'the realm was closed during the request');
    for (const [id, listener] of [...this.#running]) {
      this.engine.forget(id);
      listener.end({ ...NOTHING, problem });
    }
    this.#running.clear();
    this.engine.use(-1);
  }

  #checkOpen(): void {
    if (this.#closed) throw new RealmError('closed', 'this realm was closed; make a new one');
  }

  private engineModel(model: ModelPort): number {
    if (model instanceof RemoteModel && model.engine === this.engine) return model.id;
    throw new RealmError('invalid-handle', 'this model belongs to another engine; load it with this realm');
  }
}

export class RemoteModel implements ModelPort {
  readonly name: string;
  readonly key: string;
  readonly info: ModelInfo;
  readonly chatTemplate: string | null;
  #closed = false;

  constructor(
    readonly engine: RemoteEngine,
    readonly id: number,
    private readonly facts: ModelFacts,
  ) {
    ({ name: this.name, key: this.key, info: this.info, chatTemplate: this.chatTemplate } = facts);
  }

  encode(text: Uint8Array, addSpecial: boolean, parseSpecial: boolean): Promise<Uint32Array> {
    return this.engine.call('encode', [this.id, text, addSpecial, parseSpecial], isIds);
  }

  decode(ids: Uint32Array, special: boolean, textStart: boolean): Promise<Uint8Array> {
    return this.engine.call('decode', [this.id, ids, special, textStart], isBytes);
  }

  describe(): Promise<string> {
    return this.engine.call('describe', [this.id], isText);
  }

  string(key: string): Promise<string | undefined> {
    return this.engine.call('string', [this.id, key], isMaybeText);
  }

  async logits(ids: Uint32Array, signal: AbortSignal | undefined): Promise<Float32Array[]> {
    const { values, rows } = await this.engine.call('logits', [this.id, ids], isLogitRows, { signal });
    const width = values.length / rows;
    return Array.from({ length: rows }, (_, row) => values.subarray(row * width, (row + 1) * width));
  }

  renderChat(messages: readonly Message[], options: ChatOptions): Promise<Prompt> {
    return this.engine.call('renderChat', [this.id, messages, options], isPrompt);
  }

  publish(ids: Uint32Array): Promise<Published> {
    return this.engine.call('publish', [this.id, ids], isPublished);
  }

  async unpublish(prefix: number): Promise<void> {
    await this.engine.call('unpublish', [this.id, prefix], isNothing);
  }

  share(): RemoteModel {
    const id = this.engine.number();
    this.engine.tell('shareModel', [id, this.id]);
    this.engine.use(1);
    return new RemoteModel(this.engine, id, this.facts);
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.engine.tell('closeModel', [this.id]);
    this.engine.use(-1);
  }
}

function malformed(): RealmError {
  return new RealmError('internal', 'the worker sent a malformed answer');
}
