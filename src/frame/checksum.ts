// The Internet checksum (RFC 1071) over memory as it lies. Sums are of little-endian words, as the machine reads them:
// a one's complement sum does not mind, so long as it is stored the same way. Nothing is allocated.

/** Folds to 16 bits. */
export function fold(sum: number): number {
  let folded = sum
  while (folded > 0xffff) folded = (folded & 0xffff) + (folded >>> 16)
  return folded
}

/** A number in network order (a length, a protocol) as a little-endian word of a sum. */
export function networkWord(value: number): number {
  return ((value & 0xff) << 8) | ((value >>> 8) & 0xff)
}

/** The folded sum of `length` bytes; at most 64 KiB, so that the halves stay small integers. */
export function sumOf(view: DataView, at: number, length: number): number {
  let low = 0
  let high = 0
  let i = 0
  for (; i + 4 <= length; i += 4) {
    const word = view.getUint32(at + i, true)
    low += word & 0xffff
    high += word >>> 16
  }
  if (i + 2 <= length) {
    low += view.getUint16(at + i, true)
    i += 2
  }
  if (i < length) high += view.getUint8(at + i)
  return fold(low + high)
}

/** Copies `length` bytes (at most 64 KiB) and returns their folded sum. */
export function copyAndSum(from: DataView, fromAt: number, to: DataView, toAt: number, length: number): number {
  let low = 0
  let high = 0
  let i = 0
  for (; i + 4 <= length; i += 4) {
    const word = from.getUint32(fromAt + i, true)
    to.setUint32(toAt + i, word, true)
    low += word & 0xffff
    high += word >>> 16
  }
  if (i + 2 <= length) {
    const word = from.getUint16(fromAt + i, true)
    to.setUint16(toAt + i, word, true)
    low += word
    i += 2
  }
  if (i < length) {
    const byte = from.getUint8(fromAt + i)
    to.setUint8(toAt + i, byte)
    high += byte
  }
  return fold(low + high)
}
