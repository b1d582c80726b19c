// Streaming: text as it comes, then several requests at once. An AbortSignal ends a request at any time.

import { Realm, RealmError } from '@realm-ai/sdk';

const QUESTIONS = [
  'What is the capital of France?',
  'What is the capital of Japan?',
  'What is the capital of Peru?',
];
const SETTINGS = { temperature: 0, maxTokens: 48 };

const realm = new Realm();
const stop = new AbortController();
process.once('SIGINT', () => stop.abort());

try {
  if (process.argv[2]) await realm.loadModel(process.argv[2], { signal: stop.signal });
  await streamOne();
  await streamSeveral();
} catch (problem) {
  if (!(problem instanceof RealmError)) throw problem;
  console.error(`${problem.code}: ${problem.message}`);
  process.exitCode = 1;
} finally {
  realm.dispose();
}

async function streamOne() {
  const stream = ask(QUESTIONS[0]);
  for await (const piece of stream) process.stdout.write(piece);
  const { usage } = await stream.result;
  console.log(`\n(${usage.promptTokens} tokens in, ${usage.completionTokens} out)`);
}

/** The requests are computed together, in one batch a step. */
async function streamSeveral() {
  const answers = await Promise.all(QUESTIONS.map(async (question) => {
    let answer = '';
    for await (const piece of ask(question)) answer += piece;
    return answer;
  }));
  QUESTIONS.forEach((question, index) => console.log(question, answers[index]));
}

function ask(question) {
  return realm.chatStream([{ role: 'user', content: question }], { ...SETTINGS, signal: stop.signal });
}
