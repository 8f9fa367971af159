// Damage to bytes, as wires, hostile guests and broken disks do it: flipped bits, lost and doubled pieces, extreme
// numbers.

import type { Random } from '../../simulation/chance.js'

const EXTREMES = [0x00, 0x01, 0x7f, 0x80, 0xfe, 0xff]

export function randomBytes(random: Random, length: number): Uint8Array {
  return Uint8Array.from({ length }, () => random.integer(0, 255))
}

/** A damaged copy: one to four wounds. */
export function mutate(random: Random, original: Uint8Array): Uint8Array {
  let bytes: Uint8Array = original.slice()
  for (let wounds = random.integer(1, 4); wounds > 0; wounds--) bytes = wound(random, bytes)
  return bytes
}

function wound(random: Random, bytes: Uint8Array): Uint8Array {
  const at = random.integer(0, Math.max(0, bytes.length - 1))
  const length = random.integer(1, 16)
  switch (random.integer(0, 6)) {
    case 0:
      if (bytes.length > 0) bytes[at] ^= 1 << random.integer(0, 7)
      return bytes
    case 1:
      return bytes.slice(0, at)
    case 2:
      return Uint8Array.of(...bytes.subarray(0, at), ...bytes.subarray(at + length))
    case 3:
      return Uint8Array.of(...bytes.subarray(0, at + length), ...bytes.subarray(at))
    case 4:
      return Uint8Array.of(...bytes.subarray(0, at), ...randomBytes(random, length), ...bytes.subarray(at))
    case 5:
      bytes.fill(random.pick(EXTREMES), at, at + random.pick([1, 2, 4, 8]))
      return bytes
    default: {
      // A piece of it where it does not belong.
      const from = random.integer(0, Math.max(0, bytes.length - 1))
      bytes.copyWithin(at, from, from + length)
      return bytes
    }
  }
}
