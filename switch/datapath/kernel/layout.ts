// Memory that the programs in the kernel and the datapath share, as bpf/fast-path.bpf.c lays it out: the same numbers
// stand there.

import { MAX_PORTS } from '../../forwarding/counters.js'
import type { Kernel } from './kernel.js'

export const BUCKETS = 256
export const DEVICES = 4096
/** Most verdicts. */
export const VERDICTS = 16384

/** struct port, in words of 32 bits. */
export const PortWord = {
  GENERATION: 0,
  TRUNK: 1,
  NOW: 2,
  PAUSED: 3,
  HEARD: 4,
  RUSHED: 5,
  MISSED: 16,
  TOLD: 17,
  PUNTED: 32,
  DONE: 32 + BUCKETS,
} as const
export const PORT_WORDS = 32 + 2 * BUCKETS
/** struct device. */
export const DEVICE_WORDS = 2
/** struct kept: copies of verdicts that a processor has. */
export const KEPT = 64
/** struct run; behind what is read here lie the copies. */
export const RUN_WORDS = 32 + KEPT * 16
export const RUN_LEFT = 16
/** struct count, in numbers of 64 bits. */
export const Count = {
  IN_FRAMES: 0,
  IN_BYTES: 1,
  IN_GSO: 2,
  IN_SEGMENTS: 3,
  OUT_FRAMES: 4,
  OUT_BYTES: 5,
  OUT_GSO: 6,
  OUT_SEGMENTS: 7,
} as const
export const COUNTS = 8
/** struct key, struct verdict: offsets of their fields. */
export const Key = { PORT: 0, VLAN: 2, TAG: 4, TO: 8, FROM: 14 } as const
export const Value = {
  IFINDEX: 0,
  TO: 4,
  FROM_GENERATION: 8,
  TO_GENERATION: 12,
  ROOM: 16,
  PUSH: 20,
  POP: 22,
  SEEN: 24,
  VLAN: 28,
} as const
/** How long they are. */
export const KEY_LENGTH = 20
export const VERDICT_LENGTH = 32
const FOUR_GIB = 2 ** 32

/** Descriptors of programs and maps. */
export interface Programs {
  /** How many there may be. */
  readonly processors: number
  readonly decide: number
  readonly act: number
  readonly actEarly: number
  /** `act` of devices that stay in a bridge. */
  readonly actInBridge: number
  readonly maps: Readonly<Record<'ports' | 'devices' | 'runs' | 'counters' | 'verdicts' | 'others', number>>
}

export class Shared {
  readonly kernel: Kernel
  /** struct port of each port. */
  readonly ports: Int32Array
  readonly #devices: Int32Array
  readonly #runs: Int32Array
  readonly #counters: Uint32Array
  /** Processors on which a program has run. */
  readonly #isUsed: Uint8Array

  constructor(kernel: Kernel) {
    this.kernel = kernel
    const { ports, devices, runs, counters } = kernel.memory
    this.ports = ports
    this.#devices = devices
    this.#runs = runs
    this.#counters = counters
    this.#isUsed = new Uint8Array(kernel.processors)
  }

  get processors(): number {
    return this.kernel.processors
  }

  /** Where a port's words begin. */
  port(index: number): number {
    return index * PORT_WORDS
  }

  /** False: another device is there whose index is alike. */
  setDevice(ifindex: number, port: number): boolean {
    const at = (ifindex & (DEVICES - 1)) * DEVICE_WORDS
    const there = this.#devices[at]
    if (there !== 0 && there !== ifindex) return false
    this.#devices[at + 1] = port
    Atomics.store(this.#devices, at, ifindex)
    return true
  }

  clearDevice(ifindex: number): void {
    const at = (ifindex & (DEVICES - 1)) * DEVICE_WORDS
    if (this.#devices[at] === ifindex) Atomics.store(this.#devices, at, 0)
  }

  /** How many programs have begun on a processor, modulo 2^32; and which one was the last to end. */
  entered(processor: number): number {
    return Atomics.load(this.#runs, processor * RUN_WORDS)
  }

  left(processor: number): number {
    return Atomics.load(this.#runs, processor * RUN_WORDS + RUN_LEFT)
  }

  /** Sums of a port over all processors, into `sums`. Each number is whole; they need not be of the same moment. */
  count(port: number, sums: Float64Array): void {
    sums.fill(0)
    for (let processor = 0; processor < this.processors; processor++) {
      // There may be hundreds that are not there.
      if (this.#isUsed[processor] === 0) {
        if (this.entered(processor) === 0) continue
        this.#isUsed[processor] = 1
      }
      const at = (processor * MAX_PORTS + port) * COUNTS * 2
      for (let i = 0; i < COUNTS; i++) sums[i] += this.#number(at + i * 2)
    }
  }

  #number(at: number): number {
    for (;;) {
      const high = this.#counters[at + 1]
      const low = this.#counters[at]
      if (this.#counters[at + 1] === high) return high * FOUR_GIB + low
    }
  }
}
