// Times of pcapng: 64-bit counts of ticks, of any length (if_tsresol), from any start (if_tsoffset), into seconds and
// nanoseconds. Nanoseconds since 1970 fit no double, so that the usual resolutions are divided in parts that do; the
// others go through BigInt.

import type { PacketView } from './packet.js'

/** Above it, a remainder times 65536 would not fit a double. */
const FAST_LIMIT = 2 ** 36
const TWO_48 = 2 ** 48
const TWO_32 = 2 ** 32

export class Ticks {
  readonly #perSecond: bigint
  readonly #offsetSeconds: number
  readonly #isFast: boolean
  readonly #divisor: number
  /** Nanoseconds in a tick, where that is a whole number; else 0. */
  readonly #nanoseconds: number
  readonly #quotient48: number
  readonly #rest48: number
  readonly #quotient32: number
  readonly #rest32: number

  /** `resolution`: the byte of if_tsresol, a power of ten, or of two where the highest bit is set. */
  constructor(resolution: number, offsetSeconds: number) {
    const exponent = BigInt(resolution & 0x7f)
    this.#perSecond = resolution & 0x80 ? 1n << exponent : 10n ** exponent
    this.#offsetSeconds = offsetSeconds
    const divisor = Number(this.#perSecond)
    this.#nanoseconds = 1e9 % divisor === 0 ? 1e9 / divisor : 0
    // A remainder times 1e9 has to fit, too.
    this.#isFast = divisor <= FAST_LIMIT && (this.#nanoseconds > 0 || divisor * 1e9 < Number.MAX_SAFE_INTEGER)
    this.#divisor = divisor
    this.#quotient48 = Math.floor(TWO_48 / divisor)
    this.#rest48 = TWO_48 % divisor
    this.#quotient32 = Math.floor(TWO_32 / divisor)
    this.#rest32 = TWO_32 % divisor
  }

  /** Sets the packet's time. */
  tell(packet: PacketView, high: number, low: number): void {
    packet.isTimed = true
    if (!this.#isFast) {
      this.#tellSlowly(packet, high, low)
      return
    }
    const upper = high >>> 16
    const lower = high & 0xffff
    const sum = upper * this.#rest48 + lower * this.#rest32 + low
    const whole = Math.floor(sum / this.#divisor)
    const rest = sum - whole * this.#divisor
    packet.seconds = upper * this.#quotient48 + lower * this.#quotient32 + whole + this.#offsetSeconds
    packet.nanoseconds = this.#nanoseconds > 0 ? rest * this.#nanoseconds : Math.floor((rest * 1e9) / this.#divisor)
  }

  #tellSlowly(packet: PacketView, high: number, low: number): void {
    const ticks = (BigInt(high) << 32n) | BigInt(low)
    packet.seconds = Number(ticks / this.#perSecond) + this.#offsetSeconds
    packet.nanoseconds = Number(((ticks % this.#perSecond) * 1_000_000_000n) / this.#perSecond)
  }
}
