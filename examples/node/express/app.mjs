// The routes: /chat answers at once, /chat/stream as server-sent events. Every error has a stable code and a status.

import { pipeline } from 'node:stream/promises';

import { RealmError } from '@realm-ai/sdk';
import express from 'express';

const CUSTOMER = /^[\w.-]{1,64}$/;
const MAX_TOKENS = 512;
const MAX_BODY = '256kb';

/** What is not listed is the server's own fault: 500. */
const STATUS = {
  'invalid-argument': 400,
  'template-error': 400,
  'context-full': 413,
  'limit-exceeded': 429,
  cancelled: 499, // the client has gone: only the log sees it
  closed: 503,
  'out-of-memory': 503,
};

/** `settings` hold for every request; `log` is called once a request with its customer and code. */
export function createApp(customers, { settings = {}, log = () => undefined } = {}) {
  const app = express();
  app.disable('x-powered-by');
  app.use(express.json({ limit: MAX_BODY }));

  const route = (answer) => async (request, response, next) => {
    const entry = { customer: request.get('x-customer-id'), code: 'ok' };
    try {
      const customer = checkCustomer(entry.customer);
      const { messages, options } = checkBody(request.body);
      const signal = hangUp(response);
      await customers.run(customer, (realm) => answer(realm, messages, { ...options, ...settings, signal }, response));
    } catch (problem) {
      entry.code = codeOf(problem);
      next(problem);
    } finally {
      log(entry);
    }
  };
  app.post('/chat', route(chat));
  app.post('/chat/stream', route(chatStream));
  app.use((request, response, next) => next(Object.assign(new Error('there is no such page'), { status: 404 })));
  app.use(sendError);
  return app;
}

async function chat(realm, messages, options, response) {
  const { text, finishReason, usage } = await realm.chat(messages, options);
  response.json({ text, finishReason, usage });
}

async function chatStream(realm, messages, options, response) {
  const stream = realm.chatStream(messages, options);
  const pieces = stream[Symbol.asyncIterator]();
  const first = await pieces.next(); // what fails before the first text still has a status
  response.type('text/event-stream').set('cache-control', 'no-store');
  await pipeline(events(first, pieces, stream.result), response, { signal: options.signal });
  await stream.result; // for the log
}

async function* events(first, pieces, result) {
  try {
    for (let piece = first; !piece.done; piece = await pieces.next()) yield event('text', { text: piece.value });
    const { finishReason, usage } = await result;
    yield event('end', { finishReason, usage });
  } catch (problem) {
    yield event('error', { code: codeOf(problem), message: problem.message });
  }
}

function event(name, data) {
  return `event: ${name}\ndata: ${JSON.stringify(data)}\n\n`;
}

// ---- what comes in ----

function checkCustomer(customer) {
  if (customer !== undefined && CUSTOMER.test(customer)) return customer;
  throw new RealmError('invalid-argument', 'the header x-customer-id must name the customer (letters, digits, _ . -)');
}

/** Only these settings are the client's to choose. */
function checkBody(body) {
  if (typeof body !== 'object' || body === null) {
    throw new RealmError('invalid-argument', 'the body must be a JSON object (content-type: application/json)');
  }
  const { messages, temperature, seed, maxTokens = MAX_TOKENS } = body;
  if (maxTokens > MAX_TOKENS) throw new RealmError('invalid-argument', `maxTokens may be ${MAX_TOKENS} at most`);
  return { messages, options: { temperature, seed, maxTokens } };
}

/** Aborted when the client closes the connection before it has the whole answer. */
function hangUp(response) {
  const stop = new AbortController();
  response.once('close', () => response.writableFinished || stop.abort());
  return stop.signal;
}

// ---- errors ----

function codeOf(problem) {
  if (problem instanceof RealmError) return problem.code;
  if (problem.name === 'AbortError' || problem.code === 'ERR_STREAM_PREMATURE_CLOSE') return 'cancelled';
  if (problem.status === 413) return 'limit-exceeded';
  if (problem.status === 404) return 'not-found';
  return problem.status >= 400 && problem.status < 500 ? 'invalid-argument' : 'internal';
}

function sendError(problem, request, response, next) {
  const code = codeOf(problem);
  const status = problem.status ?? STATUS[code] ?? 500;
  const message = status === 500 ? 'the server failed' : problem.message; // no paths or stacks to strangers
  if (status === 500) console.error(problem);
  if (response.headersSent || response.destroyed) return; // the stream has told it, or nobody listens
  const { limit, value, retryAfter } = problem; // of a limit that was met
  if (status === 429) response.set('retry-after', String(Math.ceil(retryAfter ?? 1)));
  response.status(status).json({ error: { code, message, limit, value } });
}
