#!/usr/bin/env node
// The command `realm` of the Node host: generate, chat, inspect, tokenize, detokenize, logits, bench, with the options and the JSON
// of the Python command.
//
// Results go to standard output; an error is one line with its code on standard error, with exit status 1, or 2 for wrong usage.

import { readSync, writeFileSync, writeSync } from 'node:fs';
import { basename } from 'node:path';
import { createInterface } from 'node:readline';
import { parseArgs, type ParseArgsConfig } from 'node:util';

import { invalid } from '../../js/src/options.js';
import { Realm, RealmError, type GenerateOptions, type Generation, type Message, type Model } from './index.js';
import { measure, type Spread } from './bench.js';
import { demoModel, openModel } from './host.js';
import { npy } from './npy.js';

const FAILED = 1;
const USAGE = 2;
const INTERRUPTED = 130;
const MAX_STDIN = 256 << 20;

class UsageError extends Error {}

// ---- options ----

type OptionTable = NonNullable<ParseArgsConfig['options']>;

const TEXT = { type: 'string' } as const;
const FLAG = { type: 'boolean', default: false } as const;
const COMMON: OptionTable = { model: { type: 'string', short: 'm' }, help: FLAG };
const SAMPLING: OptionTable = {
  ...COMMON,
  'max-tokens': { type: 'string', short: 'n' },
  temperature: TEXT,
  'top-k': TEXT,
  'top-p': TEXT,
  'min-p': TEXT,
  seed: TEXT,
  system: TEXT,
  threads: { type: 'string', short: 't' },
  'context-length': { type: 'string', short: 'c' },
};

const HELP = `Usage: realm COMMAND [OPTIONS]

Run language models from GGUF files, each tenant in its own sandbox.

  generate PROMPT    answer one prompt; - reads it from standard input
  chat               talk with a model
  inspect MODEL      show a model file's architecture, metadata and tensors
  tokenize           read a text from standard input and print its token ids
  detokenize         read token ids from standard input and print their text
  logits             write the logits after each of the given ids
  bench              measure speed, load time, memory, and the share of the read bandwidth

Options of generate and chat:
  -m, --model FILE          GGUF file; without it, the demo model
  -n, --max-tokens N        most tokens to generate (256; chat: 1024)
  --temperature T           0 takes the likeliest token (0.8)
  --top-k K  --top-p P  --min-p P  --seed N
  --system TEXT             system message
  -t, --threads N           compute threads
  -c, --context-length N    most tokens of a session; 0: the model's
Options of generate:
  --raw                     send the prompt as it is, without a chat template
  --repetition-penalty R  --stop TEXT (may be repeated)  --mode MODE  --ignore-end  --json
Options of tokenize and detokenize:
  -m, --model FILE  --json  --batch  --add-special  --parse-special  --special
Options of logits:
  -m, --model FILE  -t, --threads N
  --ids IDS                 token ids: 1,2,3
  --out FILE                file to write, NumPy's .npy format: float32 (number of ids, vocabulary)
Options of bench:
  -m, --model FILE  -t, --threads N  --json
  -p N  -n N  -r N          tokens of the prompt (512), tokens to generate (128), repetitions (5)
`;

interface Arguments {
  values: Record<string, string | boolean | string[] | undefined>;
  positionals: string[];
}

function parse(args: string[], options: OptionTable, most: number): Arguments {
  let parsed;
  try {
    parsed = parseArgs({ args, options, allowPositionals: true, strict: true });
  } catch (problem) {
    throw new UsageError((problem as Error).message);
  }
  if (parsed.values['help']) throw new UsageError('');
  if (parsed.positionals.length > most) throw new UsageError(`unexpected argument ${parsed.positionals[most]}`);
  return parsed as Arguments;
}

/** A number, or undefined when the option was not given. */
function number(values: Arguments['values'], name: string): number | undefined {
  const text = values[name];
  if (text === undefined) return undefined;
  const value = typeof text === 'string' && text.trim() !== '' ? Number(text) : NaN;
  if (Number.isNaN(value)) throw new UsageError(`--${name} must be a number, not ${String(text)}`);
  return value;
}

function seed(values: Arguments['values']): bigint | undefined {
  const text = values['seed'];
  if (text === undefined) return undefined;
  if (!/^\d+$/.test(String(text))) throw new UsageError(`--seed must be a whole number, not ${String(text)}`);
  return BigInt(String(text));
}

function settings(values: Arguments['values'], maxTokens: number): GenerateOptions {
  const given: Record<string, unknown> = {
    maxTokens: number(values, 'max-tokens') ?? maxTokens,
    temperature: number(values, 'temperature'),
    topK: number(values, 'top-k'),
    topP: number(values, 'top-p'),
    minP: number(values, 'min-p'),
    repetitionPenalty: number(values, 'repetition-penalty'),
    seed: seed(values),
    stop: values['stop'],
    mode: values['mode'],
    ignoreEnd: values['ignore-end'],
  };
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)) as GenerateOptions;
}

function file(values: Arguments['values']): string {
  return typeof values['model'] === 'string' ? values['model'] : demoModel();
}

async function openRealm(values: Arguments['values']): Promise<{ realm: Realm; model: Model; seconds: number }> {
  const threads = number(values, 'threads');
  const realm = new Realm(threads === undefined ? {} : { threads });
  const began = performance.now();
  const model = await realm.loadModel(file(values), { contextLength: number(values, 'context-length') ?? 0 });
  return { realm, model, seconds: (performance.now() - began) / 1000 };
}

// ---- commands ----

async function generate(args: string[]): Promise<void> {
  const more: OptionTable = {
    'repetition-penalty': TEXT,
    stop: { type: 'string', multiple: true },
    mode: TEXT,
    raw: FLAG,
    'ignore-end': FLAG,
    json: FLAG,
  };
  const { values, positionals } = parse(args, { ...SAMPLING, ...more }, 1);
  if (positionals[0] === undefined) throw new UsageError('generate needs a prompt');
  const options = settings(values, 256);
  const prompt = positionals[0] === '-' ? readInput().toString('utf8') : positionals[0];
  const { realm, model, seconds } = await openRealm(values);
  const system = values['system'] as string | undefined;
  const raw = values['raw'] || (model.chatTemplate === null && system === undefined);
  const stream = raw
    ? realm.streamTokens(prompt, options)
    : realm.chatStream(conversation(system, [{ role: 'user', content: prompt }]), options);
  for await (const piece of stream) if (!values['json']) write(piece);
  const result = await stream.result;
  write((values['json'] ? JSON.stringify(record(result, seconds)) : '') + '\n');
  realm.dispose();
}

async function chat(args: string[]): Promise<void> {
  const { values } = parse(args, SAMPLING, 0);
  const options = settings(values, 1024);
  const { realm, model } = await openRealm(values);
  note(`${basename(model.path)}: /clear forgets, /exit leaves`);
  const turns: Message[] = [];
  if (process.stdin.isTTY) process.stderr.write('> ');
  for await (const line of createInterface({ input: process.stdin })) {
    const text = line.trim();
    if (text === '/exit' || text === '/quit') break;
    if (text === '/clear') turns.length = 0;
    else if (text) turns.push({ role: 'user', content: text }, await say(realm, values, turns, text, options));
    if (process.stdin.isTTY) process.stderr.write('> ');
  }
  realm.dispose();
}

/** Streams an answer; Ctrl-C ends it and leaves what was said. */
async function say(
  realm: Realm,
  values: Arguments['values'],
  turns: Message[],
  text: string,
  options: GenerateOptions,
): Promise<Message> {
  const stop = new AbortController();
  const interrupt = (): void => stop.abort();
  process.once('SIGINT', interrupt);
  let said = '';
  try {
    const messages = conversation(values['system'] as string | undefined, [...turns, { role: 'user', content: text }]);
    for await (const piece of realm.chatStream(messages, { ...options, signal: stop.signal })) {
      said += piece;
      write(piece);
    }
  } catch (problem) {
    if (!stop.signal.aborted) throw problem;
    note('stopped');
  } finally {
    process.removeListener('SIGINT', interrupt);
  }
  write('\n');
  return { role: 'assistant', content: said };
}

async function inspect(args: string[]): Promise<void> {
  const { values, positionals } = parse(args, { json: FLAG, help: FLAG }, 1);
  if (positionals[0] === undefined) throw new UsageError('inspect needs a model file');
  const model = await openModel(positionals[0], 'header');
  const described = model.describe();
  model.close();
  if (values['json']) write(described + '\n');
  else showDescription(JSON.parse(described) as Description);
}

async function tokenize(args: string[]): Promise<void> {
  const more: OptionTable = { json: FLAG, batch: FLAG, 'add-special': FLAG, 'parse-special': FLAG };
  const { values } = parse(args, { ...COMMON, ...more }, 0);
  const data = readInput();
  const texts = values['batch'] ? parseJson(data, isTexts, 'a JSON list of texts').map(bytes) : [data];
  const model = await openModel(file(values), 'vocab');
  const encode = (text: Uint8Array): number[] =>
    Array.from(model.encode(text, Boolean(values['add-special']), Boolean(values['parse-special'])));
  const found = texts.map(encode);
  model.close();
  if (values['batch']) write(JSON.stringify(found) + '\n');
  else write((values['json'] ? JSON.stringify(found[0]) : found[0]!.join(' ')) + '\n');
}

async function detokenize(args: string[]): Promise<void> {
  const { values } = parse(args, { ...COMMON, json: FLAG, batch: FLAG, special: FLAG }, 0);
  const data = readInput();
  const lists = values['batch'] ? parseJson(data, isIdLists, 'a JSON list of lists of ids') : [parseIds(data)];
  const model = await openModel(file(values), 'vocab');
  const texts = lists.map((ids) => Buffer.from(model.decode(Uint32Array.from(ids), Boolean(values['special']), true)));
  model.close();
  const decoded = texts.map((text) => text.toString('utf8'));
  if (values['batch']) write(JSON.stringify(decoded) + '\n');
  else if (values['json']) write(JSON.stringify(decoded[0]) + '\n');
  else writeBytes(texts[0]!);
}

async function logits(args: string[]): Promise<void> {
  const more: OptionTable = { threads: { type: 'string', short: 't' }, ids: TEXT, out: TEXT };
  const { values } = parse(args, { ...COMMON, ...more }, 0);
  if (values['ids'] === undefined || values['out'] === undefined) throw new UsageError('logits needs --ids and --out');
  const ids = parseIds(Buffer.from(String(values['ids'])));
  const { realm } = await openRealm(values);
  const rows = await realm.logits(ids);
  realm.dispose();
  writeFileSync(String(values['out']), npy(rows));
}

async function bench(args: string[]): Promise<void> {
  const count = (short: string): OptionTable[string] => ({ type: 'string', short });
  const counts: OptionTable = { threads: count('t'), prompt: count('p'), generated: count('n'), repetitions: count('r') };
  const { values } = parse(args, { ...COMMON, ...counts, json: FLAG }, 0);
  const results = await measure(file(values), {
    threads: number(values, 'threads'),
    prompt: number(values, 'prompt') ?? 512,
    generated: number(values, 'generated') ?? 128,
    repetitions: number(values, 'repetitions') ?? 5,
  });
  if (values['json']) return write(JSON.stringify(results) + '\n');
  for (const [name, value] of Object.entries(results)) write(`${name.padEnd(34)} ${benchText(value)}\n`);
}

function benchText(value: string | number | Spread): string {
  if (typeof value !== 'object') return String(value);
  return `${value.median.toPrecision(4)} (${value.min.toPrecision(4)} ... ${value.max.toPrecision(4)})`;
}

// ---- records ----

function conversation(system: string | undefined, turns: Message[]): Message[] {
  return system ? [{ role: 'system', content: system }, ...turns] : turns;
}

function record(result: Generation, loadSeconds: number): Record<string, unknown> {
  const rounded = (value: number, digits: number): number => Number(value.toFixed(digits));
  return {
    text: result.text,
    tokens: result.tokens,
    prompt_tokens: result.promptTokens,
    finish_reason: result.finishReason,
    timings: {
      load_seconds: rounded(loadSeconds, 6),
      first_token_seconds: rounded(result.timings.firstTokenSeconds, 6),
      total_seconds: rounded(result.timings.totalSeconds, 6),
      tokens_per_second: rounded(result.timings.tokensPerSecond, 3),
    },
  };
}

interface Description {
  metadata?: Record<string, unknown>;
  tensors?: { name: string; type: string; shape?: number[] }[];
}

function showDescription(described: Description): void {
  for (const [key, value] of Object.entries(described.metadata ?? {})) {
    const text = typeof value === 'string' ? value : JSON.stringify(value);
    write(`${key.padEnd(44)} ${printable(text.length > 200 ? text.slice(0, 200) + ' ...' : text)}\n`);
  }
  for (const tensor of described.tensors ?? []) {
    write(`${printable(tensor.name).padEnd(44)} ${tensor.type.padEnd(8)} ${(tensor.shape ?? []).join(' x ')}\n`);
  }
}

// ---- input and output ----

function readInput(): Buffer {
  const chunks: Buffer[] = [];
  for (let size = 0; ; ) {
    const chunk = Buffer.alloc(65536);
    const count = readChunk(chunk);
    if (count === 0) return Buffer.concat(chunks);
    size += count;
    if (size > MAX_STDIN) throw new RealmError('limit-exceeded', `standard input is longer than ${MAX_STDIN} bytes`);
    chunks.push(chunk.subarray(0, count));
  }
}

function readChunk(into: Buffer): number {
  try {
    return readSync(0, into, 0, into.length, null);
  } catch (problem) {
    if ((problem as NodeJS.ErrnoException).code === 'EOF') return 0; // a closed pipe on Windows
    throw problem;
  }
}

function write(text: string): void {
  writeBytes(Buffer.from(text, 'utf8'));
}

/** All of it, also into a pipe that is full at the moment. */
function writeBytes(data: Buffer): void {
  for (let at = 0; at < data.length; ) {
    try {
      at += writeSync(1, data, at);
    } catch (problem) {
      if ((problem as NodeJS.ErrnoException).code !== 'EAGAIN') throw problem;
    }
  }
}

function note(text: string): void {
  process.stderr.write(`(${text})\n`);
}

function bytes(text: string): Uint8Array {
  return Buffer.from(text, 'utf8');
}

function parseJson<Value>(data: Buffer, accepted: (value: unknown) => value is Value, what: string): Value {
  let value: unknown;
  try {
    value = JSON.parse(data.toString('utf8'));
  } catch {
    value = undefined;
  }
  if (!accepted(value)) throw invalid(`standard input must be ${what}`);
  return value;
}

/** A JSON list, or numbers with commas or spaces between them. */
function parseIds(data: Buffer): number[] {
  const text = data.toString('utf8').trim().replace(/^\[+|\]+$/g, '');
  const words = text.split(/[\s,]+/).filter((word) => word !== '');
  const ids = words.map((word) => (/^\d{1,10}$/.test(word) ? Number(word) : NaN));
  if (!ids.every(isId)) throw invalid('token ids must be whole numbers, such as [1, 2, 3]');
  return ids;
}

function isId(value: unknown): value is number {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) <= 0xffffffff;
}

function isTexts(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((text) => typeof text === 'string');
}

function isIdLists(value: unknown): value is number[][] {
  return Array.isArray(value) && value.every((ids) => Array.isArray(ids) && ids.every(isId));
}

// ---- errors ----

function printable(text: string): string {
  return text.replace(/\s+/g, ' ').replace(/[\p{Cc}\p{Cf}\p{Cs}\p{Co}]/gu, '?');
}

function complain(message: string, code: string): void {
  process.stderr.write(`error: ${printable(message).trim()} [${code}]\n`);
}

function report(problem: unknown): number {
  if (problem instanceof UsageError) {
    if (problem.message === '') return write(HELP), 0;
    complain(`${problem.message} (see: realm --help)`, 'invalid-argument');
    return USAGE;
  }
  const { code, message } = problem as NodeJS.ErrnoException;
  if (problem instanceof RealmError) complain(problem.message, problem.code);
  else if (code === 'EPIPE') return FAILED;
  else complain(message, code ? 'io' : 'internal');
  return FAILED;
}

const COMMANDS: Record<string, (args: string[]) => Promise<void>> = {
  generate,
  chat,
  inspect,
  tokenize,
  detokenize,
  logits,
  bench,
};

async function main(args: string[]): Promise<number> {
  const [name = '--help', ...rest] = args;
  try {
    if (name === '--help' || name === '-h') throw new UsageError('');
    if (!Object.hasOwn(COMMANDS, name)) throw new UsageError(`there is no command ${name}`);
    await COMMANDS[name]!(rest);
    return 0;
  } catch (problem) {
    return report(problem);
  }
}

process.on('SIGINT', () => {
  if (process.listenerCount('SIGINT') > 1) return; // an answer is being stopped
  process.stderr.write('interrupted\n');
  process.exit(INTERRUPTED);
});
process.exitCode = await main(process.argv.slice(2));
