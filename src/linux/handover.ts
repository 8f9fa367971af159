// The instant at which a packet socket takes over what enters a device from the bridge that the device belongs to, or
// gives it back: no frame goes both ways or neither. A packet socket sees a copy of each frame just before the ingress
// hook does (__netif_receive_skb_core in net/core/dev.c). Its program looks at a word of memory: while the clock is
// before the time that stands there, it takes the frame, and else it does not. Which of it, it writes into the frame's
// control block; the hook's program reads that, and drops what the socket has taken. So a frame that is between the
// two when the time changes goes one way as well. One store flips all devices. Should this process die meanwhile, the
// time passes, and the bridge has everything again.
//
// Where there is no such hook, a rule of the bridge's asks for the time again (handover-rule.ts): the bridge has
// cleared the control block by then. A frame that is between the two at the very moment may go both ways, or neither.

import { type Arena, mapShared, releaseArena } from './arena.js'
import {
  copy,
  createMap,
  EXIT,
  ifEqual,
  type Line,
  load32,
  loadProgram,
  ProgramType,
  registers,
  SkBuff,
  set,
  store32,
} from './bpf.js'
import { HandoverRule } from './handover-rule.js'
import { kernelIsAtLeast } from './kernel.js'
import { libc } from './libc.js'
import { attachFilter, choose, loadFilter, type RingFilter } from './ring-filters.js'
import { holdProgram, Tcx } from './tcx.js'

const TC_ACT_UNSPEC = -1
const TC_ACT_SHOT = 2
/** In the control block of a frame that the socket has taken. Where no socket has looked, it is anything. */
const TAKEN = 0x73770a2b
const KTIME_GET_NS = 5
const PAGE = 4096
/** How long a handover may take. */
const LIMIT_NS = 3_000_000_000n

/** Goes to `open` while the time in the map has not come; r6 keeps the context. */
function whileOpen(map: number, open: string): Line[] {
  return [
    copy(6, 1),
    [0x85, 0, 0, KTIME_GET_NS],
    [0x18, registers(1, 2), 0, map],
    [0x00, 0, 0, 0],
    // r1 := the 64 bits at r1; then "less than", unsigned.
    [0x79, registers(1, 1), 0, 0],
    { jump: [0xad, registers(0, 1), 0, 0], to: open },
  ]
}

/** Programs for the sockets of a port: descriptors. */
export interface SocketPrograms {
  /** Of a ring: nothing that would jam it, either. */
  readonly ring: number
  /** Takes nothing: of the socket that frames are set aside in. */
  readonly nothing: number
}

/** What a port begins with while its device is handed over. */
export interface SocketHandover extends SocketPrograms {
  /** It sends nothing yet: the bridge does. */
  readonly mute: boolean
}

export class Handover {
  readonly sockets: SocketPrograms
  readonly #hook: number
  /** Instead of the hook, on older kernels; null: it was not needed, or cannot be had. */
  #rule: { readonly program: number; readonly rule: HandoverRule | null } | null = null
  readonly #map: number
  readonly #arena: Arena
  readonly #until: BigInt64Array
  /** Descriptors of what holds the hook's program at devices. */
  readonly #links: number[] = []

  /** Throws PERMISSION or SYSCALL where bpf(2) cannot be had. `open`: sockets take what comes from the beginning. */
  constructor(open: boolean) {
    this.#map = createMap(PAGE)
    this.#arena = mapShared(this.#map, PAGE)
    this.#until = new BigInt64Array(this.#arena.bytes.buffer, this.#arena.bytes.byteOffset, 1)
    if (open) this.open()
    const refuse = set(0, 0)
    const ring = [
      ...whileOpen(this.#map, 'open'),
      set(1, 0),
      store32(6, SkBuff.CONTROL_BLOCK, 1),
      refuse,
      EXIT,
      'open',
      set(1, TAKEN),
      store32(6, SkBuff.CONTROL_BLOCK, 1),
      copy(1, 6),
      ...choose(kernelIsAtLeast(6, 2), [refuse], [set(0, -1)]),
    ]
    const hook = [
      load32(2, 1, SkBuff.CONTROL_BLOCK),
      set(0, TC_ACT_SHOT),
      ifEqual(2, TAKEN, 'end'),
      set(0, TC_ACT_UNSPEC),
      'end',
      EXIT,
    ]
    this.#hook = loadProgram(ProgramType.SCHED_CLS, hook, 'MIT', 'load a program for ingress hooks')
    this.sockets = { ring: loadFilter(ring), nothing: loadFilter([refuse, EXIT]) }
  }

  /** From now on the sockets get what enters, for as long as a handover may take. */
  open(): void {
    Atomics.store(this.#until, 0, process.hrtime.bigint() + LIMIT_NS)
  }

  /** From now on the bridge gets it. */
  shut(): void {
    Atomics.store(this.#until, 0, 0n)
  }

  /**
   * False where the kernel has neither the hook (before 6.6) nor what takes its place: then the bridge gets what comes
   * until the rules that keep it out are in force, and frames go both ways meanwhile.
   * @throws SnapswitchError DEVICE_MISSING, PERMISSION, SYSCALL
   */
  hook(index: number): boolean {
    const link = holdProgram(index, Tcx.INGRESS, this.#hook)
    if (link !== null) {
      this.#links.push(link)
      return true
    }
    return this.hookBridge(index)
  }

  /** The same where the bridge begins with what the device gives it. */
  hookBridge(index: number): boolean {
    this.#rule ??= this.#makeRule()
    this.#rule.rule?.add(index)
    return this.#rule.rule !== null
  }

  #makeRule() {
    const program = loadFilter([...whileOpen(this.#map, 'open'), set(0, 0), EXIT, 'open', set(0, 1), EXIT])
    return { program, rule: HandoverRule.make(program) }
  }

  /** When no socket waits for this handover any more. */
  close(): void {
    for (const link of this.#links) libc().close(link)
    if (this.#rule !== null) {
      this.#rule.rule?.close()
      libc().close(this.#rule.program)
    }
    releaseArena(this.#arena)
    for (const fd of [this.sockets.ring, this.sockets.nothing, this.#hook, this.#map]) libc().close(fd)
  }
}

/** Of a ring, and of the socket beside it (-1: none): they take over when the handover says so. */
export function waitForHandover(ring: RingFilter, aside: number, programs: SocketPrograms): void {
  ring.use(programs.ring)
  if (aside >= 0) attachFilter(aside, programs.nothing)
}
