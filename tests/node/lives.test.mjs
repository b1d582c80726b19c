// A short run of lives.mjs; the long one, under sanitizers, is `python3 -m realm_build bench lives`.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';

import { ROOT } from './helpers.mjs';

test('three hundred lives end well', () => {
  const run = [process.execPath, ['--expose-gc', `${ROOT}tests/node/lives.mjs`, '300']];
  const done = spawnSync(...run, { encoding: 'utf8', timeout: 120000 });
  assert.equal(done.status, 0, done.stderr);
  const { rounds, before, after } = JSON.parse(done.stdout);
  assert.equal(rounds, 300);
  assert(after - before < 64e6, `grew by ${after - before} bytes`); // a leaked model or context each time would be more
});
