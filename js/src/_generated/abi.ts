// Generated from guest_src/realm.wit by realm_build gen; do not edit.
// The interface between host and guest by the canonical ABI; docs/interface.md describes it.

export const PACKAGE = 'realm:orchestrator@0.1.0';
export const IMPORT_MODULE = 'realm:orchestrator/host@0.1.0';
export const EXPORT_MODULE = 'realm:orchestrator/guest@0.1.0';

/** The guest broke the canonical ABI: an address outside its memory, a value that does not exist. */
export class AbiError extends Error {}

/** The error of a result, in either direction. */
export class InterfaceError extends Error {
  constructor(readonly code: ErrorCode) {
    super(code);
  }
}

/** The memory of one instance. */
export interface GuestMemory {
  /** All of it as it is now: any call into the guest may move it. */
  view(): DataView;
  /** The guest's cabi_realloc for new memory: its address. */
  allocate(size: number, align: number): number;
}

/** Records one after the other, in the layout they have in the guest's memory. */
export type Packed = Uint8Array;

/** Checks that `count` items of `size` bytes at the address are aligned and inside the memory. */
export function span(view: DataView, address: number, count: number, size: number, align: number): void {
  if (address % align !== 0 || address + count * size > view.byteLength) {
    const items = `${count} items of ${size} bytes`;
    throw new AbiError(`${items} at address ${address} are not inside the memory`);
  }
}

function readBytes(view: DataView, address: number, count: number, size = 1, align = 1): Uint8Array {
  span(view, address, count, size, align);
  return new Uint8Array(view.buffer, address, count * size);
}

function readUint32Array(view: DataView, address: number, count: number): Uint32Array {
  span(view, address, count, 4, 4);
  return new Uint32Array(view.buffer, address, count);
}

function readFloat32Array(view: DataView, address: number, count: number): Float32Array {
  span(view, address, count, 4, 4);
  return new Float32Array(view.buffer, address, count);
}

const decoder = new TextDecoder();

/** Puts the bytes of a list into the guest: its address. */
function writeList(memory: GuestMemory, data: ArrayBufferView, align: number): number {
  if (data.byteLength === 0) return align;
  const address = memory.allocate(data.byteLength, align);
  const view = memory.view();
  span(view, address, data.byteLength, 1, 1);
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  new Uint8Array(view.buffer, address, data.byteLength).set(bytes);
  return address;
}

/** Writes the error case of a result whose payload stands at `offset`; any other exception is a trap. */
function writeError(memory: GuestMemory, address: number, offset: number, error: unknown): void {
  if (!(error instanceof InterfaceError)) throw error;
  const view = memory.view();
  span(view, address, 1, offset + 1, 1);
  view.setUint8(address, 1);
  view.setUint8(address + offset, ERROR_CODES.indexOf(error.code));
}

function named<Name extends string>(names: readonly Name[], value: number): Name {
  const name = names[value];
  if (name === undefined) throw new AbiError(`there is no value ${value} among ${names.join(', ')}`);
  return name;
}

/** Stable codes of every failure, the same in every host. In C: REALM_E_<NAME> = index + 1, REALM_OK = 0. */
export const ERROR_CODES = [
  /** A value is outside its allowed range. */
  'invalid-argument',
  /** A handle that was never given to this realm, or is closed. */
  'invalid-handle',
  /** Memory could not be allocated. */
  'out-of-memory',
  /** The file does not exist. */
  'not-found',
  /** The file exists but cannot be read or mapped. */
  'io',
  /** The bytes are not a well-formed GGUF file. */
  'invalid-gguf',
  /** A GGUF version other than 2 and 3, or a byte order this build cannot read. */
  'unsupported-gguf',
  /** A tensor of a block type the core cannot compute with. */
  'unsupported-tensor-type',
  /** An architecture no plan is known for. */
  'unsupported-architecture',
  /** A tokenizer or pre-tokenizer the core does not know. */
  'unsupported-tokenizer',
  /** Metadata and tensors do not fit each other. */
  'invalid-model',
  /** The tokenizer's metadata is inconsistent. */
  'invalid-tokenizer',
  /** The file holds only a vocabulary. */
  'no-weights',
  /** The session's context length is used up. */
  'context-full',
  /** A limit of the realm or of the runtime would be exceeded. */
  'limit-exceeded',
  /** The session already has work in flight. */
  'busy',
  /** The work was cancelled. */
  'cancelled',
  /** The object was closed. */
  'closed',
  /** The guest waits for nothing: pending with no open ticket. */
  'stalled',
  /** A time limit ran out. */
  'timed-out',
  /** The guest trapped. */
  'guest-trap',
  /** The guest asked for more memory than it may have. */
  'guest-memory',
  /** The module does not implement the interface. */
  'guest-invalid',
  /** This machine or build does not have the backend that was asked for. */
  'backend-unavailable',
  /** The chat template is missing, broken or over its limits. */
  'template-error',
  /** Not possible with this model or build. */
  'unsupported',
  /** A fault of Realm itself: please report it. */
  'internal',
  /** The device that computes (a GPU) was lost, and all it held: load the model again. */
  'device-lost',
] as const;
export type ErrorCode = (typeof ERROR_CODES)[number];

export interface ModelProperties {
  vocabSize: number;
  contextLength: number;
  layerCount: number;
  embeddingLength: number;
  /** Token ids; 0xffffffff when the model has none. */
  bos: number;
  eos: number;
}
export const MODEL_PROPERTIES_SIZE = 24;
export const MODEL_PROPERTIES_ALIGN = 4;

export function readModelProperties(view: DataView, address: number): ModelProperties {
  span(view, address, 1, 24, 4);
  return {
    vocabSize: view.getUint32(address, true),
    contextLength: view.getUint32(address + 4, true),
    layerCount: view.getUint32(address + 8, true),
    embeddingLength: view.getUint32(address + 12, true),
    bos: view.getUint32(address + 16, true),
    eos: view.getUint32(address + 20, true),
  };
}

export function writeModelProperties(view: DataView, address: number, value: ModelProperties): void {
  span(view, address, 1, 24, 4);
  view.setUint32(address, value.vocabSize, true);
  view.setUint32(address + 4, value.contextLength, true);
  view.setUint32(address + 8, value.layerCount, true);
  view.setUint32(address + 12, value.embeddingLength, true);
  view.setUint32(address + 16, value.bos, true);
  view.setUint32(address + 20, value.eos, true);
}

/** How a token is drawn. 0 or 1 switches a filter off as said at each. */
export interface Sampling {
  /** 0: greedy. */
  temperature: number;
  /** 0: off. */
  topK: number;
  /** 1: off. */
  topP: number;
  /** 0: off. */
  minP: number;
  /** 1: off. */
  repetitionPenalty: number;
  /** 0: off. */
  frequencyPenalty: number;
  /** 0: off. */
  presencePenalty: number;
  /** How many of the last tokens the penalties look at; 0: 64. */
  penaltyWindow: number;
  seed: bigint;
  /** End tokens neither stop nor are drawn. */
  ignoreEnd: boolean;
}
export const SAMPLING_SIZE = 48;
export const SAMPLING_ALIGN = 8;

export function readSampling(view: DataView, address: number): Sampling {
  span(view, address, 1, 48, 8);
  return {
    temperature: view.getFloat32(address, true),
    topK: view.getUint32(address + 4, true),
    topP: view.getFloat32(address + 8, true),
    minP: view.getFloat32(address + 12, true),
    repetitionPenalty: view.getFloat32(address + 16, true),
    frequencyPenalty: view.getFloat32(address + 20, true),
    presencePenalty: view.getFloat32(address + 24, true),
    penaltyWindow: view.getUint32(address + 28, true),
    seed: view.getBigUint64(address + 32, true),
    ignoreEnd: view.getUint8(address + 40) !== 0,
  };
}

export function writeSampling(view: DataView, address: number, value: Sampling): void {
  span(view, address, 1, 48, 8);
  view.setFloat32(address, value.temperature, true);
  view.setUint32(address + 4, value.topK, true);
  view.setFloat32(address + 8, value.topP, true);
  view.setFloat32(address + 12, value.minP, true);
  view.setFloat32(address + 16, value.repetitionPenalty, true);
  view.setFloat32(address + 20, value.frequencyPenalty, true);
  view.setFloat32(address + 24, value.presencePenalty, true);
  view.setUint32(address + 28, value.penaltyWindow, true);
  view.setBigUint64(address + 32, value.seed, true);
  view.setUint8(address + 40, value.ignoreEnd ? 1 : 0);
}

export interface Bias {
  token: number;
  value: number;
}
export const BIAS_SIZE = 8;
export const BIAS_ALIGN = 4;

export function readBias(view: DataView, address: number): Bias {
  span(view, address, 1, 8, 4);
  return {
    token: view.getUint32(address, true),
    value: view.getFloat32(address + 4, true),
  };
}

export function writeBias(view: DataView, address: number, value: Bias): void {
  span(view, address, 1, 8, 4);
  view.setUint32(address, value.token, true);
  view.setFloat32(address + 4, value.value, true);
}

export interface Token {
  id: number;
  isEnd: boolean;
  /** Natural log of its probability under the unmodified logits. */
  logprob: number;
}
export const TOKEN_SIZE = 12;
export const TOKEN_ALIGN = 4;

export function readToken(view: DataView, address: number): Token {
  span(view, address, 1, 12, 4);
  return {
    id: view.getUint32(address, true),
    isEnd: view.getUint8(address + 4) !== 0,
    logprob: view.getFloat32(address + 8, true),
  };
}

export function writeToken(view: DataView, address: number, value: Token): void {
  span(view, address, 1, 12, 4);
  view.setUint32(address, value.id, true);
  view.setUint8(address + 4, value.isEnd ? 1 : 0);
  view.setFloat32(address + 8, value.logprob, true);
}

export const TICKET_STATES = [
  'pending',
  /** generate only: tokens can be taken, more will come. */
  'progress',
  'ready',
  'failed',
] as const;
export type TicketState = (typeof TICKET_STATES)[number];

export interface CacheInfo {
  layers: bigint;
  bytes: bigint;
  hits: bigint;
  misses: bigint;
  evictions: bigint;
}
export const CACHE_INFO_SIZE = 40;
export const CACHE_INFO_ALIGN = 8;

export function readCacheInfo(view: DataView, address: number): CacheInfo {
  span(view, address, 1, 40, 8);
  return {
    layers: view.getBigUint64(address, true),
    bytes: view.getBigUint64(address + 8, true),
    hits: view.getBigUint64(address + 16, true),
    misses: view.getBigUint64(address + 24, true),
    evictions: view.getBigUint64(address + 32, true),
  };
}

export function writeCacheInfo(view: DataView, address: number, value: CacheInfo): void {
  span(view, address, 1, 40, 8);
  view.setBigUint64(address, value.layers, true);
  view.setBigUint64(address + 8, value.bytes, true);
  view.setBigUint64(address + 16, value.hits, true);
  view.setBigUint64(address + 24, value.misses, true);
  view.setBigUint64(address + 32, value.evictions, true);
}

export const MODES = [
  /** encode, forward, sample, decode as separate imports. */
  'granular',
  /** one generate import. */
  'whole',
  /** granular, with the forward pass split into layer slices by forward-layers. */
  'layers',
] as const;
export type Mode = (typeof MODES)[number];

export interface Request {
  model: number;
  /** The rendered prompt (chat templates are rendered by the host, which marks them with parse-special). */
  prompt: Uint8Array;
  addSpecial: boolean;
  parseSpecial: boolean;
  /** Stop strings, each preceded by its length as u32 little-endian. */
  stops: Uint8Array;
  maxTokens: number;
  mode: Mode;
  params: Sampling;
  biases: Packed;
  /** An own guest's parameters, opaque to the host. */
  extra: Uint8Array;
}
export const REQUEST_SIZE = 96;
export const REQUEST_ALIGN = 8;

export function readRequest(view: DataView, address: number): Request {
  span(view, address, 1, 96, 8);
  return {
    model: view.getUint32(address, true),
    prompt: readBytes(view, view.getUint32(address + 4, true), view.getUint32(address + 8, true)),
    addSpecial: view.getUint8(address + 12) !== 0,
    parseSpecial: view.getUint8(address + 13) !== 0,
    stops: readBytes(view, view.getUint32(address + 16, true), view.getUint32(address + 20, true)),
    maxTokens: view.getUint32(address + 24, true),
    mode: named(MODES, view.getUint8(address + 28)),
    params: readSampling(view, address + 32),
    biases: readBytes(view, view.getUint32(address + 80, true), view.getUint32(address + 84, true), 8, 4),
    extra: readBytes(view, view.getUint32(address + 88, true), view.getUint32(address + 92, true)),
  };
}

export function writeRequest(memory: GuestMemory, address: number, value: Request): void {
  const promptAddress = writeList(memory, value.prompt, 1);
  const promptCount = value.prompt.length;
  const stopsAddress = writeList(memory, value.stops, 1);
  const stopsCount = value.stops.length;
  const biasesAddress = writeList(memory, value.biases, 4);
  const biasesCount = value.biases.length / 8;
  const extraAddress = writeList(memory, value.extra, 1);
  const extraCount = value.extra.length;
  const view = memory.view();
  span(view, address, 1, 96, 8);
  view.setUint32(address, value.model, true);
  view.setUint32(address + 4, promptAddress, true);
  view.setUint32(address + 8, promptCount, true);
  view.setUint8(address + 12, value.addSpecial ? 1 : 0);
  view.setUint8(address + 13, value.parseSpecial ? 1 : 0);
  view.setUint32(address + 16, stopsAddress, true);
  view.setUint32(address + 20, stopsCount, true);
  view.setUint32(address + 24, value.maxTokens, true);
  view.setUint8(address + 28, MODES.indexOf(value.mode));
  writeSampling(view, address + 32, value.params);
  view.setUint32(address + 80, biasesAddress, true);
  view.setUint32(address + 84, biasesCount, true);
  view.setUint32(address + 88, extraAddress, true);
  view.setUint32(address + 92, extraCount, true);
}

export const STEPS = [
  'pending',
  'output',
  'done',
] as const;
export type Step = (typeof STEPS)[number];

export const FINISHES = [
  'end',
  'stop',
  'length',
  'cancelled',
  'failed',
] as const;
export type Finish = (typeof FINISHES)[number];

export interface Report {
  finish: Finish;
  /** Why, when finish is failed. */
  error: ErrorCode;
  promptTokens: number;
  /** The generated tokens, without an end token; with a stop string, up to the token that completed it. */
  tokens: Uint32Array;
  /** An own guest's result, opaque to the host. */
  extra: Uint8Array;
}
export const REPORT_SIZE = 24;
export const REPORT_ALIGN = 4;

export function readReport(view: DataView, address: number): Report {
  span(view, address, 1, 24, 4);
  return {
    finish: named(FINISHES, view.getUint8(address)),
    error: named(ERROR_CODES, view.getUint8(address + 1)),
    promptTokens: view.getUint32(address + 4, true),
    tokens: readUint32Array(view, view.getUint32(address + 8, true), view.getUint32(address + 12, true)),
    extra: readBytes(view, view.getUint32(address + 16, true), view.getUint32(address + 20, true)),
  };
}

export function writeReport(memory: GuestMemory, address: number, value: Report): void {
  const tokensAddress = writeList(memory, value.tokens, 4);
  const tokensCount = value.tokens.length;
  const extraAddress = writeList(memory, value.extra, 1);
  const extraCount = value.extra.length;
  const view = memory.view();
  span(view, address, 1, 24, 4);
  view.setUint8(address, FINISHES.indexOf(value.finish));
  view.setUint8(address + 1, ERROR_CODES.indexOf(value.error));
  view.setUint32(address + 4, value.promptTokens, true);
  view.setUint32(address + 8, tokensAddress, true);
  view.setUint32(address + 12, tokensCount, true);
  view.setUint32(address + 16, extraAddress, true);
  view.setUint32(address + 20, extraCount, true);
}

/**
 * The imports as methods. A result's error is thrown as InterfaceError. Lists are views of the
 * guest's memory, which are good until the method returns or calls the guest.
 */
export interface Host {
  /** The n-th model granted to this realm is handle n (1, 2, ...). */
  modelInfo(model: number): ModelProperties;
  /** Text -> token ids. Special tokens written in the text are only parsed when asked. */
  encode(model: number, text: Uint8Array, addSpecial: boolean, parseSpecial: boolean): Uint32Array;
  /** Token ids -> bytes, which may end inside a UTF-8 character. text-start undoes the space some tokenizers put first. */
  decode(model: number, tokens: Uint32Array, special: boolean, textStart: boolean): Uint8Array;
  sessionOpen(model: number): number;
  sessionClose(session: number): void;
  sessionPosition(session: number): number;
  sessionRewind(session: number, position: number): number;
  /** Submits tokens; returns a ticket. When it is ready the logits after the last token can be sampled. */
  forward(session: number, tokens: Uint32Array): number;
  /** The same for layers [first, first + count); tokens only with the first slice. */
  forwardLayers(session: number, first: number, count: number, tokens: Uint32Array): number;
  /** Like forward; the ticket yields the log probability of each token given those before it. */
  score(session: number, tokens: Uint32Array): number;
  sample(session: number, params: Sampling, biases: Packed): Token;
  /**
   * The whole loop in one call; the ticket yields tokens as they come. An end token that ends it is yielded too, as the last
   * one. When the context is full the ticket is ready with fewer tokens than asked for.
   */
  generate(session: number, tokens: Uint32Array, params: Sampling, biases: Packed, maxTokens: number): number;
  ticketReady(ticket: number): TicketState;
  ticketError(ticket: number): ErrorCode;
  ticketTokens(ticket: number): Packed;
  ticketScores(ticket: number): Float32Array;
  ticketTensor(ticket: number): number;
  ticketCancel(ticket: number): void;
  ticketDrop(ticket: number): void;
  /** Host tensors: f32, row-major, charged to the realm's limits. */
  tensorCreate(rows: number, cols: number, data: Float32Array): number;
  tensorWeight(model: number, name: string): number;
  tensorRead(tensor: number): Float32Array;
  tensorDrop(tensor: number): void;
  /** a (m, k) @ b (k, n), by ticket. */
  matmul(a: number, b: number): number;
  /** a (m, k) @ b (n, k) transposed, by ticket. */
  matmulTransposed(a: number, b: number): number;
  /** Keeps a copy of a tensor under a 64-bit address. */
  storeLayer(address: bigint, tensor: number): number;
  /** Brings it back, by ticket. */
  loadLayer(address: bigint): number;
  cacheStats(): CacheInfo;
  /** Text of a running request for the application; always whole UTF-8 characters. */
  emit(request: number, text: Uint8Array): void;
  /** level: 0 debug, 1 info, 2 warning, 3 error. */
  log(level: number, text: string): void;
}

/** Core signatures: [parameters, results], a letter for each value: i i32, l i64, f f32, d f64. */
export const IMPORTS: Readonly<Record<string, readonly [string, string]>> = {
  'model-info': ['ii', ''],
  'encode': ['iiiiii', ''],
  'decode': ['iiiiii', ''],
  'session-open': ['ii', ''],
  'session-close': ['i', ''],
  'session-position': ['ii', ''],
  'session-rewind': ['iii', ''],
  'forward': ['iiii', ''],
  'forward-layers': ['iiiiii', ''],
  'score': ['iiii', ''],
  'sample': ['ififffffiliiii', ''],
  'generate': ['iiififffffiliiiii', ''],
  'ticket-ready': ['i', 'i'],
  'ticket-error': ['i', 'i'],
  'ticket-tokens': ['ii', ''],
  'ticket-scores': ['ii', ''],
  'ticket-tensor': ['ii', ''],
  'ticket-cancel': ['i', ''],
  'ticket-drop': ['i', ''],
  'tensor-create': ['iiiii', ''],
  'tensor-weight': ['iiii', ''],
  'tensor-read': ['ii', ''],
  'tensor-drop': ['i', ''],
  'matmul': ['iii', ''],
  'matmul-transposed': ['iii', ''],
  'store-layer': ['lii', ''],
  'load-layer': ['li', ''],
  'cache-stats': ['i', ''],
  'emit': ['iii', ''],
  'log': ['iii', ''],
};

/** The imports of one instance: lift the arguments, call the host, lower what it returns. */
export function lowerImports(host: Host, memory: GuestMemory): WebAssembly.ModuleImports {
  return {
    'model-info': (model: number, result: number): void => {
      result >>>= 0;
      let view: DataView;
      let value: ModelProperties;
      try {
        value = host.modelInfo(model >>> 0);
      } catch (error) {
        return writeError(memory, result, 4, error);
      }
      view = memory.view();
      span(view, result, 1, 28, 4);
      writeModelProperties(view, result + 4, value);
      view.setUint8(result, 0);
    },
    'encode': (
      model: number,
      text: number,
      textLen: number,
      addSpecial: number,
      parseSpecial: number,
      result: number,
    ): void => {
      result >>>= 0;
      let view = memory.view();
      let value: Uint32Array;
      try {
        value = host.encode(model >>> 0, readBytes(view, text >>> 0, textLen >>> 0), addSpecial !== 0, parseSpecial !== 0);
      } catch (error) {
        return writeError(memory, result, 4, error);
      }
      const listAddress = writeList(memory, value, 4);
      const listCount = value.length;
      view = memory.view();
      span(view, result, 1, 12, 4);
      view.setUint32(result + 4, listAddress, true);
      view.setUint32(result + 8, listCount, true);
      view.setUint8(result, 0);
    },
    'decode': (
      model: number,
      tokens: number,
      tokensLen: number,
      special: number,
      textStart: number,
      result: number,
    ): void => {
      result >>>= 0;
      let view = memory.view();
      let value: Uint8Array;
      try {
        value = host.decode(model >>> 0, readUint32Array(view, tokens >>> 0, tokensLen >>> 0), special !== 0, textStart !== 0);
      } catch (error) {
        return writeError(memory, result, 4, error);
      }
      const listAddress = writeList(memory, value, 1);
      const listCount = value.length;
      view = memory.view();
      span(view, result, 1, 12, 4);
      view.setUint32(result + 4, listAddress, true);
      view.setUint32(result + 8, listCount, true);
      view.setUint8(result, 0);
    },
    'session-open': (model: number, result: number): void => {
      result >>>= 0;
      let view: DataView;
      let value: number;
      try {
        value = host.sessionOpen(model >>> 0);
      } catch (error) {
        return writeError(memory, result, 4, error);
      }
      view = memory.view();
      span(view, result, 1, 8, 4);
      view.setUint32(result + 4, value, true);
      view.setUint8(result, 0);
    },
    'session-close': (session: number): void => {
      host.sessionClose(session >>> 0);
    },
    'session-position': (session: number, result: number): void => {
      result >>>= 0;
      let view: DataView;
      let value: number;
      try {
        value = host.sessionPosition(session >>> 0);
      } catch (error) {
        return writeError(memory, result, 4, error);
      }
      view = memory.view();
      span(view, result, 1, 8, 4);
      view.setUint32(result + 4, value, true);
      view.setUint8(result, 0);
    },
    'session-rewind': (session: number, position: number, result: number): void => {
      result >>>= 0;
      let view: DataView;
      let value: number;
      try {
        value = host.sessionRewind(session >>> 0, position >>> 0);
      } catch (error) {
        return writeError(memory, result, 4, error);
      }
      view = memory.view();
      span(view, result, 1, 8, 4);
      view.setUint32(result + 4, value, true);
      view.setUint8(result, 0);
    },
    'forward': (session: number, tokens: number, tokensLen: number, result: number): void => {
      result >>>= 0;
      let view = memory.view();
      let value: number;
      try {
        value = host.forward(session >>> 0, readUint32Array(view, tokens >>> 0, tokensLen >>> 0));
      } catch (error) {
        return writeError(memory, result, 4, error);
      }
      view = memory.view();
      span(view, result, 1, 8, 4);
      view.setUint32(result + 4, value, true);
      view.setUint8(result, 0);
    },
    'forward-layers': (
      session: number,
      first: number,
      count: number,
      tokens: number,
      tokensLen: number,
      result: number,
    ): void => {
      result >>>= 0;
      let view = memory.view();
      let value: number;
      try {
        value = host.forwardLayers(
          session >>> 0,
          first >>> 0,
          count >>> 0,
          readUint32Array(view, tokens >>> 0, tokensLen >>> 0),
        );
      } catch (error) {
        return writeError(memory, result, 4, error);
      }
      view = memory.view();
      span(view, result, 1, 8, 4);
      view.setUint32(result + 4, value, true);
      view.setUint8(result, 0);
    },
    'score': (session: number, tokens: number, tokensLen: number, result: number): void => {
      result >>>= 0;
      let view = memory.view();
      let value: number;
      try {
        value = host.score(session >>> 0, readUint32Array(view, tokens >>> 0, tokensLen >>> 0));
      } catch (error) {
        return writeError(memory, result, 4, error);
      }
      view = memory.view();
      span(view, result, 1, 8, 4);
      view.setUint32(result + 4, value, true);
      view.setUint8(result, 0);
    },
    'sample': (
      session: number,
      paramsTemperature: number,
      paramsTopK: number,
      paramsTopP: number,
      paramsMinP: number,
      paramsRepetitionPenalty: number,
      paramsFrequencyPenalty: number,
      paramsPresencePenalty: number,
      paramsPenaltyWindow: number,
      paramsSeed: bigint,
      paramsIgnoreEnd: number,
      biases: number,
      biasesLen: number,
      result: number,
    ): void => {
      result >>>= 0;
      let view = memory.view();
      let value: Token;
      try {
        value = host.sample(
          session >>> 0,
          {
          temperature: paramsTemperature,
          topK: paramsTopK >>> 0,
          topP: paramsTopP,
          minP: paramsMinP,
          repetitionPenalty: paramsRepetitionPenalty,
          frequencyPenalty: paramsFrequencyPenalty,
          presencePenalty: paramsPresencePenalty,
          penaltyWindow: paramsPenaltyWindow >>> 0,
          seed: BigInt.asUintN(64, paramsSeed),
          ignoreEnd: paramsIgnoreEnd !== 0,
        },
          readBytes(view, biases >>> 0, biasesLen >>> 0, 8, 4),
        );
      } catch (error) {
        return writeError(memory, result, 4, error);
      }
      view = memory.view();
      span(view, result, 1, 16, 4);
      writeToken(view, result + 4, value);
      view.setUint8(result, 0);
    },
    'generate': (
      session: number,
      tokens: number,
      tokensLen: number,
      paramsTemperature: number,
      paramsTopK: number,
      paramsTopP: number,
      paramsMinP: number,
      paramsRepetitionPenalty: number,
      paramsFrequencyPenalty: number,
      paramsPresencePenalty: number,
      paramsPenaltyWindow: number,
      paramsSeed: bigint,
      paramsIgnoreEnd: number,
      biases: number,
      biasesLen: number,
      maxTokens: number,
      result: number,
    ): void => {
      result >>>= 0;
      let view = memory.view();
      let value: number;
      try {
        value = host.generate(
          session >>> 0,
          readUint32Array(view, tokens >>> 0, tokensLen >>> 0),
          {
          temperature: paramsTemperature,
          topK: paramsTopK >>> 0,
          topP: paramsTopP,
          minP: paramsMinP,
          repetitionPenalty: paramsRepetitionPenalty,
          frequencyPenalty: paramsFrequencyPenalty,
          presencePenalty: paramsPresencePenalty,
          penaltyWindow: paramsPenaltyWindow >>> 0,
          seed: BigInt.asUintN(64, paramsSeed),
          ignoreEnd: paramsIgnoreEnd !== 0,
        },
          readBytes(view, biases >>> 0, biasesLen >>> 0, 8, 4),
          maxTokens >>> 0,
        );
      } catch (error) {
        return writeError(memory, result, 4, error);
      }
      view = memory.view();
      span(view, result, 1, 8, 4);
      view.setUint32(result + 4, value, true);
      view.setUint8(result, 0);
    },
    'ticket-ready': (ticket: number): number => {
      return TICKET_STATES.indexOf(host.ticketReady(ticket >>> 0));
    },
    'ticket-error': (ticket: number): number => {
      return ERROR_CODES.indexOf(host.ticketError(ticket >>> 0));
    },
    'ticket-tokens': (ticket: number, result: number): void => {
      result >>>= 0;
      let view: DataView;
      let value: Packed;
      try {
        value = host.ticketTokens(ticket >>> 0);
      } catch (error) {
        return writeError(memory, result, 4, error);
      }
      const listAddress = writeList(memory, value, 4);
      const listCount = value.length / 12;
      view = memory.view();
      span(view, result, 1, 12, 4);
      view.setUint32(result + 4, listAddress, true);
      view.setUint32(result + 8, listCount, true);
      view.setUint8(result, 0);
    },
    'ticket-scores': (ticket: number, result: number): void => {
      result >>>= 0;
      let view: DataView;
      let value: Float32Array;
      try {
        value = host.ticketScores(ticket >>> 0);
      } catch (error) {
        return writeError(memory, result, 4, error);
      }
      const listAddress = writeList(memory, value, 4);
      const listCount = value.length;
      view = memory.view();
      span(view, result, 1, 12, 4);
      view.setUint32(result + 4, listAddress, true);
      view.setUint32(result + 8, listCount, true);
      view.setUint8(result, 0);
    },
    'ticket-tensor': (ticket: number, result: number): void => {
      result >>>= 0;
      let view: DataView;
      let value: number;
      try {
        value = host.ticketTensor(ticket >>> 0);
      } catch (error) {
        return writeError(memory, result, 4, error);
      }
      view = memory.view();
      span(view, result, 1, 8, 4);
      view.setUint32(result + 4, value, true);
      view.setUint8(result, 0);
    },
    'ticket-cancel': (ticket: number): void => {
      host.ticketCancel(ticket >>> 0);
    },
    'ticket-drop': (ticket: number): void => {
      host.ticketDrop(ticket >>> 0);
    },
    'tensor-create': (rows: number, cols: number, data: number, dataLen: number, result: number): void => {
      result >>>= 0;
      let view = memory.view();
      let value: number;
      try {
        value = host.tensorCreate(rows >>> 0, cols >>> 0, readFloat32Array(view, data >>> 0, dataLen >>> 0));
      } catch (error) {
        return writeError(memory, result, 4, error);
      }
      view = memory.view();
      span(view, result, 1, 8, 4);
      view.setUint32(result + 4, value, true);
      view.setUint8(result, 0);
    },
    'tensor-weight': (model: number, name: number, nameLen: number, result: number): void => {
      result >>>= 0;
      let view = memory.view();
      let value: number;
      try {
        value = host.tensorWeight(model >>> 0, decoder.decode(readBytes(view, name >>> 0, nameLen >>> 0)));
      } catch (error) {
        return writeError(memory, result, 4, error);
      }
      view = memory.view();
      span(view, result, 1, 8, 4);
      view.setUint32(result + 4, value, true);
      view.setUint8(result, 0);
    },
    'tensor-read': (tensor: number, result: number): void => {
      result >>>= 0;
      let view: DataView;
      let value: Float32Array;
      try {
        value = host.tensorRead(tensor >>> 0);
      } catch (error) {
        return writeError(memory, result, 4, error);
      }
      const listAddress = writeList(memory, value, 4);
      const listCount = value.length;
      view = memory.view();
      span(view, result, 1, 12, 4);
      view.setUint32(result + 4, listAddress, true);
      view.setUint32(result + 8, listCount, true);
      view.setUint8(result, 0);
    },
    'tensor-drop': (tensor: number): void => {
      host.tensorDrop(tensor >>> 0);
    },
    'matmul': (a: number, b: number, result: number): void => {
      result >>>= 0;
      let view: DataView;
      let value: number;
      try {
        value = host.matmul(a >>> 0, b >>> 0);
      } catch (error) {
        return writeError(memory, result, 4, error);
      }
      view = memory.view();
      span(view, result, 1, 8, 4);
      view.setUint32(result + 4, value, true);
      view.setUint8(result, 0);
    },
    'matmul-transposed': (a: number, b: number, result: number): void => {
      result >>>= 0;
      let view: DataView;
      let value: number;
      try {
        value = host.matmulTransposed(a >>> 0, b >>> 0);
      } catch (error) {
        return writeError(memory, result, 4, error);
      }
      view = memory.view();
      span(view, result, 1, 8, 4);
      view.setUint32(result + 4, value, true);
      view.setUint8(result, 0);
    },
    'store-layer': (address: bigint, tensor: number, result: number): void => {
      result >>>= 0;
      let view: DataView;
      let value: number;
      try {
        value = host.storeLayer(BigInt.asUintN(64, address), tensor >>> 0);
      } catch (error) {
        return writeError(memory, result, 4, error);
      }
      view = memory.view();
      span(view, result, 1, 8, 4);
      view.setUint32(result + 4, value, true);
      view.setUint8(result, 0);
    },
    'load-layer': (address: bigint, result: number): void => {
      result >>>= 0;
      let view: DataView;
      let value: number;
      try {
        value = host.loadLayer(BigInt.asUintN(64, address));
      } catch (error) {
        return writeError(memory, result, 4, error);
      }
      view = memory.view();
      span(view, result, 1, 8, 4);
      view.setUint32(result + 4, value, true);
      view.setUint8(result, 0);
    },
    'cache-stats': (result: number): void => {
      result >>>= 0;
      let view: DataView;
      const value = host.cacheStats();
      view = memory.view();
      span(view, result, 1, 40, 8);
      writeCacheInfo(view, result, value);
    },
    'emit': (request: number, text: number, textLen: number): void => {
      let view = memory.view();
      host.emit(request >>> 0, readBytes(view, text >>> 0, textLen >>> 0));
    },
    'log': (level: number, text: number, textLen: number): void => {
      let view = memory.view();
      host.log(level >>> 0, decoder.decode(readBytes(view, text >>> 0, textLen >>> 0)));
    },
  };
}

function errorAt(view: DataView, address: number): InterfaceError {
  return new InterfaceError(named(ERROR_CODES, view.getUint8(address)));
}

/** A record whose lists are copies: they outlive what the guest does next with its memory. */
function detached<T extends object>(value: T): T {
  const copied = (item: unknown): unknown => (ArrayBuffer.isView(item) ? (item as Uint8Array).slice() : item);
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, copied(item)])) as T;
}

export type Export = (...values: number[]) => number;

function required(find: (name: string) => Export | undefined, name: string): Export {
  const found = find(name);
  if (!found) throw new AbiError(`the guest does not export ${name}`);
  return found;
}

/** Core signatures of the exports, in the letters of IMPORTS. */
export const EXPORTS: Readonly<Record<string, readonly [string, string]>> = {
  'realm:orchestrator/guest@0.1.0#start': ['i', 'i'],
  'realm:orchestrator/guest@0.1.0#poll': ['i', 'i'],
  'realm:orchestrator/guest@0.1.0#outcome': ['i', 'i'],
  'realm:orchestrator/guest@0.1.0#cancel': ['i', ''],
  'realm:orchestrator/guest@0.1.0#release': ['i', ''],
};

/** Typed calls of a guest's exports. */
export class GuestExports {
  readonly #start: Export;
  readonly #poll: Export;
  readonly #outcome: Export;
  readonly #cancel: Export;
  readonly #release: Export;
  readonly #postOutcome: Export | undefined;

  constructor(readonly memory: GuestMemory, find: (name: string) => Export | undefined) {
    this.#start = required(find, 'realm:orchestrator/guest@0.1.0#start');
    this.#poll = required(find, 'realm:orchestrator/guest@0.1.0#poll');
    this.#outcome = required(find, 'realm:orchestrator/guest@0.1.0#outcome');
    this.#cancel = required(find, 'realm:orchestrator/guest@0.1.0#cancel');
    this.#release = required(find, 'realm:orchestrator/guest@0.1.0#release');
    this.#postOutcome = find('cabi_post_realm:orchestrator/guest@0.1.0#outcome');
  }

  /**
   * Returns the handle of a running request, to be polled at once. Fails only for what is wrong with the request itself
   * (invalid-argument, limit-exceeded, out-of-memory); failures of the work are in the report.
   */
  start(request: Request): number {
    const place = this.memory.allocate(96, 8);
    writeRequest(this.memory, place, request);
    const address = this.#start(place) >>> 0;
    const view = this.memory.view();
    span(view, address, 1, 8, 4);
    if (view.getUint8(address) !== 0) throw errorAt(view, address + 4);
    const value = view.getUint32(address + 4, true);
    return value;
  }

  /** pending: wait for a ticket. output: the same, and text was emitted since the last poll. done: ask outcome. */
  poll(request: number): Step {
    const address = this.#poll(request) >>> 0;
    const view = this.memory.view();
    span(view, address, 1, 2, 1);
    if (view.getUint8(address) !== 0) throw errorAt(view, address + 1);
    const value = named(STEPS, view.getUint8(address + 1));
    return value;
  }

  /** The report of a request that is done; busy while it runs. */
  outcome(request: number): Report {
    const address = this.#outcome(request) >>> 0;
    const view = this.memory.view();
    span(view, address, 1, 28, 4);
    if (view.getUint8(address) !== 0) throw errorAt(view, address + 4);
    const value = detached(readReport(view, address + 4));
    this.#postOutcome?.(address);
    return value;
  }

  /** Ends a running request as cancelled; the text so far stands. */
  cancel(request: number): void {
    this.#cancel(request);
  }

  /** Forgets the request (cancelling it when it still runs) and frees what it held. */
  release(request: number): void {
    this.#release(request);
  }
}
