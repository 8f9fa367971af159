// The kernel that we run on, for the fast path: the maps of its programs, and what else tells of frames under way.

import { type Arena, mapShared, releaseArena } from '../../../src/linux/arena.js'
import { putNumber } from '../../../src/linux/bpf.js'
import { BpfHash } from '../../../src/linux/bpf-hash.js'
import { isRunning, readMtu } from '../../../src/linux/packet-socket.js'
import { Backlogs, visit, waitForReaders } from '../../../src/linux/processors.js'
import type { FrontFilter } from '../../../src/linux/ring-filters.js'
import { MAX_PORTS } from '../../forwarding/counters.js'
import type { FastPort, Kernel, KernelMemory } from './kernel.js'
import {
  COUNTS,
  DEVICE_WORDS,
  DEVICES,
  KEY_LENGTH,
  PORT_WORDS,
  type Programs,
  RUN_WORDS,
  VERDICT_LENGTH,
} from './layout.js'

/** How many verdicts are looked at in one go. */
const SWEPT = 512

export class LinuxKernel implements Kernel {
  readonly processors: number
  readonly memory: KernelMemory
  readonly verdicts: BpfHash
  readonly #programs: Programs
  readonly #arenas: Arena[] = []
  readonly #backlogs: Backlogs[] = []

  /** The programs stay the caller's, who closes them after this. Throws SYSCALL: nothing is mapped then. */
  constructor(programs: Programs) {
    this.#programs = programs
    const { processors, maps } = programs
    this.processors = processors
    try {
      this.memory = {
        ports: this.#map(maps.ports, MAX_PORTS * PORT_WORDS * 4),
        devices: this.#map(maps.devices, DEVICES * DEVICE_WORDS * 4),
        runs: this.#map(maps.runs, processors * RUN_WORDS * 4),
        counters: new Uint32Array(this.#map(maps.counters, processors * MAX_PORTS * COUNTS * 8).buffer),
      }
      this.verdicts = new BpfHash(maps.verdicts, KEY_LENGTH, VERDICT_LENGTH, SWEPT)
    } catch (error) {
      this.#release()
      throw error
    }
  }

  now(): number {
    return performance.now()
  }

  visit(processors: readonly number[]): boolean {
    return visit(processors)
  }

  waitForReaders(): boolean {
    return waitForReaders()
  }

  waiting(): Backlogs {
    const backlogs = new Backlogs()
    this.#backlogs.push(backlogs)
    return backlogs
  }

  front(port: number): FrontFilter {
    const { decide, maps } = this.#programs
    return { program: decide, handOn: (to) => putNumber(maps.others, port, to) }
  }

  mtu({ fd, ifindex }: FastPort): number | null {
    return readMtu(fd, ifindex)
  }

  isRunning({ fd, ifindex }: FastPort): boolean {
    return isRunning(fd, ifindex)
  }

  close(): void {
    this.verdicts.close()
    this.#release()
  }

  #release(): void {
    for (const backlogs of this.#backlogs.splice(0)) backlogs.close()
    for (const arena of this.#arenas.splice(0)) releaseArena(arena)
  }

  #map(map: number, length: number): Int32Array {
    const arena = mapShared(map, Math.ceil(length / 4096) * 4096)
    this.#arenas.push(arena)
    return new Int32Array(arena.bytes.buffer, arena.bytes.byteOffset, length / 4)
  }
}
