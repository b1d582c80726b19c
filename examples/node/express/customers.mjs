// A realm for each customer: made at the first request, closed after a while without any, never more than `most`.

import { createHmac, randomBytes } from 'node:crypto';

import { Realm, RealmError } from '@realm-ai/sdk';

export class Customers {
  #key = randomBytes(32);
  #entries = new Map(); // customer -> entry; the one used last stands last

  /** `model`: path of a GGUF file, loaded once however many customers there are; undefined: the demo model. */
  constructor({ model, most = 100, idleMs = 5 * 60_000, limits } = {}) {
    Object.assign(this, { model, most, idleMs, limits });
  }

  get size() {
    return this.#entries.size;
  }

  /** Calls `work` with the customer's realm, which stays open until it is done. */
  async run(customer, work) {
    const entry = this.#entries.get(customer) ?? this.#open(customer);
    this.#entries.delete(customer);
    this.#entries.set(customer, entry);
    clearTimeout(entry.timer);
    entry.running++;
    try {
      await entry.ready;
      return await work(entry.realm);
    } finally {
      entry.running--;
      if (entry.running === 0) this.#rest(customer, entry);
    }
  }

  /** Ends what runs. */
  close() {
    for (const customer of [...this.#entries.keys()]) this.#close(customer);
  }

  #open(customer) {
    if (this.size >= this.most) this.#makeRoom();
    const realm = new Realm({ limits: this.limits, tenant: this.#tenant(customer) });
    const ready = this.model ? realm.loadModel(this.model) : Promise.resolve();
    const entry = { realm, ready, running: 0, timer: undefined };
    ready.catch(() => this.#entries.get(customer) === entry && this.#close(customer)); // the next request tries again
    return entry;
  }

  /** The same number for a customer's next realm: what was used of its rates counts on. */
  #tenant(customer) {
    return BigInt.asUintN(62, createHmac('sha256', this.#key).update(customer).digest().readBigUInt64LE()) | 1n;
  }

  /** Closes the realm that has been idle longest. */
  #makeRoom() {
    for (const [customer, entry] of this.#entries) {
      if (entry.running === 0) return this.#close(customer);
    }
    throw new RealmError('limit-exceeded', `all ${this.most} realms are at work; try again soon`);
  }

  #rest(customer, entry) {
    if (this.#entries.get(customer) !== entry) return; // closed in the meantime
    entry.timer = setTimeout(() => this.#close(customer), this.idleMs);
    entry.timer.unref();
  }

  #close(customer) {
    const entry = this.#entries.get(customer);
    this.#entries.delete(customer);
    clearTimeout(entry.timer);
    entry.realm.dispose();
  }
}
