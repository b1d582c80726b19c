// What the tests of the Node host share.

import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';

export const ROOT = fileURLToPath(new URL('../..', import.meta.url));
export const DEMO = `${ROOT}demo_model/realm-demo.gguf`;
export const QUESTION = [{ role: 'user', content: 'What is the capital of France?' }];
export const ANSWER = 'The capital of France is Paris.';

/** The promise is rejected with a RealmError of this code. */
export async function rejectsWith(promise, code) {
  await assert.rejects(promise, (problem) => {
    assert.equal(problem.name, 'RealmError', String(problem?.stack));
    assert.equal(problem.code, code, problem.message);
    return true;
  });
}

export function throwsWith(action, code) {
  assert.throws(action, (problem) => problem.name === 'RealmError' && problem.code === code);
}
