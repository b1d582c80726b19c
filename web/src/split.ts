// Names of split GGUF files: `model-00002-of-00005.gguf` is the second of five.

import { RealmError } from '../../js/src/errors.js';

/** More shards than any published model has; a name may claim 99999. */
const MAX_SHARDS = 512;

export interface ShardName {
  /** What all shards' names begin with. */
  stem: string;
  /** From 1. */
  index: number;
  count: number;
}

/** Reads a file name; undefined when it is not one of a split model. */
export function parseShardName(name: string): ShardName | undefined {
  const match = /^(.*)-(\d{5})-of-(\d{5})\.gguf$/i.exec(name);
  if (!match) return undefined;
  const [index, count] = [Number(match[2]), Number(match[3])];
  if (count < 1 || index < 1 || index > count) return undefined;
  return { stem: match[1] ?? '', index, count };
}

/** The addresses of all shards, from the address of any of them. */
export function shardUrls(url: URL): URL[] {
  const slash = url.pathname.lastIndexOf('/') + 1;
  const file = url.pathname.slice(slash);
  const shard = parseShardName(file);
  if (!shard) return [url];
  checkCount(shard.count, file);
  return Array.from({ length: shard.count }, (_, at) => {
    const sibling = new URL(url);
    const suffix = file.slice(-'.gguf'.length);
    const name = `${shard.stem}-${digits(at + 1)}-of-${digits(shard.count)}${suffix}`;
    sibling.pathname = url.pathname.slice(0, slash) + name;
    return sibling;
  });
}

/** Puts files that were chosen together into the order of their shards, and says which are missing. */
export function orderShards<T>(files: readonly T[], nameOf: (file: T) => string): T[] {
  const shards = files.map((file) => ({ file, name: parseShardName(nameOf(file)) }));
  const first = shards.find((shard) => shard.name)?.name;
  if (!first) {
    if (files.length === 1) return [...files];
    const names = files.map(nameOf).join(', ');
    throw new RealmError('invalid-argument', `these files are not the shards of one model (NAME-00001-of-00002.gguf): ${names}`);
  }
  checkCount(first.count, first.stem);
  const ordered = new Array<T | undefined>(first.count).fill(undefined);
  for (const { file, name } of shards) {
    if (name?.stem !== first.stem || name.count !== first.count) {
      throw new RealmError('invalid-argument', `${nameOf(file)} is not a shard of ${first.stem}`);
    }
    if (ordered[name.index - 1] !== undefined) {
      throw new RealmError('invalid-argument', `${nameOf(file)} was given twice`);
    }
    ordered[name.index - 1] = file;
  }
  const missing = ordered.flatMap((file, at) => (file === undefined ? [at + 1] : []));
  if (missing.length > 0) {
    const which = `shard ${missing.join(', ')} of ${first.count}`;
    throw new RealmError('not-found', `${first.stem}: ${which} is missing; choose all files of the model together`);
  }
  return ordered as T[];
}

function checkCount(count: number, name: string): void {
  if (count > MAX_SHARDS) {
    throw new RealmError('invalid-argument', `${name} names ${count} shards, at most ${MAX_SHARDS} are supported`);
  }
}

function digits(value: number): string {
  return String(value).padStart(5, '0');
}
