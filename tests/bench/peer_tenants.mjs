// Tenants that generate at once through the Node SDK, for bench_tenants.py; the protocol of bench_tenants_core.c.
//   node peer_tenants.mjs MODEL THREADS TENANTS TOKENS
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { Realm } from '../../node/dist/index.mjs';

const TASKS = '/proc/self/task';
const COMPUTE = 'realm-'; // how the core's threads are called
const [path, ...numbers] = process.argv.slice(2);
const [threads, count, tokens] = numbers.map(Number);

/** Processor time of all threads but those that compute; 0 where the system does not tell. */
function hostSeconds() {
  if (!existsSync(TASKS)) return 0;
  const hosts = readdirSync(TASKS).filter((task) => !readFileSync(`${TASKS}/${task}/comm`, 'utf8').startsWith(COMPUTE));
  return hosts.reduce((sum, task) => sum + Number(readFileSync(`${TASKS}/${task}/schedstat`, 'utf8').split(' ')[0]) / 1e9, 0);
}

const realms = Array.from({ length: count }, (_, i) => new Realm({ threads, tenant: i + 1 }));
const model = await realms[0].loadModel(path);
await Promise.all(realms.slice(1).map((realm) => realm.loadModel(model)));

/** From the first request to the last answer. */
async function play() {
  const before = await realms[0].stats();
  const busy = hostSeconds();
  const start = performance.now();
  const made = await Promise.all(
    realms.map((realm, i) => realm.generate(`${i} apples`, { maxTokens: tokens, temperature: 0, ignoreEnd: true })),
  );
  const took = (performance.now() - start) / 1e3;
  const overhead = (hostSeconds() - busy) / took;
  const after = await realms[0].stats();
  const rate = made.reduce((sum, answer) => sum + answer.tokens.length, 0) / took;
  const stepSeconds = Number(after.stepNs - before.stepNs) / 1e9;
  console.log(JSON.stringify({ rate, steps: Number(after.steps - before.steps), step_seconds: stepSeconds, overhead }));
}

await play(); // warm
for await (const _ of createInterface({ input: process.stdin })) await play();
for (const realm of realms) realm.dispose();
