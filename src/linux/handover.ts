// The instant at which a packet socket takes over what enters a device from the bridge that the device belongs to, or
// gives it back: no frame goes both ways or neither. A packet socket sees a copy of each frame just before the ingress
// hook does (__netif_receive_skb_core in net/core/dev.c). So both are given a program that looks at the same word of
// memory: while the clock is before the time that stands there, the socket takes the frame and the hook drops it;
// else the hook lets it go on to the bridge and the socket does not take it. One store flips all devices. Should this
// process die meanwhile, the time passes, and the bridge has everything again.

import { type Arena, mapShared, releaseArena } from './arena.js'
import { copy, createMap, EXIT, type Line, loadProgram, ProgramType, registers, set } from './bpf.js'
import { addQdisc, devicesWithHook, hasFilters, isGone, removeQdisc, trafficHeader } from './ingress.js'
import { kernelIsAtLeast } from './kernel.js'
import { libc } from './libc.js'
import type { Link } from './link.js'
import { type NetlinkBody, type NetlinkSocket, NLM } from './netlink.js'
import { attachFilter, choose, loadFilter } from './ring-filters.js'

const RTM_NEWTFILTER = 44
const RTM_DELTFILTER = 45
const TCA_KIND = 1
const TCA_OPTIONS = 2
const TCA_BPF_FD = 6
const TCA_BPF_NAME = 7
const TCA_BPF_FLAGS = 8
const TCA_BPF_FLAG_ACT_DIRECT = 1
const TC_H_INGRESS = 0xfffffff2
const ETH_P_ALL_NETWORK_ORDER = 0x0300
/** Before those of others. */
const PRIORITY = 1
/** "sw", and whether the hook is ours. */
const HANDLE = { hookIsOurs: 0x73770011, hookWasThere: 0x73770012 } as const
const TC_ACT_UNSPEC = -1
const TC_ACT_SHOT = 2
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
  readonly #map: number
  readonly #arena: Arena
  readonly #until: BigInt64Array
  /** Devices that have the hook's program, and how to take it off. */
  readonly #hooked = new Map<number, () => void>()

  /** Throws PERMISSION or SYSCALL where bpf(2) cannot be had. `open`: sockets take what comes from the beginning. */
  constructor(open: boolean) {
    this.#map = createMap(PAGE)
    this.#arena = mapShared(this.#map, PAGE)
    this.#until = new BigInt64Array(this.#arena.bytes.buffer, this.#arena.bytes.byteOffset, 1)
    if (open) this.open()
    const refuse = set(0, 0)
    const ring = [
      ...whileOpen(this.#map, 'open'),
      refuse,
      EXIT,
      'open',
      copy(1, 6),
      ...choose(kernelIsAtLeast(6, 2), [refuse], [set(0, -1)]),
    ]
    const hook = [...whileOpen(this.#map, 'open'), set(0, TC_ACT_UNSPEC), EXIT, 'open', set(0, TC_ACT_SHOT), EXIT]
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

  /** @throws SnapswitchError DEVICE_MISSING, DEVICE_BUSY (another program's filter is in first place), SYSCALL */
  hook(socket: NetlinkSocket, link: Pick<Link, 'index' | 'name'>): void {
    const made = addQdisc(socket, link)
    const handle = made ? HANDLE.hookIsOurs : HANDLE.hookWasThere
    try {
      const body = filterHeader(link.index, handle).nested(TCA_OPTIONS, (options) =>
        options
          .attributeU32(TCA_BPF_FD, this.#hook)
          .attributeText(TCA_BPF_NAME, 'snapswitch_handover')
          .attributeU32(TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT),
      )
      socket.request(`add an ingress hook to ${link.name}`, RTM_NEWTFILTER, NLM.create, body)
    } catch (thrown) {
      if (made) removeQdisc(socket, link.index)
      throw thrown
    }
    this.#hooked.set(link.index, () => unhook(socket, link.index, handle))
  }

  /** Takes the programs off the devices; the sockets keep theirs. */
  unhookAll(): void {
    for (const undo of this.#hooked.values()) undo()
    this.#hooked.clear()
  }

  /** When no socket waits for this handover any more. */
  close(): void {
    this.unhookAll()
    releaseArena(this.#arena)
    for (const fd of [this.sockets.ring, this.sockets.nothing, this.#hook, this.#map]) libc().close(fd)
  }
}

/** Of a ring, and of the socket beside it (-1: none): they take over when the handover says so. */
export function waitForHandover(ring: number, aside: number, programs: SocketPrograms): void {
  attachFilter(ring, programs.ring)
  if (aside >= 0) attachFilter(aside, programs.nothing)
}

/** Takes off what a daemon that was killed during a handover has left: by then it lets everything pass. */
export function dropLeftHooks(socket: NetlinkSocket, spares: (index: number) => boolean): void {
  for (const index of devicesWithHook(socket)) {
    if (spares(index)) continue
    for (const handle of Object.values(HANDLE)) unhook(socket, index, handle)
  }
}

function unhook(socket: NetlinkSocket, index: number, handle: number): void {
  try {
    socket.request(`remove the ingress hook of network device ${index}`, RTM_DELTFILTER, 0, filterHeader(index, handle))
    if (handle === HANDLE.hookIsOurs && !hasFilters(socket, index)) removeQdisc(socket, index)
  } catch (thrown) {
    if (!isGone(thrown)) throw thrown
  }
}

function filterHeader(index: number, handle: number): NetlinkBody {
  return trafficHeader(index, handle, TC_H_INGRESS, (PRIORITY << 16) | ETH_P_ALL_NETWORK_ORDER).attributeText(
    TCA_KIND,
    'bpf',
  )
}
