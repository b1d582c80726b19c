// The conformance adapter of the Node host: one JSON request a line in, one JSON answer a line out. README.md has the table.

import { createInterface } from 'node:readline';

import * as sdk from '../../node/dist/index.mjs';
import { answerer } from './operations.mjs';

const answer = answerer(sdk);

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(`${JSON.stringify(await answer(JSON.parse(line)))}\n`);
}
