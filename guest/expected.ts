// What the guests' ring must end with, computed here bit for bit as guest/ring.c does (IEEE 754 doubles, no fused
// multiply-add on either side).

/** Multiplications in one hop; HOP_MULTIPLICATIONS in guest/lab.h. */
const hopMultiplications = 100

/** The value that token `number` leaves node `node` with, when it came with `value`. */
export function hopResult(value: number, number: number, node: number): number {
  let x = 1 + (number % 1009) / 1009
  for (let i = 0; i < hopMultiplications; i++) x *= i % 2 === 1 ? 1.0000019 : 0.9999983
  return value + x * (node + 1)
}

/** The ring's running result after tokens 0 to `hops` - 1. */
export function ringResult(nodes: number, hops: number): number {
  let value = 0
  for (let number = 0; number < hops; number++) value = hopResult(value, number, number % nodes)
  return value
}

/** A double's bits as 16 hex digits: how guests report values. */
export function bitsOf(value: number): string {
  const view = new DataView(new ArrayBuffer(8))
  view.setFloat64(0, value)
  return view.getBigUint64(0).toString(16).padStart(16, '0')
}
