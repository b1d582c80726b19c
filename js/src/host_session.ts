// A session outside any guest, for what the host itself asks of a model: the logits of given tokens, and prefixes that it publishes.

import { cancelled, checkSignal, RealmError } from './errors.js';
import { DEFAULT_LIMITS } from './options.js';
import type { ContextHost, EngineHost, ModelHost } from './platform.js';
import type { Published } from './port.js';

/** Raw logits after each of the ids, one row each, computed with f32 keys and values. */
export function hostLogits(
  engine: EngineHost,
  model: ModelHost,
  ids: Uint32Array,
  signal?: AbortSignal,
): Promise<Float32Array[]> {
  return inContext(engine, signal, 'the logits cannot be computed', async (context, wait) => {
    const granted = context.grant(model);
    const ticket = context.forwardLogits(granted, context.sessionOpenExact(granted), ids);
    await wait(ticket);
    const all = context.ticketLogits(ticket);
    const width = model.info.vocabSize;
    return Array.from(ids, (_, row) => all.subarray(row * width, (row + 1) * width));
  });
}

/** Computes the tokens once, for the sessions of every tenant. */
export function hostPublish(engine: EngineHost, model: ModelHost, ids: Uint32Array): Promise<Published> {
  return inContext(engine, undefined, 'the prefix cannot be published', async (context, wait) => {
    const session = context.sessionOpenPrivate(context.grant(model));
    await wait(context.forward(session, ids));
    return context.publish(session);
  });
}

/** Runs work in a context of the host's own. */
async function inContext<Value>(
  engine: EngineHost,
  signal: AbortSignal | undefined,
  failure: string,
  work: (context: ContextHost, wait: (ticket: number) => Promise<void>) => Promise<Value>,
): Promise<Value> {
  checkSignal(signal);
  let moved = (): void => undefined;
  const context = engine.context(0n, { ...DEFAULT_LIMITS, weight: 1 }, () => moved());
  const done = new AbortController(); // takes the listener off the caller's signal
  engine.running(1);
  try {
    return await work(context, (ticket) => ended(context, ticket, (listener) => (moved = listener), signal, done.signal));
  } catch (problem) {
    throw problem instanceof RealmError ? problem : (context.refusal() ?? new RealmError(codeOf(problem), failure));
  } finally {
    done.abort();
    engine.running(-1);
    context.close();
  }
}

function codeOf(problem: unknown): RealmError['code'] {
  return (problem as { code?: RealmError['code'] }).code ?? 'internal';
}

function ended(
  context: ContextHost,
  ticket: number,
  listen: (listener: () => void) => void,
  signal: AbortSignal | undefined,
  done: AbortSignal,
): Promise<void> {
  return new Promise((resolve, reject) => {
    const look = (): void => {
      const state = context.ticketReady(ticket);
      if (state === 'ready') resolve();
      else if (state === 'failed') reject(new RealmError(context.ticketError(ticket), 'the forward pass failed'));
    };
    listen(look);
    signal?.addEventListener('abort', () => reject(cancelled(signal.reason)), { signal: done });
    look();
  });
}
