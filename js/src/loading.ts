// One model being loaded, for everyone who asks for it meanwhile; the loading stops when the last of them has given up.

import { cancelled, checkSignal } from './errors.js';
import type { HostLoadOptions } from './platform.js';

type Progress = (done: number) => void;
type Waiting = Pick<HostLoadOptions, 'progress' | 'signal'>;

export class Loading<Result> {
  readonly done: Promise<Result>;
  readonly #given = new AbortController();
  readonly #listeners = new Set<Progress>(); // they do not throw
  #waiting = 0;

  /** `run` begins at once; nobody wants its result any more when `signal` is aborted. */
  constructor(run: (progress: Progress, signal: AbortSignal) => Promise<Result>) {
    this.done = run((done) => this.#report(done), this.#given.signal);
    void this.done.catch(() => undefined); // those who wait hear of it
  }

  /** The last of those who waited has given up: it gives no result any more. */
  get abandoned(): boolean {
    return this.#given.signal.aborted;
  }

  #report(done: number): void {
    for (const listener of this.#listeners) listener(done);
  }

  /**
   * What the caller makes of the result, in the moment it is there. A caller may give up by its signal or by an exception of its
   * progress callback; then `take` is not called.
   */
  async wait<Taken>(options: Waiting, take: (result: Result) => Taken): Promise<Taken> {
    checkSignal(options.signal);
    let listener: Progress = () => undefined;
    const left = new AbortController(); // takes the listener off the caller's signal
    const stopped = new Promise<never>((_, reject) => {
      listener = quiet(options.progress, reject);
      const { signal } = options;
      signal?.addEventListener('abort', () => reject(cancelled(signal.reason)), { signal: left.signal });
    });
    this.#waiting++;
    this.#listeners.add(listener);
    try {
      return await Promise.race([this.done.then((result) => this.#take(take, result, left.signal)), stopped]);
    } finally {
      left.abort();
      this.#listeners.delete(listener);
      if (--this.#waiting === 0) this.#given.abort();
    }
  }

  #take<Taken>(take: (result: Result) => Taken, result: Result, left: AbortSignal): Taken {
    if (left.aborted) throw cancelled();
    return take(result);
  }
}

/** A progress callback whose exception ends its own caller's waiting, and nobody else's. */
function quiet(progress: Waiting['progress'], reject: (problem: unknown) => void): Progress {
  return (done) => {
    try {
      progress?.(Math.min(1, done));
    } catch (problem) {
      reject(problem);
    }
  };
}
