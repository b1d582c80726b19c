// What `realm bench` measures, as the Python command does: speed of prompts and of generation, loading, memory, use of read bandwidth.
//
// The engine is asked without a guest. Generation reads every weight once for each token, so tokens/s times the bytes of the weights
// is the bandwidth it reached; the embedding table does not count, unless it is the output matrix too.

import type { Sampling } from '../../js/src/_generated/abi.js';
import { RealmError } from '../../js/src/errors.js';
import { DEFAULT_LIMITS, invalid } from '../../js/src/options.js';
import type { ContextHost, EngineHost, ModelHost } from '../../js/src/platform.js';
import { random64 } from '../../js/src/random.js';
import { nodePlatform, readBandwidth } from './host.js';

const MAX_COUNT = 1 << 20;
const BANDWIDTH_BYTES = 2 ** 28;
const BANDWIDTH_REPEATS = 5;
const GREEDY: Sampling = {
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  frequencyPenalty: 0,
  presencePenalty: 0,
  penaltyWindow: 0,
  ignoreEnd: true,
  seed: 0n,
};

interface Counts {
  threads: number | undefined;
  prompt: number;
  generated: number;
  repetitions: number;
}

export type Spread = Record<'median' | 'min' | 'max', number>;

export async function measure(path: string, counts: Counts): Promise<Record<string, string | number | Spread>> {
  checkCounts(counts);
  const engine = nodePlatform.engine({
    backend: 'cpu', isolation: 'none', threads: counts.threads ?? 0, features: 0, executor: 0,
  });
  const began = performance.now();
  const options = { contextLength: 0, kvType: 'f16', progress: undefined, signal: undefined } as const;
  const model = await engine.load(path, { mode: 'full', ...options });
  const loadSeconds = (performance.now() - began) / 1000;
  if (counts.prompt + counts.generated > model.info.contextLength) {
    const text = `-p and -n together exceed the context of ${model.info.contextLength} tokens`;
    throw new RealmError('context-full', text);
  }
  const { prompts, firsts, rates } = await run(engine, model, counts);
  const peak = process.resourceUsage().maxRSS * 1024; // before the bandwidth test's own memory
  const bandwidth = readBandwidth(engine, BANDWIDTH_BYTES, BANDWIDTH_REPEATS);
  const tokenBytes = bytesPerToken(model);
  const { kernels = '', threads = 0 } = engine.stats();
  model.close();
  return {
    model: path,
    kernels,
    threads,
    prompt_tokens: counts.prompt,
    generated_tokens: counts.generated,
    repetitions: counts.repetitions,
    prompt_tokens_per_second: spread(prompts),
    generation_tokens_per_second: spread(rates),
    first_token_seconds: spread(firsts),
    load_seconds: loadSeconds,
    weight_bytes_per_token: tokenBytes,
    read_bandwidth_bytes_per_second: bandwidth,
    bandwidth_share: bandwidth ? (spread(rates).median * tokenBytes) / bandwidth : 0,
    peak_resident_bytes: peak,
  };
}

function checkCounts({ threads, prompt, generated, repetitions }: Counts): void {
  for (const [name, value] of Object.entries({ p: prompt, n: generated, r: repetitions, t: threads ?? 1 })) {
    const usable = Number.isInteger(value) && value >= 1 && value <= MAX_COUNT;
    if (!usable) throw invalid(`-${name} must be a whole number from 1 to ${MAX_COUNT}, not ${value}`);
  }
}

/** Prompt tokens/s, seconds to the first token, generation tokens/s; after one round to warm up. */
async function run(engine: EngineHost, model: ModelHost, { prompt, generated, repetitions }: Counts) {
  const [prompts, firsts, rates]: number[][] = [[], [], []];
  const ids = Uint32Array.from({ length: prompt }, (_, i) => (7 * i + 3) % model.info.vocabSize);
  for (let repetition = 0; repetition <= repetitions; repetition++) {
    const onPrompt = await timed(engine, model, (context, session) => context.forward(session, ids));
    const [first, rest] = await timed(
      engine,
      model,
      (context, session) => context.generate(session, ids, GREEDY, new Uint8Array(0), 1),
      (context, session) => context.generate(session, ids.slice(-1), GREEDY, new Uint8Array(0), generated),
    );
    if (repetition === 0) continue;
    prompts!.push(prompt / onPrompt[0]!);
    firsts!.push(first!);
    rates!.push(generated / rest!);
  }
  return { prompts: prompts!, firsts: firsts!, rates: rates! };
}

type Submit = (context: ContextHost, session: number) => number;

/** Seconds that each piece of work takes, one after the other, in a session that finds no prefix of another. */
async function timed(engine: EngineHost, model: ModelHost, ...pieces: Submit[]): Promise<number[]> {
  let moved = (): void => undefined;
  const tenant = random64();
  const context = engine.context(tenant, { ...DEFAULT_LIMITS, weight: 1 }, () => moved());
  engine.running(1);
  try {
    const session = context.sessionOpen(context.grant(model));
    const seconds = [];
    for (const submit of pieces) {
      const began = performance.now();
      await ended(context, submit(context, session), (look) => (moved = look));
      seconds.push((performance.now() - began) / 1000);
    }
    return seconds;
  } finally {
    engine.running(-1);
    context.close();
  }
}

function ended(context: ContextHost, ticket: number, listen: (look: () => void) => void): Promise<void> {
  return new Promise((resolve, reject) => {
    const look = (): void => {
      const state = context.ticketReady(ticket);
      if (state === 'ready') resolve();
      else if (state === 'failed') reject(new RealmError(context.ticketError(ticket), 'the measured work failed'));
    };
    listen(look);
    look();
  });
}

function bytesPerToken(model: ModelHost): number {
  const { tensors } = JSON.parse(model.describe()) as { tensors: { name: string; bytes: number }[] };
  const sizes = new Map(tensors.map(({ name, bytes }) => [name, bytes]));
  return model.info.weightBytes - (sizes.has('output.weight') ? (sizes.get('token_embd.weight') ?? 0) : 0);
}

function spread(values: readonly number[]): Spread {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const median = sorted.length % 2 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
  return { median, min: sorted[0]!, max: sorted.at(-1)! };
}
