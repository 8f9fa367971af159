// What came out of a place, compared with what was expected there, as both come. Bounded: a frame that is not found
// among the frames expected next, or seen last, is another one. Pure.

export interface ComparisonOptions {
  /** Later than this, against the first frame that was found, is late; null: times are not compared. Nanoseconds. */
  readonly lateNs: number | null
  /** Most frames, and bytes of them, that are expected at a time. */
  readonly frames?: number
  readonly bytes?: number
}

export interface Differences {
  expected: number
  found: number
  lost: number
  doubled: number
  reordered: number
  changed: number
  late: number
  /** Frames that nobody has expected. They are no difference: a network has other traffic as well. */
  other: number
}

export interface Difference {
  readonly kind: 'lost' | 'doubled' | 'reordered' | 'changed' | 'late'
  /** Of the expected frame: its number in the capture, from 1. */
  readonly packet: number
  readonly words: string
}

interface Expected {
  readonly packet: number
  readonly bytes: Uint8Array
  readonly atNs: number
  readonly place: number
  readonly key: number
  found: boolean
}

const MOST_FRAMES = 65_536
const MOST_BYTES = 32 * 1024 * 1024
/** Frames that nobody expected, which may be changed ones. */
const MOST_OTHERS = 256
/** What was found already, for doubles. */
const MOST_FOUND = 65_536
const MOST_TOLD = 20
/** A tag more or less. */
const LENGTH_CHANGE = 4
/** A frame with fewer equal bytes is another one. */
const LEAST_ALIKE = 0.7

export class Comparison {
  readonly counts: Differences = {
    expected: 0,
    found: 0,
    lost: 0,
    doubled: 0,
    reordered: 0,
    changed: 0,
    late: 0,
    other: 0,
  }
  /** The first ones. */
  readonly told: Difference[] = []
  readonly #lateNs: number | null
  readonly #mostFrames: number
  readonly #mostBytes: number
  /** In the order of the capture; those found are taken out at the front. */
  #window: Expected[] = []
  #front = 0
  #bytes = 0
  readonly #byKey = new Map<number, Expected[]>()
  readonly #foundKeys = new Map<number, number>()
  readonly #foundOrder = new Float64Array(MOST_FOUND)
  #others: Uint8Array[] = []
  #last = -1
  #offsetNs: number | null = null

  constructor({ lateNs, frames = MOST_FRAMES, bytes = MOST_BYTES }: ComparisonOptions) {
    this.#lateNs = lateNs
    this.#mostFrames = frames
    this.#mostBytes = bytes
  }

  /** More can be expected without giving one up. */
  get hasRoom(): boolean {
    return this.#window.length - this.#front < this.#mostFrames && this.#bytes < this.#mostBytes
  }

  /** Frames that have not come yet. */
  get waiting(): number {
    return this.#window.length - this.#front
  }

  /** The next frame of the capture, which is kept. `atNs`: from any moment on, the same for all. */
  expect(packet: number, bytes: Uint8Array, atNs: number): void {
    if (!this.hasRoom) this.#giveUpFirst()
    const key = keyOf(bytes)
    const expected = { packet, bytes, atNs, place: this.counts.expected++, key, found: false }
    this.#window.push(expected)
    this.#bytes += bytes.length
    const same = this.#byKey.get(key)
    if (same === undefined) this.#byKey.set(key, [expected])
    else same.push(expected)
  }

  /** A frame has come out; it is not kept. `atNs`: from any moment on. */
  came(bytes: Uint8Array, atNs: number): void {
    const key = keyOf(bytes)
    const expected = this.#byKey.get(key)?.find((one) => isSame(one.bytes, bytes))
    if (expected !== undefined) {
      this.#found(expected, atNs)
      return
    }
    const before = this.#foundKeys.get(key)
    if (before !== undefined) {
      this.counts.doubled++
      this.#tell('doubled', before, `came again (${bytes.length} bytes)`)
      return
    }
    this.counts.other++
    if (this.#others.length === MOST_OTHERS) this.#others.shift()
    this.#others.push(Uint8Array.from(bytes))
  }

  /** Nothing comes any more. */
  end(): void {
    while (this.waiting > 0) this.#giveUpFirst()
  }

  get differs(): boolean {
    const { lost, doubled, reordered, changed, late } = this.counts
    return lost + doubled + reordered + changed + late > 0
  }

  #found(expected: Expected, atNs: number): void {
    const { counts } = this
    counts.found++
    this.#forget(expected)
    this.#remember(expected)
    if (expected.place < this.#last) {
      counts.reordered++
      this.#tell('reordered', expected.packet, 'came after a frame that was to come later')
    } else this.#last = expected.place
    this.#offsetNs ??= atNs - expected.atNs
    const late = atNs - expected.atNs - this.#offsetNs
    if (this.#lateNs === null || late <= this.#lateNs) return
    counts.late++
    this.#tell('late', expected.packet, `came ${(late / 1e6).toFixed(3)} ms late`)
  }

  #forget(expected: Expected): void {
    expected.found = true
    this.#bytes -= expected.bytes.length
    const same = this.#byKey.get(expected.key)!
    if (same.length === 1) this.#byKey.delete(expected.key)
    else same.splice(same.indexOf(expected), 1)
    while (this.#front < this.#window.length && this.#window[this.#front].found) this.#front++
    if (this.#front < 4096) return
    this.#window = this.#window.slice(this.#front)
    this.#front = 0
  }

  #remember({ key, packet }: Expected): void {
    const at = (this.counts.found - 1) % MOST_FOUND
    const oldest = this.#foundOrder[at]
    if (this.#foundKeys.size >= MOST_FOUND) this.#foundKeys.delete(oldest)
    this.#foundOrder[at] = key
    this.#foundKeys.set(key, packet)
  }

  #giveUpFirst(): void {
    const expected = this.#window[this.#front]
    this.#forget(expected)
    const at = this.#others.findIndex((other) => isAlike(expected.bytes, other))
    if (at >= 0) {
      const [other] = this.#others.splice(at, 1)
      this.counts.changed++
      this.counts.other--
      this.#tell('changed', expected.packet, describeChange(expected.bytes, other))
      return
    }
    this.counts.lost++
    this.#tell('lost', expected.packet, `did not come (${expected.bytes.length} bytes)`)
  }

  #tell(kind: Difference['kind'], packet: number, words: string): void {
    if (this.told.length < MOST_TOLD) this.told.push({ kind, packet, words })
  }
}

/** A number that two frames hardly have in common: 53 bits of two sums. */
function keyOf(bytes: Uint8Array): number {
  let low = 0x811c9dc5
  let high = bytes.length
  for (let i = 0; i < bytes.length; i++) {
    low = Math.imul(low ^ bytes[i], 0x01000193)
    high = (Math.imul(high, 31) + bytes[i]) | 0
  }
  return (high & 0x1fffff) * 2 ** 32 + (low >>> 0)
}

function isSame(one: Uint8Array, other: Uint8Array): boolean {
  return one.length === other.length && one.every((byte, i) => byte === other[i])
}

function isAlike(one: Uint8Array, other: Uint8Array): boolean {
  if (Math.abs(one.length - other.length) > LENGTH_CHANGE) return false
  // Of frames with a tag more, the ends are alike.
  return Math.max(alike(one, other, 0), alike(one, other, other.length - one.length)) >= LEAST_ALIKE
}

function alike(one: Uint8Array, other: Uint8Array, shift: number): number {
  let same = 0
  for (let i = 0; i < one.length; i++) if (one[i] === other[i + shift]) same++
  return same / one.length
}

function describeChange(one: Uint8Array, other: Uint8Array): string {
  const length = Math.min(one.length, other.length)
  let first = 0
  while (first < length && one[first] === other[first]) first++
  let end = length
  while (end > first && one[end - 1] === other[end - 1]) end--
  const lengths = one.length === other.length ? '' : `, ${one.length} bytes became ${other.length}`
  const hex = (bytes: Uint8Array) => Buffer.from(bytes.subarray(first, Math.min(end, first + 8))).toString('hex')
  return `came with other bytes from ${first} to ${Math.max(first, end - 1)}: ${hex(one)} became ${hex(other)}${lengths}`
}
