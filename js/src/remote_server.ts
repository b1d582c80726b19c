// The worker's side of remote_client.ts: calls become calls of the ports in this thread, their ends become messages.
//
// Nothing is believed of a message: what is no message of the protocol is dropped, and an argument of the wrong kind is the error of
// its call. Calls come in order; those that come while the engine opens wait for it.

import type { ChatOptions, Message } from './chat.js';
import { cancelled, RealmError } from './errors.js';
import { LocalRealm, type LocalEngine, type LocalModel } from './local.js';
import { checkLimits, checkTold, checkUrgency, invalid, KV_TYPES, type CheckedEngineOptions, type KvType } from './options.js';
import type { Ended, ModelInput, RealmRequest, RunningRequest } from './port.js';
import { errorMessage, isBytes, isCount, isIds, isNumber, isNumeric, isRecord, isText, isToWorker } from './remote_messages.js';
import type { Channel, LogitRows, ModelFacts, ToWorker } from './remote_messages.js';

/** Makes the engine of the options that the first call carries. */
export type OpenEngine = (options: CheckedEngineOptions) => LocalEngine | Promise<LocalEngine>;

/** Serves one caller for as long as the thread lives. */
export function serve(channel: Channel, open: OpenEngine): void {
  const server = new Server(channel, open);
  channel.listen((message) => server.receive(message), () => undefined);
}

/** A call that runs. */
class Call {
  readonly stop = new AbortController();
  running: RunningRequest | undefined;

  constructor(readonly id: number) {}

  cancel(): void {
    this.stop.abort();
    this.running?.cancel();
  }
}

type Arguments = readonly unknown[];
type Method = (args: Arguments, call: Call) => unknown;

class Server {
  readonly #calls = new Map<number, Call>();
  readonly #realms = new Map<number, LocalRealm | RealmError>(); // an error: why the guest was refused
  readonly #models = new Map<number, LocalModel>();
  #engine: LocalEngine | undefined;
  #problem: unknown; // why it could not be opened
  #early: ToWorker[] | undefined; // what came while the engine opened

  constructor(
    private readonly channel: Channel,
    private readonly open: OpenEngine,
  ) {}

  receive(message: unknown): void {
    if (!isToWorker(message)) return;
    if (this.#early) this.#early.push(message);
    else if (message.kind === 'call') void this.#run(message);
    else if (message.kind === 'cancel') this.#calls.get(message.id)?.cancel();
    else this.#calls.get(message.id)?.running?.took(message.size);
  }

  async #run({ id, method, args }: ToWorker & { kind: 'call' }): Promise<void> {
    const call = new Call(id);
    if (id) this.#calls.set(id, call);
    try {
      const found = Object.hasOwn(this.#methods, method) ? this.#methods[method] : undefined;
      if (!found) throw new RealmError('unsupported', `the worker knows no call ${method}`);
      const made = found(args, call);
      const value = made instanceof Promise ? ((await made) as unknown) : made;
      if (id) this.channel.send({ kind: 'result', id, value });
    } catch (problem) {
      if (id) this.channel.send(errorMessage(id, problem));
    } finally {
      this.#calls.delete(id);
    }
  }

  // ---- the calls ----

  readonly #methods: Record<string, Method> = {
    open: ([options]) => this.#open(options as CheckedEngineOptions),
    stats: () => this.#opened().stats(),
    tenantStats: ([tenant]) => this.#opened().tenantStats(tenantId(tenant)),

    load: ([id, source, options], call) => this.#load(count(id), source as ModelInput | undefined, record(options), call),
    findModel: ([id, key]) => void this.#models.set(count(id), this.#opened().find(text(key))),
    shareModel: ([id, from]) => void this.#models.set(count(id), this.#model(from).share()),
    closeModel: ([id]) => {
      this.#models.get(count(id))?.close();
      this.#models.delete(count(id));
    },

    encode: ([id, data, addSpecial, parseSpecial]) => this.#model(id).encode(bytes(data), addSpecial === true, parseSpecial === true),
    decode: ([id, ids, special, start]) => this.#model(id).decode(tokens(ids), special === true, start === true),
    describe: ([id]) => this.#model(id).describe(),
    string: ([id, key]) => this.#model(id).string(text(key)),
    renderChat: ([id, messages, options]) => this.#model(id).renderChat(messages as Message[], record(options) as ChatOptions),
    logits: ([id, ids], call) => this.#logits(this.#model(id), tokens(ids), call),

    realm: ([id, guest, tenant, limits]) => this.#makeRealm(count(id), guest, tenant, record(limits)),
    closeRealm: ([id]) => {
      const realm = this.#realms.get(count(id));
      if (realm instanceof LocalRealm) realm.close();
      this.#realms.delete(count(id));
    },
    publish: ([id, ids]) => this.#model(id).publish(tokens(ids)),
    unpublish: ([id, prefix]) => this.#model(id).unpublish(count(prefix)),
    setLimits: ([id, limits]) => this.#realm(id).setLimits(checkLimits(record(limits))),
    revoke: ([id, model]) => this.#realm(id).revoke(this.#model(model)),
    callExport: ([id, name, values]) => this.#callExport(this.#realm(id), text(name), values),
    start: ([id, model, request, patient], call) => this.#start(this.#realm(id), model, record(request), patient === true, call),
  };

  async #open(options: CheckedEngineOptions): Promise<void> {
    if (this.#engine) throw invalid('the engine was opened already');
    this.#early = [];
    try {
      this.#engine = await this.open(options);
    } catch (problem) {
      this.#problem = problem;
      throw problem;
    } finally {
      const early = this.#early;
      this.#early = undefined;
      for (const message of early) this.receive(message);
    }
  }

  async #load(id: number, source: ModelInput | undefined, options: Record<string, unknown>, call: Call): Promise<ModelFacts> {
    const { contextLength, kvType, download = {} } = options;
    if (!Object.hasOwn(KV_TYPES, String(kvType))) throw invalid('there is no such type of keys and values');
    const model = await this.#opened().load(source, {
      contextLength: count(contextLength),
      kvType: kvType as KvType,
      progress: (done) => this.channel.send({ kind: 'progress', id: call.id, done }),
      transfer: (state) => this.channel.send({ kind: 'transfer', id: call.id, state }),
      notice: (text) => this.channel.send({ kind: 'notice', id: call.id, text }),
      signal: call.stop.signal,
      download: record(download),
    });
    if (call.stop.signal.aborted) {
      model.close();
      throw cancelled();
    }
    this.#models.set(id, model);
    const { name, key, info, chatTemplate } = model;
    return { name, key, info: { ...info }, chatTemplate };
  }

  async #logits(model: LocalModel, ids: Uint32Array, call: Call): Promise<LogitRows> {
    const all = await model.logits(ids, call.stop.signal);
    const width = all[0]?.length ?? 0;
    const values = new Float32Array(width * all.length);
    all.forEach((row, index) => values.set(row, index * width));
    return { values, rows: all.length };
  }

  #makeRealm(id: number, guest: unknown, tenant: unknown, limits: Record<string, unknown>): Promise<readonly string[]> {
    const own = guest === undefined ? undefined : bytes(guest);
    try {
      const realm = this.#opened().realm({ guest: own, tenant: tenantId(tenant), limits: checkLimits(limits) });
      this.#realms.set(id, realm);
      return realm.exports;
    } catch (problem) {
      if (problem instanceof RealmError) this.#realms.set(id, problem);
      throw problem;
    }
  }

  async #callExport(realm: LocalRealm, name: string, values: unknown): Promise<unknown> {
    if (!Array.isArray(values) || !isNumeric(values)) throw invalid('an export of a guest takes numbers');
    const value = await realm.call(name, values as number[]);
    if (!isNumeric(value)) throw new RealmError('guest-invalid', `the export ${name} returned something other than numbers`);
    return value;
  }

  #start(
    realm: LocalRealm,
    model: unknown,
    request: Record<string, unknown>,
    patient: boolean,
    call: Call,
  ): Promise<Ended> {
    const { priority, deadline } = record(request['urgency']);
    const urgency = checkUrgency({ priority: count(priority), deadline: deadline === 0 ? undefined : number(deadline) });
    const { logprobs, topLogprobs } = record(request['told']);
    const told = checkTold({ logprobs: logprobs === true, topLogprobs: count(topLogprobs) });
    return new Promise((resolve, reject) => {
      const { id } = call;
      call.running = realm.start({ ...request, urgency, told } as RealmRequest, model === undefined ? undefined : this.#model(model), {
        patient,
        text: (piece) => this.channel.send({ kind: 'text', id, piece }, [piece.buffer as ArrayBuffer]),
        end: ({ problem, ...ended }) => (problem ? reject(problem) : resolve(ended)),
      });
    });
  }

  // ---- what calls name ----

  #opened(): LocalEngine {
    if (this.#engine) return this.#engine;
    throw this.#problem ?? new RealmError('closed', 'the engine is not open');
  }

  #realm(id: unknown): LocalRealm {
    const realm = this.#realms.get(count(id));
    if (realm instanceof LocalRealm) return realm;
    throw realm ?? new RealmError('closed', 'there is no such realm in the worker');
  }

  #model(id: unknown): LocalModel {
    const model = this.#models.get(count(id));
    if (!model) throw new RealmError('closed', 'this model was closed; load it again');
    return model;
  }
}

// ---- arguments ----

function checked<Value>(value: unknown, check: (value: unknown) => value is Value, what: string): Value {
  if (!check(value)) throw invalid(`a call to the worker needs ${what} here`);
  return value;
}

const number = (value: unknown): number => checked(value, isNumber, 'a number');
const count = (value: unknown): number => checked(value, isCount, 'a number');
const text = (value: unknown): string => checked(value, isText, 'a text');
const bytes = (value: unknown): Uint8Array => checked(value, isBytes, 'bytes');
const tokens = (value: unknown): Uint32Array => checked(value, isIds, 'token ids');
const record = (value: unknown): Record<string, unknown> => checked(value, isRecord, 'an object');

function tenantId(value: unknown): bigint {
  if (typeof value !== 'bigint') throw invalid('a tenant must be a bigint');
  return value;
}
