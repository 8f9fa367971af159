// A worker's fast path: the production rules (switch/datapath/kernel) over a virtual kernel, joined to the worker as
// switch/datapath/commands.ts and loop.ts join them. It looks on: what a program does, the forwarder would do.

import { judge, Verdict } from '../../src/epoch/delivery.js'
import { colorVid, epochOfVid, generationOfVid } from '../../src/frame/color-tag.js'
import { macHigh, macLow } from '../../src/frame/ethernet.js'
import { Frame, type FrameCopy, NO_COLOR, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { needsEveryFrame } from '../../switch/datapath/kernel/commands.js'
import type { FastPort } from '../../switch/datapath/kernel/kernel.js'
import { KernelPath } from '../../switch/datapath/kernel/kernel-path.js'
import type { Taking } from '../../switch/datapath/port/packet-port.js'
import type { CommandName, Commands } from '../../switch/datapath/protocol.js'
import type { Forwarder } from '../../switch/forwarding/forwarder.js'
import type { Output, PortSpec, PortState } from '../../switch/forwarding/port-state.js'
import { frameId } from './frames.js'
import { ifindexOf, type Redirect, VirtualKernel } from './kernel.js'
import type { Worker } from './worker.js'

const HOOK = 74

/** Entries do not age for it. */
const AT_ANY_AGE = 0

class VirtualPort implements FastPort {
  readonly index: number
  readonly ifindex: number
  readonly inBridge = false
  readonly fd = -1
  readonly forwarder: Forwarder
  driver = ''
  taking: Taking | null = null
  readonly #waiting: () => number

  constructor(index: number, forwarder: Forwarder, waiting: () => number) {
    this.index = index
    this.ifindex = ifindexOf(index)
    this.forwarder = forwarder
    this.#waiting = waiting
  }

  get isEmpty(): boolean {
    return this.#waiting() === 0
  }

  putFilterBefore(_front: unknown, taking: Taking): boolean {
    this.taking = taking
    return true
  }

  takeFilterAway(): void {
    this.taking = null
  }
}

export class FastPorts {
  readonly kernel: VirtualKernel
  readonly path: KernelPath
  readonly #worker: Worker
  readonly #ports: (VirtualPort | undefined)[] = []
  readonly #frame = new Frame()

  constructor(worker: Worker) {
    this.#worker = worker
    const { world, host, datapath } = worker.daemon
    const receive = (port: number, copy: FrameCopy) => worker.receive(port, copy)
    this.kernel = new VirtualKernel(world, host.index, receive, (redirect, leaves) => this.#watch(redirect, leaves))
    this.path = new KernelPath(datapath.counters, this.kernel, {
      ask: ({ index }) => this.#hook(index),
      busy() {},
    })
    for (const forwarder of worker.forwarders) this.path.addNetwork(forwarder)
  }

  add({ index, kind }: PortSpec, forwarder: Forwarder, send: Output['send'], isRunning: () => boolean): void {
    const { world, host } = this.#worker.daemon
    const port = new VirtualPort(index, forwarder, () => this.#worker.ingress[index]?.length ?? 0)
    this.#ports[index] = port
    port.driver = kind === 'trunk' ? 'veth' : 'tun'
    this.kernel.devices.set(port.ifindex, {
      isRunning,
      transmit: (copy, serviceTci) => {
        if (world.trace !== null) world.note(host.name, `#${frameId(copy.bytes, VNET_HEADER_LENGTH)} is fast`)
        world.marks.add(this.kernel.isAlone ? 'fast without a daemon' : kind === 'trunk' ? 'fast to a peer' : 'fast')
        if (forwarder.snapshots.openEpoch !== null) world.marks.add('fast while memory is saved')
        send(this.#frame.pointAt(copy), serviceTci)
      },
    })
    this.path.addPort(port, forwarder)
  }

  /** Its device may be gone already. */
  remove(index: number): void {
    const port = this.#ports[index]
    if (port === undefined) return
    this.path.removePort(index, port.forwarder)
    this.kernel.devices.delete(port.ifindex)
    this.#ports[index] = undefined
  }

  /** The control thread puts `act` at the device, which takes its time. */
  #hook(index: number): void {
    const { daemon } = this.#worker
    const { world, host } = daemon
    const ifindex = ifindexOf(index)
    const { driver = '' } = this.#ports[index] ?? {}
    const state = { network: '', index, ifindex, inBridge: false, why: null, guests: null, driver }
    world.time.after(world.wait(HOOK, host.index, index, 20), () => {
      if (this.#worker.alive && this.#ports[index] !== undefined) this.path.hooked(state)
    })
  }

  /** Before a command is performed. */
  makeSlow<K extends CommandName>(name: K, args: Commands[K]['args']): void {
    if (!needsEveryFrame(name) || args === null || !('network' in args)) return
    this.path.slow(this.#worker.network(args.network))
  }

  /** The daemon has been killed: what it has put into the kernel forwards what it knows. */
  abandon(): VirtualKernel {
    this.kernel.isAlone = true
    return this.kernel
  }

  take(port: number, { bytes, tagTpid, tagTci }: FrameCopy): void {
    this.#ports[port]?.taking?.take(bytes, VNET_HEADER_LENGTH, (tagTpid << 16) | tagTci)
  }

  sent(port: number): void {
    this.#ports[port]?.taking?.sent()
  }

  /** A frame is about to be redirected, or is: the forwarder must not know better by then. */
  #watch({ from: one, to: other, push, copy }: Redirect, leaves: boolean): void {
    const { world } = this.#worker.daemon
    const forwarder = this.#ports[one]?.forwarder
    const from = forwarder?.byIndex[one]
    const to = forwarder?.byIndex[other]
    if (!this.#worker.alive) return
    const why =
      forwarder === undefined || from === undefined || to === undefined
        ? 'though its port is gone'
        : (whyNotThere(forwarder, from, to, copy) ??
          // A peer is heard before its verdicts are void, and the barrier comes behind that: it finds old tags.
          (leaves ? null : whyNotSo(forwarder, from, to, push, copy)))
    if (why === null) return
    world.violation(
      8,
      `#${frameId(copy.bytes, VNET_HEADER_LENGTH)} went from p${one} to p${other} by a verdict, ${why}`,
    )
  }
}

/** Why the forwarder would not hand a frame from one port to the other at present; null: it would. */
function whyNotThere(
  { fdb, network, snapshots }: Forwarder,
  from: PortState,
  to: PortState,
  { bytes }: FrameCopy,
): string | null {
  const start = VNET_HEADER_LENGTH
  const whereIs = (at: number) => fdb.lookUp(macHigh(bytes, at), macLow(bytes, at), 0, AT_ANY_AGE)
  if (whereIs(start) !== to.index) return 'though its address is not there'
  if (whereIs(start + 6) !== from.index) return 'though its sender’s address is not there'
  if (network.observer !== null || network.wanting.size > 0) return 'though somebody wants to see it'
  if (snapshots.isCutting) return 'though a snapshot is being taken'
  return to.closed ? 'though a gate is closed' : null
}

/** Why it would not with these tags, and its color. */
function whyNotSo(
  { network }: Forwarder,
  from: PortState,
  to: PortState,
  push: number,
  copy: FrameCopy,
): string | null {
  let color = from.isMember ? from.epoch : NO_COLOR
  if (from.channel !== null) {
    const vid = copy.tagTci & 0xfff
    if (generationOfVid(vid) !== from.channel.accepts) return 'though its tag is of another generation'
    color = epochOfVid(vid, network.epoch)
  }
  if (to.channel !== null && (!to.channel.established || push !== colorVid(color, to.channel.sends)))
    return 'though its tag would be another one'
  const isDelivered = !to.isMember || judge(color, to.epoch, to.closed, to.fence) === Verdict.DELIVER
  return isDelivered ? null : 'though it must not be delivered'
}
