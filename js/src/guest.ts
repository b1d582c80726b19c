// One guest: an instance of a module with the host side of its realm, and the requests that run in it.
//
// A guest is polled when it was started or cancelled, or when one of its tickets made progress. A call that traps ends the guest: its
// state may be anything, so it is never entered again. Guests run in this thread, one call at a time; JavaScript has no way to
// interrupt a call, so a guest that is not trusted to return runs in a worker, whose watchdog ends the whole thread.

import { AbiError, GuestExports, InterfaceError, type ErrorCode, type Export, type Packed, type Step, type Token } from './_generated/abi.js';
import { addWork, Drawn, NO_WORK, type Told } from './drawn.js';
import { requestFailure, RealmError } from './errors.js';
import { guestImports, type GuestSink } from './imports.js';
import type { ResourceLimits, Urgency } from './options.js';
import { platform, watched, type ContextHost, type EngineHost, type ModelHost } from './platform.js';
import { NOTHING, type Ended, type Listener, type RealmRequest, type RunningRequest } from './port.js';
import { AllocationError, Sandbox, takeSandbox } from './sandbox.js';

const TURN_STEPS = 64; // output steps of one request before the other guests get their turn
const IDLE_STEPS = 100_000; // output steps without text or open ticket before a request counts as stalled
const MAX_REQUESTS = 4096;
const PAGE = 65536;
const LATE = 1e-9; // a deadline that has passed: 0 would be none

class Running {
  handle = 0;
  emitted = 0;
  held = 0; // bytes of text that wait to be read
  idleSteps = 0;
  startedAt = performance.now();
  firstAt = 0;
  readonly work = { ...NO_WORK };
  readonly drawn: Drawn | undefined;

  constructor(
    readonly listener: Listener,
    readonly patient: boolean,
    private readonly urgency: Urgency,
    { logprobs, topLogprobs }: Told,
  ) {
    this.drawn = logprobs || topLogprobs > 0 ? new Drawn(topLogprobs) : undefined;
  }

  /** With what is left of its time. */
  urgencyNow(): Urgency {
    const { priority, deadline } = this.urgency;
    const spent = (performance.now() - this.startedAt) / 1000;
    return { priority, deadline: deadline && Math.max(LATE, deadline - spent) };
  }

  end(part: Partial<Ended>): void {
    const now = performance.now();
    this.listener.end({
      ...NOTHING,
      firstTokenSeconds: this.firstAt ? (this.firstAt - this.startedAt) / 1000 : 0,
      totalSeconds: (now - this.startedAt) / 1000,
      work: this.work,
      ...part,
    });
  }
}

export class Guest implements GuestSink {
  /** Why the guest is gone, once it is. */
  problem: RealmError | undefined;
  readonly #engine: EngineHost;
  readonly #context: ContextHost;
  readonly #limits: Required<ResourceLimits>;
  readonly #sandbox: Sandbox;
  readonly #running = new Map<number, Running>();
  readonly #grants = new Map<string, number>();
  #exports: GuestExports | undefined;
  #starting: Running | undefined;
  #polled: Running | undefined;
  #submissions = 0;
  #textHeld = 0;
  #queued = false;
  #hurried = 0; // running requests that are not patient
  #closed = false;

  /** `standard`: the module is the one that ships with Realm. */
  constructor(
    engine: EngineHost,
    module: WebAssembly.Module,
    standard: boolean,
    tenant: bigint,
    limits: Required<ResourceLimits>,
  ) {
    this.#engine = engine;
    this.#limits = limits;
    this.#context = engine.context(tenant, limits, () => this.#poll());
    try {
      const imports = guestImports(this.#context, this);
      this.#sandbox = standard ? takeSandbox(module, imports) : new Sandbox(module, imports);
    } catch (problem) {
      this.#context.close();
      if (problem instanceof RealmError) throw problem;
      throw new RealmError('guest-invalid', `the guest cannot be instantiated: ${(problem as Error).message}`);
    }
  }

  // ---- requests ----

  /** Starts a request; `model` is granted at its first use. */
  start({ urgency, told, ...request }: RealmRequest, model: ModelHost | undefined, listener: Listener): RunningRequest {
    this.#checkOpen();
    if (this.#running.size >= MAX_REQUESTS) throw new RealmError('limit-exceeded', 'too many requests in one realm');
    const patient = listener.patient === true && request.stops.length === 0; // what follows a stop is in vain
    const topLogprobs = Math.min(told.topLogprobs, model?.info.vocabSize ?? 0);
    const running = new Running(listener, patient, urgency, { ...told, topLogprobs });
    const exports = this.#orchestrator();
    const handle = model ? this.grant(model) : 0;
    this.#starting = running;
    this.#hurry(running, 1);
    try {
      running.handle = this.#enter(() => exports.start({ ...request, model: handle }));
    } catch (problem) {
      this.#hurry(running, -1);
      throw this.#startProblem(problem);
    } finally {
      this.#starting = undefined;
    }
    if (this.#running.has(running.handle)) throw this.#die(new AbiError('the guest gave one handle to two requests'));
    this.#running.set(running.handle, running);
    this.#engine.running(1);
    this.#pollSoon();
    return { cancel: () => this.#cancel(running), took: (size) => this.#took(running, size) };
  }

  #hurry(running: Running, change: 1 | -1): void {
    if (running.patient) return;
    this.#hurried += change;
    if (this.#hurried === (change === 1 ? 1 : 0)) this.#context.patient?.(this.#hurried === 0);
  }

  #startProblem(problem: unknown): RealmError {
    if (problem instanceof InterfaceError) return new RealmError(problem.code, 'the guest refused the request');
    return problem as RealmError;
  }

  #cancel(running: Running): void {
    if (this.#running.get(running.handle) !== running || this.#closed || this.problem) return;
    try {
      this.#enter(() => this.#orchestrator().cancel(running.handle));
      this.#pollSoon();
    } catch {
      // the guest died of it, and told its requests
    }
  }

  #took(running: Running, size: number): void {
    if (this.#running.get(running.handle) !== running) return;
    running.held -= size;
    this.#textHeld -= size;
  }

  /** The realm's handle of a model. */
  grant(model: ModelHost): number {
    let handle = this.#grants.get(model.key);
    if (handle === undefined) this.#grants.set(model.key, (handle = this.#context.grant(model)));
    return handle;
  }

  revoke(model: ModelHost): void {
    const handle = this.#grants.get(model.key);
    if (handle !== undefined) this.#context.revoke(handle);
    this.#grants.delete(model.key);
  }

  /** Ends what runs with `closed`. Doing it again does nothing. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#context.close();
    this.#endAll(new RealmError('closed', 'the realm was closed during the request'));
  }

  /** Calls an export that takes and returns numbers. */
  call(name: string, values: readonly (number | bigint)[]): unknown {
    this.#checkOpen();
    const found = this.#sandbox.instance.exports[name];
    if (typeof found !== 'function') throw new RealmError('guest-invalid', `the module exports no function '${name}'`);
    return this.#enter(() => (found as (...all: (number | bigint)[]) => unknown)(...values));
  }

  #checkOpen(): void {
    if (this.problem) {
      throw new RealmError(this.problem.code, `this realm was stopped: ${this.problem.message}; make a new one`);
    }
    if (this.#closed) throw new RealmError('closed', 'this realm was closed; make a new one');
  }

  #orchestrator(): GuestExports {
    const find = (name: string): Export | undefined => this.#sandbox.instance.exports[name] as Export | undefined;
    return (this.#exports ??= new GuestExports(this.#sandbox.memory, find));
  }

  // ---- calls into the guest ----

  /** Runs a call into the guest; anything but an error of the interface is its end. */
  #enter<T>(action: () => T): T {
    try {
      return watched(action);
    } catch (problem) {
      if (problem instanceof InterfaceError) throw problem;
      if (this.#starting && problem instanceof AllocationError) {
        throw new RealmError('guest-memory', "the request does not fit into the guest's memory");
      }
      throw this.#die(problem);
    }
  }

  #die(problem: unknown): RealmError {
    if (this.problem) return this.problem;
    this.problem = this.#trapError(problem);
    this.#context.close();
    this.#endAll(this.problem);
    return this.problem;
  }

  #trapError(problem: unknown): RealmError {
    if (problem instanceof RealmError) return problem;
    const message = problem instanceof Error ? problem.message : String(problem);
    const full = this.#sandbox.memory.view().byteLength + PAGE > this.#limits.guestMemoryBytes;
    if (problem instanceof WebAssembly.RuntimeError && message.includes('unreachable') && full) {
      return new RealmError('guest-memory', 'the guest wanted more memory than its limit');
    }
    return new RealmError('guest-trap', `the guest trapped: ${message}`, { cause: problem });
  }

  #endAll(problem: RealmError): void {
    const all = [...this.#running.values()];
    this.#running.clear();
    for (const running of all) {
      this.#engine.running(-1);
      running.end({ problem });
    }
  }

  // ---- polling ----

  #pollSoon(): void {
    queueMicrotask(() => this.#poll());
  }

  /** After the events that wait already: so that one guest never holds up the others. */
  #pollLater(): void {
    if (this.#queued) return;
    this.#queued = true;
    platform().defer(() => {
      this.#queued = false;
      this.#poll();
    });
  }

  #poll(): void {
    for (const running of [...this.#running.values()]) {
      if (this.#closed || this.problem) return;
      if (this.#running.get(running.handle) === running) this.#pollRequest(running);
    }
  }

  /** Polls a request until it waits for a ticket or its turn is over. */
  #pollRequest(running: Running): void {
    for (let steps = 0; steps < TURN_STEPS; steps++) {
      const submissions = this.#submissions;
      const emitted = running.emitted;
      const hadOpen = this.#context.openTickets() > 0;
      const step = this.#step(running);
      if (step === undefined || this.#closed) return;
      const moved = this.#submissions !== submissions || running.emitted !== emitted;
      const open = this.#context.openTickets() > 0;
      if (step === 'pending' && open) return;
      const idle = step === 'output' ? !moved : !hadOpen && !moved;
      running.idleSteps = idle ? running.idleSteps + 1 : 0;
      if (running.idleSteps > (step === 'pending' ? 1 : IDLE_STEPS)) {
        this.#finish(running, { problem: requestFailure('stalled') });
        return;
      }
    }
    this.#pollLater();
  }

  /** One poll; undefined when the request has ended. */
  #step(running: Running): Step | undefined {
    this.#polled = running;
    try {
      const step = this.#enter(() => this.#orchestrator().poll(running.handle));
      if (step !== 'done') return step;
      this.#finish(running, this.#outcome(running));
    } catch (problem) {
      if (problem instanceof InterfaceError) this.#finish(running, { problem: this.#failure(problem.code) });
    } finally {
      this.#polled = undefined;
    }
    return undefined;
  }

  #outcome(running: Running): Partial<Ended> {
    const report = this.#enter(() => this.#orchestrator().outcome(running.handle));
    const { finish, promptTokens, tokens, extra } = report;
    if (finish === 'failed') return { problem: this.#failure(report.error) };
    return { finish, promptTokens, tokens, extra, drawn: running.drawn?.first(tokens.length) };
  }

  /** A guest knows only a code; the host knows which limit it was. */
  #failure(code: ErrorCode): RealmError {
    const refusal = this.#context.refusal();
    return refusal?.code === code ? refusal : requestFailure(code);
  }

  setLimits(limits: Required<ResourceLimits>): void {
    this.#checkOpen();
    this.#context.setLimits(limits);
  }

  #finish(running: Running, part: Partial<Ended>): void {
    if (!this.#running.delete(running.handle)) return;
    this.#textHeld -= running.held;
    this.#engine.running(-1);
    this.#hurry(running, -1);
    if (!this.#closed && !this.problem) {
      try {
        this.#enter(() => this.#orchestrator().release(running.handle));
      } catch {
        // the guest died of it; this request has its result
      }
    }
    running.end(part);
  }

  // ---- what the guest says ----

  /** @internal */
  submitted(): void {
    this.#submissions++;
  }

  /** @internal */
  urgency(): Urgency | undefined {
    return (this.#starting ?? this.#polled)?.urgencyNow();
  }

  /** @internal */
  sampled(session: number, token: Token): void {
    const drawn = this.#polled?.drawn;
    if (!drawn || drawn.full) return;
    drawn.push(token);
    if (drawn.top > 0) drawn.add(this.#context.likeliest(session, drawn.top));
  }

  /** @internal Of these the likeliest are not known. */
  generated(tokens: Packed): void {
    const drawn = this.#polled?.drawn;
    if (drawn?.top === 0) drawn.add(tokens);
  }

  /** @internal */
  dropping(ticket: number): void {
    const work = this.#polled && this.#context.ticketWork(ticket);
    if (work) addWork(this.#polled!.work, work);
  }

  /** @internal Text for a request that is being started or runs. */
  emit(request: number, text: Uint8Array): void {
    const running = this.#running.get(request) ?? this.#starting;
    if (!running) throw new AbiError('emit: the guest emitted text for a request that does not run');
    if (text.length === 0) return;
    if (text.length > this.#limits.textBytes - this.#textHeld) {
      throw new AbiError('emit: the guest emitted more text than its limit');
    }
    this.#textHeld += text.length;
    running.emitted += text.length;
    running.held += text.length;
    running.firstAt ||= performance.now();
    running.listener.text(text.slice());
  }

  /** @internal Dropped: unlike Python, JavaScript has no log of the application's for it. */
  log(_level: number, _text: string): void {}
}
