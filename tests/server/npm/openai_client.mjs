// The basic flows of OpenAI's official client for Node against the server whose address is the argument.
import assert from 'node:assert/strict';
import OpenAI from 'openai';

const client = new OpenAI({ baseURL: process.argv[2], apiKey: 'none', maxRetries: 0, timeout: 60_000 });
const messages = [{ role: 'user', content: 'What is the capital of France?' }];
const settings = { model: 'demo', messages, temperature: 0 };

const whole = await client.chat.completions.create({ ...settings, logprobs: true });
const text = whole.choices[0].message.content;
assert.match(text, /Paris/);
assert.equal(whole.choices[0].finish_reason, 'stop');
assert.equal(whole.usage.total_tokens, whole.usage.prompt_tokens + whole.usage.completion_tokens);
assert.equal(whole.choices[0].logprobs.content.map((token) => token.token).join(''), text);

const options = { ...settings, stream: true, stream_options: { include_usage: true } };
let streamed = '';
let usage = null;
for await (const chunk of await client.chat.completions.create(options)) {
  streamed += chunk.choices[0]?.delta.content ?? '';
  usage = chunk.usage ?? usage;
}
assert.equal(streamed, text);
assert.deepEqual(usage, whole.usage);

const cut = await client.chat.completions.create({ ...settings, stop: ['Par'] });
assert.equal(cut.choices[0].message.content, text.split('Par')[0]);

const several = await client.completions.create({ model: 'demo', prompt: 'The capital of', n: 2, seed: 3, max_tokens: 4 });
assert.deepEqual(several.choices.map((choice) => choice.index), [0, 1]);

const models = [];
for await (const model of client.models.list()) models.push(model.id);
assert.ok(models.includes('demo'));

await assert.rejects(client.chat.completions.create({ ...settings, model: 'gpt-99' }), OpenAI.NotFoundError);
const wrong = client.chat.completions.create({ ...settings, temperature: 9 });
await assert.rejects(wrong, (error) => error instanceof OpenAI.BadRequestError && error.param === 'temperature');

const endless = { model: 'endless', prompt: 'x', max_tokens: 50_000, stream: true, ignore_eos: true };
for await (const chunk of await client.completions.create(endless)) {
  assert.ok(chunk.choices.length);
  break; // the client closes the connection
}
console.log('all well');
