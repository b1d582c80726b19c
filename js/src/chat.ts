// From a conversation to the prompt of a model: chat template, special tokens, guard around user text.
//
// The rendered prompt is tokenized with special tokens parsed, as the template means its control tokens. What a user or a tool wrote
// must never become one, so control tokens spelled out in such messages are broken up by a zero-width space first.

import { RealmError } from './errors.js';
import { encodeText, invalid } from './options.js';
import type { ModelHost } from './platform.js';
import { renderTemplate } from './template.js';

export interface Message {
  role: string;
  content?: unknown;
  [name: string]: unknown;
}

export interface ChatOptions {
  tools?: readonly Record<string, unknown>[] | null;
  addGenerationPrompt?: boolean;
  chatTemplate?: string | null;
  /** Further variables of the template. */
  templateVariables?: Record<string, unknown>;
}

const TRUSTED_ROLES = ['system', 'developer', 'assistant']; // written by the application or the model itself
const BREAK = '\u200b';
const MAX_BREAK_ROUNDS = 8;
const MAX_DEPTH = 64; // of message data

const decoder = new TextDecoder();

/** A conversation as the model wants to read it. */
export interface Prompt {
  text: string;
  /** The text has no BOS token yet, so that the tokenizer may add it. */
  addSpecial: boolean;
}

export function renderPrompt(
  model: ModelHost,
  ownTemplate: string | null,
  messages: readonly Message[],
  options: ChatOptions = {},
): Prompt {
  const source = options.chatTemplate ?? ownTemplate;
  if (source === null) {
    throw new RealmError('template-error', 'the model has no chat template; pass chatTemplate, or use generate');
  }
  const guarded = checkMessages(messages).map((message) => guardMessage(model, message));
  const bos = tokenText(model, model.info.bos);
  const text = renderTemplate(source, {
    messages: guarded,
    tools: options.tools ?? null,
    documents: null,
    add_generation_prompt: options.addGenerationPrompt ?? true,
    bos_token: bos,
    eos_token: tokenText(model, model.info.eos),
    ...options.templateVariables,
  });
  return { text, addSpecial: bos === '' || !text.startsWith(bos) };
}

function tokenText(model: ModelHost, token: number | null): string {
  return token === null ? '' : decoder.decode(model.decode(Uint32Array.of(token), true, false));
}

function checkMessages(messages: unknown): readonly Message[] {
  if (!Array.isArray(messages) || messages.length === 0) {
    throw invalid("messages must be an array of objects with 'role' and 'content', and not empty");
  }
  for (const message of messages) {
    if (typeof message !== 'object' || message === null || typeof (message as Message).role !== 'string') {
      throw invalid("a message must be an object with 'role' and 'content'");
    }
  }
  return messages as Message[];
}

// ---- the guard ----

function guardMessage(model: ModelHost, message: Message): Message {
  if (TRUSTED_ROLES.includes(message.role)) return message;
  const parts = Object.entries(message).map(([name, value]) => [name, name === 'role' ? value : guard(model, value, 0)]);
  return Object.fromEntries(parts) as Message;
}

function guard(model: ModelHost, value: unknown, depth: number): unknown {
  if (depth > MAX_DEPTH) throw invalid('a message is nested too deeply');
  if (typeof value === 'string') return breakControlTokens(model, value);
  if (Array.isArray(value)) return value.map((item) => guard(model, item, depth + 1));
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, guard(model, item, depth + 1)]));
}

/** The same text, with a zero-width space inside whatever the tokenizer would read as a control token. */
function breakControlTokens(model: ModelHost, text: string): string {
  for (let round = 0; round < MAX_BREAK_ROUNDS; round++) {
    const spelled = controlTokens(model, text);
    if (spelled.length === 0) return text;
    for (const token of spelled) {
      const first = [...token][0]!;
      text = text.replaceAll(token, () => first + BREAK + token.slice(first.length));
    }
  }
  throw invalid('a message consists of control tokens that cannot be told from its text');
}

/** How the control tokens in a text are spelled, the longest first; [] for nearly every text. */
function controlTokens(model: ModelHost, text: string): string[] {
  const bytes = encodeText(text);
  const parsed = model.encode(bytes, false, true);
  const plain = model.encode(bytes, false, false);
  if (parsed.length === plain.length && parsed.every((id, index) => id === plain[index])) return [];
  const found = new Set<string>();
  for (const token of new Set(parsed)) {
    const spelled = tokenText(model, token);
    const silent = model.decode(Uint32Array.of(token), false, false).length === 0;
    if (spelled.length > 1 && text.includes(spelled) && silent) found.add(spelled);
  }
  return [...found].sort((a, b) => b.length - a.length);
}
