// A session outside any guest, for what the host itself asks of a model: the logits of given tokens.

import { cancelled, checkSignal, RealmError } from './errors.js';
import { DEFAULT_LIMITS } from './options.js';
import type { ContextHost, EngineHost, ModelHost } from './platform.js';

/** Raw logits after each of the ids, one row each, computed with f32 keys and values. */
export async function hostLogits(
  engine: EngineHost,
  model: ModelHost,
  ids: Uint32Array,
  signal?: AbortSignal,
): Promise<Float32Array[]> {
  checkSignal(signal);
  let moved = (): void => undefined;
  const context = engine.context(0n, { ...DEFAULT_LIMITS, weight: 1 }, () => moved());
  const done = new AbortController(); // takes the listener off the caller's signal
  engine.running(1);
  try {
    const granted = context.grant(model);
    const ticket = context.forwardLogits(granted, context.sessionOpenExact(granted), ids);
    await ended(context, ticket, (listener) => (moved = listener), signal, done.signal);
    const all = context.ticketLogits(ticket);
    const width = model.info.vocabSize;
    return Array.from(ids, (_, row) => all.subarray(row * width, (row + 1) * width));
  } catch (problem) {
    throw problem instanceof RealmError ? problem : new RealmError(codeOf(problem), 'the logits cannot be computed');
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
