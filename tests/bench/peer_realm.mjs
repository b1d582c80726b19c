// One round of the Node SDK for bench_node.py: prints one JSON object of seconds, tokens per second and bytes; medians of the repeats.
//   node peer_realm.mjs MODEL THREADS FIRST PREFILL DECODE PARALLEL REPEATS [MODE]       the mode is the SDK's default
import { Realm } from '../../node/dist/index.mjs';

const [path, ...numbers] = process.argv.slice(2);
const [threads, first, prefill, decode, parallel, repeats] = numbers.map(Number);
const mode = process.argv[9] ?? 'whole';
const GENERATIONS = 8;
const seconds = () => performance.now() / 1000;

const keep = new Realm({ threads });
const loadStart = seconds();
const model = await keep.loadModel(path);
const load = seconds() - loadStart;

/** A text of exactly so many tokens. */
async function prompt(length, index) {
  const ids = Array.from({ length }, (_, i) => 300 + ((i * 7919 + index * 131) % 30000));
  for (let count = length; ; count--) {
    const text = await keep.detokenize(ids.slice(0, count));
    const found = (await keep.tokenize(text, { addSpecial: true })).length;
    if (found <= length) return text;
  }
}

const texts = { first: await Promise.all(Array.from({ length: GENERATIONS }, (_, i) => prompt(first, i))) };
texts.prefill = [await prompt(prefill, 0)];

/** Whole requests at once, each in a new realm. */
async function timed(prompts, maxTokens) {
  const began = seconds();
  const realms = prompts.map(() => new Realm({ threads }));
  const made = await Promise.all(
    realms.map(async (realm, i) => {
      await realm.loadModel(model);
      return realm.generate(prompts[i], { maxTokens, temperature: 0, ignoreEnd: true, mode });
    }),
  );
  const took = seconds() - began;
  for (const realm of realms) realm.dispose();
  return { took, made };
}

async function measure() {
  const onPrefill = await timed(texts.prefill, 1);
  const onFirst = await timed(texts.first.slice(0, 1), 1);
  const onDecode = await timed(texts.first.slice(0, 1), decode + 1);
  const onParallel = await timed(texts.first, parallel);
  return {
    first: onFirst.took,
    prefill: onPrefill.made[0].promptTokens / onPrefill.took,
    decode: onDecode.made[0].timings.tokensPerSecond,
    parallel: (GENERATIONS * parallel) / onParallel.took,
  };
}

await timed(texts.prefill, 1); // warm: pages, threads, buffers
await timed(texts.first, parallel); // the interpreter has seen it all
const all = [];
for (let repeat = 0; repeat < repeats; repeat++) all.push(await measure());
const median = (name) => all.map((found) => found[name]).sort((a, b) => a - b)[repeats >> 1];
const medians = Object.fromEntries(Object.keys(all[0]).map((name) => [name, median(name)]));
console.log(JSON.stringify({ load, ...medians, resident: process.memoryUsage().rss }));
