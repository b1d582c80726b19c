// Random 64-bit numbers, for seeds and for tenants without a name. Many are drawn at once: asking the system takes longer than the rest
// of a short request.

const drawn = new BigUint64Array(64);
let left = 0;

export function random64(): bigint {
  if (left === 0) {
    crypto.getRandomValues(drawn);
    left = drawn.length;
  }
  return drawn[--left]!;
}
