// The imports of one guest: what its context answers, plus text and log lines, which stay on this side. The adapters in
// _generated/abi.ts lower each of them by the canonical ABI.

import { IMPORTS, type Host, type Packed, type Sampling, type Token } from './_generated/abi.js';
import type { Urgency } from './options.js';
import type { ContextHost } from './platform.js';

export interface GuestSink {
  emit(request: number, text: Uint8Array): void;
  log(level: number, text: string): void;
  /** Of the request that the guest is being called for. */
  urgency(): Urgency | undefined;
  /** The guest drew a token from a session's logits. */
  sampled(session: number, token: Token): void;
  /** The guest took tokens that the engine had drawn. */
  generated(tokens: Packed): void;
  /** The guest is about to forget a ticket. */
  dropping(ticket: number): void;
  /** The guest submitted work: it has something to wait for now. */
  submitted(): void;
}

type Method = (...values: unknown[]) => unknown;
const SUBMITTING = ['forward', 'forwardLayers', 'score', 'generate', 'matmul', 'matmulTransposed', 'loadLayer'];
const METHODS = Object.keys(IMPORTS).map((name) => name.replace(/-(.)/g, (_, letter: string) => letter.toUpperCase()));

export function guestImports(context: ContextHost, sink: GuestSink): Host {
  const host: Record<string, Method> = {};
  for (const name of METHODS) {
    if (name === 'emit' || name === 'log') continue;
    const method = (context as unknown as Record<string, Method>)[name]!.bind(context);
    host[name] = SUBMITTING.includes(name) ? counted(method, sink) : method;
  }
  host['sessionOpen'] = (model) => context.sessionOpen(model as number, sink.urgency());
  host['sample'] = (session, params, biases) => {
    const token = context.sample(session as number, params as Sampling, biases as Packed);
    sink.sampled(session as number, token);
    return token;
  };
  host['ticketTokens'] = (ticket) => {
    const tokens = context.ticketTokens(ticket as number);
    sink.generated(tokens);
    return tokens;
  };
  host['ticketDrop'] = (ticket) => {
    sink.dropping(ticket as number);
    context.ticketDrop(ticket as number);
  };
  host['emit'] = (request, text) => sink.emit(request as number, text as Uint8Array);
  host['log'] = (level, text) => sink.log(level as number, text as string);
  return host as unknown as Host;
}

function counted(submit: Method, sink: GuestSink): Method {
  return (...values) => {
    const ticket = submit(...values);
    sink.submitted();
    return ticket;
  };
}
