// One round of node-llama-cpp (llama.cpp's own kernels, prebuilt) for bench_peers.py, which copies this file beside an
// installed node-llama-cpp: prints one JSON object of seconds and tokens per second.
//   node peer_llama.mjs MODEL THREADS PREFILL,PREFILL DECODE FIRST [PARALLEL]    the last: tokens by each of 8 at once
const [model_path, threads_text, prefills_text, decode_text, first_text, parallel_text] = process.argv.slice(2);
const threads = Number(threads_text);
const decode = Number(decode_text);
const seconds = () => Number(process.hrtime.bigint()) / 1e9;

const { getLlama, LlamaLogLevel } = await import("node-llama-cpp");
const llama = await getLlama({
    gpu: false, build: "never", skipDownload: true, maxThreads: threads, logLevel: LlamaLogLevel.error,
});

const load_start = seconds();
const model = await llama.loadModel({ modelPath: model_path });
const load_s = seconds() - load_start;
const context = await model.createContext({ contextSize: 2048, batchSize: 512, threads });
const sequence = context.getSequence();

// Any ordinary pieces do: speed does not depend on them.
const prompt = (length) => Array.from({ length }, (_, i) => (i === 0 ? 1 : 300 + ((i * 7919) % 30000)));

async function prefill_rate(length) {
    await sequence.clearHistory();
    const start = seconds();
    await sequence.evaluateWithoutGeneratingNewTokens(prompt(length));
    return length / (seconds() - start);
}

// First token of a prompt, then the rate of `count` more. The end token is ignored: random weights may draw it.
async function generate(length, count) {
    await sequence.clearHistory();
    const start = seconds();
    let first = 0, made = -1; // the first token is not counted in the rate
    for await (const _ of sequence.evaluate(prompt(length), { temperature: 0, yieldEogToken: true })) {
        if (first === 0) first = seconds();
        if (++made === count) break;
    }
    return { first_token_s: first - start, decode: count > 0 ? made / (seconds() - first) : 0 };
}

const result = { load_s, prefill: {} };
for (const length of prefills_text.split(",").map(Number)) {
    await prefill_rate(length); // warm up: pages, threads, buffers of that batch size
    result.prefill[length] = await prefill_rate(length);
}
result.first_token_s = (await generate(Number(first_text), 0)).first_token_s;
result.decode = (await generate(Number(first_text), decode)).decode;
if (parallel_text) {
    sequence.dispose();
    const together = await model.createContext({ contextSize: 512, sequences: 8, batchSize: 512, threads });
    const sequences = Array.from({ length: 8 }, () => together.getSequence());
    const made = Number(parallel_text);
    const one = async (own, index) => {
        await own.clearHistory();
        let count = 0;
        const ids = prompt(Number(first_text)).map((id, i) => (i === 0 ? id : 300 + ((id + index * 131) % 30000)));
        for await (const _ of own.evaluate(ids, { temperature: 0, yieldEogToken: true })) if (++count === made) break;
    };
    await Promise.all(sequences.map(one)); // warm
    const start = seconds();
    await Promise.all(sequences.map(one));
    result.parallel = (8 * made) / (seconds() - start);
}
result.resident = process.memoryUsage().rss;
console.log(JSON.stringify(result));
process.exit(0);
