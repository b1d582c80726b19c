// The journal beside each cached file: one line of JSON that says what the file is, then a line for each run of blocks that
// is on disk. Lines are only added, so that a tab may die at any moment: a torn last line is ignored.

import { BLOCK, BlockSet, MAX_FILE_SIZE } from './blocks.js';

const VERSION = 1;

/** What a cached file is a copy of. */
export interface Identity {
  /** An address without its fragment, or the name that the application gave. */
  key: string;
  name: string;
  size: number;
  /** ETag or Last-Modified; empty when the server sends neither. */
  validator: string;
}

export interface Journal {
  identity: Identity;
  created: number;
  blocks: BlockSet;
  /** SHA-256 of the whole file, once it was computed. */
  digest: string | undefined;
}

export function headerLine(identity: Identity, created: number): string {
  const { key, name, size, validator } = identity;
  return `${JSON.stringify({ realm: VERSION, block: BLOCK, key, name, size, validator, created })}\n`;
}

export function runLine(first: number, count: number): string {
  return `+${first} ${count}\n`;
}

export function digestLine(digest: string): string {
  return `sha256 ${digest}\n`;
}

/** Reads a journal; undefined when it is none of ours. */
export function parseJournal(text: string): Journal | undefined {
  const lines = text.slice(0, text.lastIndexOf('\n') + 1).split('\n');
  const header = parseHeader(lines[0] ?? '');
  if (!header) return undefined;
  const journal: Journal = { ...header, blocks: new BlockSet(header.identity.size), digest: undefined };
  for (const line of lines.slice(1)) readLine(journal, line);
  return journal;
}

function readLine(journal: Journal, line: string): void {
  const run = /^\+(\d{1,9}) (\d{1,9})$/.exec(line);
  if (run) {
    const end = Math.min(Number(run[1]) + Number(run[2]), journal.blocks.count);
    for (let index = Number(run[1]); index < end; index += 1) journal.blocks.add(index);
  }
  const digest = /^sha256 ([0-9a-f]{64})$/.exec(line);
  if (digest) journal.digest = digest[1];
}

function parseHeader(line: string): { identity: Identity; created: number } | undefined {
  let header: Partial<Record<string, unknown>>;
  try {
    header = JSON.parse(line) as Partial<Record<string, unknown>>;
  } catch {
    return undefined;
  }
  if (typeof header !== 'object' || header === null || header['realm'] !== VERSION || header['block'] !== BLOCK) return undefined;
  const { key, name, size, validator, created } = header;
  if (typeof key !== 'string' || typeof name !== 'string' || typeof validator !== 'string') return undefined;
  if (!Number.isSafeInteger(size) || (size as number) < 0 || (size as number) > MAX_FILE_SIZE) return undefined;
  return { identity: { key, name, size: size as number, validator }, created: typeof created === 'number' ? created : 0 };
}
