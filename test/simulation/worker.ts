// The datapath worker in virtual time: the production Forwarders, one per network, between virtual ports, commands
// drained between batches, as switch/datapath/commands.ts does it. What is in a port's socket waits until the loop
// looks.

import { CarrierField, u32 } from '../../src/frame/carrier.js'
import { Frame, type FrameCopy, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { parseMac } from '../../src/frame/mac.js'
import { DRAIN_BATCHES, TICK_INTERVAL_MS, TICK_INTERVAL_OPEN } from '../../switch/datapath/loop.js'
import { type Handlers, networkCommands } from '../../switch/datapath/network-commands.js'
import type { CommandName, Commands, DatapathEvent } from '../../switch/datapath/protocol.js'
import { Forwarder } from '../../switch/forwarding/forwarder.js'
import { performInput } from '../../switch/forwarding/inputs.js'
import type { Output, PortSpec, PortState } from '../../switch/forwarding/port-state.js'
import type { Daemon } from './daemon.js'
import { FastPorts } from './fast-path.js'
import { carriedId, frameId, kindOf } from './frames.js'
import type { Nic } from './guest.js'
import type { SharedLan } from './lan.js'
import { networkName, networkNumber, waysOf } from './networks.js'
import { PLAIN_PORT, TRUNK_PORTS, trunkPort, UPLINK_PORT } from './trunk.js'

const LOOK = 31
const ANSWER = 32
const BATCH = 33
const CONTROL_KEY = new Uint8Array(32).fill(7)
/** More than is ever unread here; the default's memory takes longer to set aside than a schedule to run. */
const ARMED_BOUNDS = { frames: 500, bytes: 1 << 18 }
const LAN_MTU = 1500

/** Unix time at the start of virtual time. */
export const EPOCH_MS = 1_000_000

/** What commands are about, as far as it is noted. */
interface Seen {
  readonly ports?: readonly number[]
  readonly epoch?: number
  readonly most?: readonly number[]
}

interface Command {
  readonly name: string
  run(): void
  fail(): void
}

export class Worker {
  readonly daemon: Daemon
  /** By network. */
  readonly forwarders: readonly Forwarder[]
  alive = true
  /** By port: what its socket has and the loop has not read. */
  readonly ingress: (FrameCopy[] | undefined)[] = []
  readonly #forwarderOf: Forwarder[] = []
  /** Null: every frame goes through the forwarders. */
  readonly fast: FastPorts | null
  /** By network: since when frames from after a cut have waited here for one that has not begun. */
  readonly earlySince: (number | null)[]
  readonly #commands: Command[] = []
  readonly #frame = new Frame()
  #looking = false
  #looks = 0
  #answers = 0
  #mainFreeAt = 0

  constructor(daemon: Daemon, bootId: string) {
    this.daemon = daemon
    const { world, host } = daemon
    this.earlySince = world.networks.map(() => null)
    this.forwarders = world.networks.map((network) => this.#makeForwarder(network, bootId))
    this.fast = world.scenario.fastPath ? new FastPorts(this) : null
    for (const forwarder of this.forwarders) world.planted.forwarder?.(forwarder)
    world.planted.worker?.(this)
    this.#scheduleTick(world.chance(LOOK, host.index, daemon.boot) * 20)
  }

  /** Of the first network. */
  get forwarder(): Forwarder {
    return this.forwarders[0]
  }

  #makeForwarder(network: number, bootId: string): Forwarder {
    const { world, host, datapath } = this.daemon
    const { scenario } = world
    const name = networkName(network)
    const forwarder = new Forwarder(
      {
        network: name,
        host: host.name,
        bootId,
        bootedAt: EPOCH_MS + world.time.now,
        linkLocal: 'forward',
        pause: 'drop',
        transit: waysOf(scenario, network).chain,
        fdb: { capacity: 64, perPort: 32, ageing: scenario.ageing },
        hold: { frames: scenario.hold, bytes: 1 << 26 },
        networkHold: { frames: 1e6, bytes: 1e9 },
        armed: ARMED_BOUNDS,
        record: { frames: scenario.record, bytes: 1 << 28 },
        closureDeadline: 200,
        controlKey: scenario.keyed ? CONTROL_KEY : null,
      },
      datapath.counters,
      {
        early: (port, epoch) => this.#tell({ kind: 'early', network: name, port, epoch }),
        peer: (port, host, bootId, epoch) => this.#tell({ kind: 'peer', network: name, port, host, bootId, epoch }),
        closed: (epoch, closures) => {
          if (closures.some(({ byCount }) => !byCount)) world.marks.add('channel closed by deadline')
          this.#tell({ kind: 'closed', network: name, epoch, closures })
        },
        broken: (epoch, port, host) => this.#tell({ kind: 'broken', network: name, epoch, port, host }),
      },
    )
    forwarder.network.raiseEpoch(datapath.epochOf(network))
    forwarder.network.raiseFence(datapath.fenceOf(network))
    return forwarder
  }

  get now(): number {
    return EPOCH_MS + this.daemon.world.time.now
  }

  addMember(nic: Nic, epoch: number): void {
    const { guest } = nic
    const { world, host } = this.daemon
    const spec = { ...this.#spec(nic.index, 'member', epoch), vm: guest.name }
    const isRunning = () => guest.alive && guest.host === host.index
    const deliver = (frame: Frame) => {
      const id = frameId(frame.bytes, frame.start)
      if (!isRunning()) return true
      world.checkAsSent(id, frame, guest.name)
      if (world.trace !== null && id >= 0) world.note(host.name, `#${id} → ${guest.name}${colorText(frame.color)}`)
      return guest.deliver(nic, id)
    }
    this.#add(nic.network, spec, deliver, isRunning)
  }

  addTrunk(network: number, peer: number): void {
    const { world, host } = this.daemon
    const trunk = world.trunk(network, host.index, peer)
    const port = this.#add(network, this.#spec(trunkPort(network, peer), 'trunk', 0), (frame, tci) => {
      if (world.trace !== null) {
        const id = frameId(frame.bytes, frame.start)
        const text = id >= 0 ? `#${id}${colorText(frame.color)}` : controlText(frame)
        if (text !== null)
          world.note(host.name, `${text} ⇒ h${peer}${network > 0 ? ` in ${networkName(network)}` : ''}`)
      }
      const { bytes } = frame
      if (this.fast === null) trunk.transmit(bytes, tci)
      else this.fast.kernel.queue(() => trunk.transmit(bytes, tci))
      return true
    })
    this.forwarders[network].trunks.greet(port, this.now)
  }

  /** The device of a trunk goes away; on a LAN, the uplink's. */
  unplug(network: number, peer: number): void {
    const port = this.#wayTo(network, peer)
    if (this.ingress[port] === undefined) return
    const what = port === UPLINK_PORT ? 'uplink' : `trunk to h${peer}`
    this.daemon.world.note(this.daemon.host.name, `${what} UNPLUGGED`)
    this.fast?.path.slow(this.forwarders[network])
    this.remove(port)
  }

  /** It is back, unless the daemon has found it already. */
  plug(network: number, peer: number): void {
    const { world, host } = this.daemon
    const port = this.#wayTo(network, peer)
    if (this.ingress[port] !== undefined) return
    if (port === UPLINK_PORT) {
      world.note(host.name, 'uplink plugged in')
      this.addUplink(world.scenario.lan!)
    } else if (world.peersOf(host.index, network).includes(peer)) {
      world.note(host.name, `trunk to h${peer} plugged in`)
      this.addTrunk(network, peer)
    }
  }

  #wayTo(network: number, peer: number): number {
    return network === 0 && this.daemon.world.lan !== null ? UPLINK_PORT : trunkPort(network, peer)
  }

  addUplink(color: 'dscp' | 'carrier'): void {
    const { world, host } = this.daemon
    const lan = world.lan as SharedLan
    this.#add(0, { ...this.#spec(UPLINK_PORT, 'uplink', 0), uplink: { mtu: LAN_MTU, color } }, (frame) => {
      if (world.trace !== null) {
        const text = lanText(frame)
        if (text !== null) world.note(host.name, `${text} ⇒ LAN`)
      }
      lan.transmit(host.index, frame)
      return true
    })
  }

  addPlain(): void {
    const { world, host } = this.daemon
    this.#add(0, this.#spec(PLAIN_PORT, 'plain', 0), (frame) => {
      const id = frameId(frame.bytes, frame.start)
      world.checkAsSent(id, frame, `the station at ${host.name}`)
      if (id >= 0) world.heardOutside(host.index, id)
      return true
    })
  }

  remove(port: number): void {
    this.fast?.remove(port)
    this.#forwarderOf[port]?.removePort(port)
    this.ingress[port] = undefined
  }

  /** A frame has come to a port's device. */
  arrive(port: number, copy: FrameCopy): void {
    if (this.fast === null) this.receive(port, copy)
    else if (this.ingress[port] !== undefined) this.fast.kernel.arrive(port, copy)
  }

  /** … and into its socket. */
  receive(port: number, copy: FrameCopy): void {
    const socket = this.ingress[port]
    if (socket === undefined) return
    socket.push(copy)
    this.#look()
  }

  /** A command from the main thread; its answer, like the worker's events, comes in order. */
  call<T>(name: string, run: () => T, done: (result: T) => void, failed: (reason: string) => void): void {
    if (!this.alive) {
      this.daemon.after(0, () => failed('the datapath worker ended'))
      return
    }
    this.#commands.push({
      name,
      run: () => {
        const result = run()
        this.#toMain(() => done(result))
      },
      fail: () => this.daemon.after(0, () => failed('the datapath worker ended')),
    })
    this.#look()
  }

  perform<K extends CommandName>(name: K, args: Commands[K]['args']): Commands[K]['result'] {
    const waits = name === 'release' && this.#waitsForOther(args as Commands['release']['args'])
    if (waits) this.daemon.world.marks.add('frame waited in another network')
    this.fast?.makeSlow(name, args)
    const result = this.handlers[name](args)
    this.#observe(name, args, result)
    return result
  }

  #waitsForOther({ network, ports }: Commands['release']['args']): boolean {
    const { byIndex } = this.network(network)
    return ports.some((port) => byIndex[port]?.closedForOther && byIndex[port]?.hold.length > 0)
  }

  network(name: string): Forwarder {
    return this.forwarders[networkNumber(name)]
  }

  /** What the production commands do, and what they note here. */
  readonly handlers: Handlers<CommandName> = {
    ...networkCommands({
      forwarder: (network) => this.network(network),
      perform: (network, name, args, events = null) =>
        performInput(this.network(network), name, args, { outputOf: () => unused('outputs'), events }),
      now: () => this.now,
      drain: (_network, port) => this.drain(port),
      housekeeping: () => undefined,
      flush: () => undefined,
    }),
    removePort: ({ index }) => {
      this.remove(index)
      return null
    },
    addNetwork: () => unused('addNetwork'),
    removeNetwork: () => unused('removeNetwork'),
    changePort: () => unused('changePort'),
    addPort: () => unused('addPort'),
    polling: () => unused('polling'),
    play: () => unused('play'),
    endPlay: () => unused('endPlay'),
    ping: () => unused('ping'),
    stop: () => unused('stop'),
    portChanged: () => unused('portChanged'),
    handOver: () => unused('handOver'),
    startRecording: () => unused('startRecording'),
    continueRecording: () => unused('continueRecording'),
    endRecording: () => unused('endRecording'),
    fastPath: () => unused('fastPath'),
    hooked: () => unused('hooked'),
    paths: () => unused('paths'),
    verdicts: () => unused('verdicts'),
  }

  /** For the diagram, coverage.ts and invariants.ts. */
  #observe<K extends CommandName>(name: K, args: Commands[K]['args'], result: Commands[K]['result']): void {
    const { world, host } = this.daemon
    const { marks, nics } = world
    const { ports = [], epoch = 0, most = [] } = (args ?? {}) as Seen
    const note = (text: string) => world.note(host.name, text)
    const whose = () => [...new Set(ports.map((port) => nics[port].guest.name))].join(' ')
    switch (name) {
      case 'begin':
        note(`begin e${epoch}`)
        break
      case 'arm':
        for (const port of ports) nics[port].armedAt = nics[port].log.delivered.length
        break
      case 'gate':
        note(`gate of ${whose()} closes`)
        break
      case 'flip': {
        const cut = (result as Commands['flip']['result']).ports
        if (cut.some(({ recorded }) => recorded > 0)) marks.add('residue')
        if (cut.some(({ lost }) => lost > 0)) marks.add('residue lost')
        if (ports.length > 1) marks.add('several NICs cut')
        if (ports.some((port) => nics[port].guest.nics.length > ports.length))
          marks.add('cut with NICs in other networks')
        for (const port of ports) world.cut(port)
        note(`CUT of ${whose()} e${epoch}`)
        break
      }
      case 'release':
        note(`gate of ${whose()} opens`)
        break
      case 'drain': {
        marks.add('gate opened in portions')
        const { opening } = result as Commands['drain']['result']
        const isStuck = opening.some((port) => most[ports.indexOf(port)] === Number.POSITIVE_INFINITY)
        if (isStuck) world.violation(4, `the gate of ${whose()} stays closed`)
        break
      }
      case 'advance':
        note(`advance e${epoch}`)
        break
      case 'fence':
        note(`fence e${epoch}`)
        break
    }
  }

  /** It has thrown, or its process was killed. What was in its sockets and memory is gone. */
  end(): void {
    this.alive = false
    for (const command of this.#commands) command.fail()
  }

  drain(port: number): void {
    for (let batch = 0; batch < DRAIN_BATCHES && this.#read(port, 64) > 0; batch++);
  }

  #add(network: number, spec: PortSpec, send: Output['send'], isRunning = () => true): PortState {
    const forwarder = this.forwarders[network]
    this.ingress[spec.index] = []
    this.#forwarderOf[spec.index] = forwarder
    const port = forwarder.addPort(spec, { send })
    this.fast?.add(spec, forwarder, send, isRunning)
    return port
  }

  #spec(index: number, kind: PortSpec['kind'], epoch: number): PortSpec {
    const mac = parseMac(`06:00:00:00:0${this.daemon.host.index}:${index.toString(16).padStart(2, '0')}`)
    return { index, name: `p${index}`, kind, vm: null, epoch, mac }
  }

  #look(): void {
    if (this.#looking || !this.alive) return
    this.#looking = true
    const { world, host } = this.daemon
    world.time.after(world.wait(LOOK, host.index, ++this.#looks, world.scenario.pace.poll), () => {
      this.#looking = false
      if (this.alive) this.#wake()
    })
  }

  #wake(): void {
    const { world, host } = this.daemon
    for (let command = this.#commands.shift(); command !== undefined; command = this.#commands.shift()) {
      world.step(host)
      command.run()
    }
    const batch = 1 + Math.floor(world.chance(BATCH, host.index, this.#looks) * 6)
    let left = 0
    for (let port = 0; port < this.ingress.length; port++) {
      if (this.ingress[port] === undefined) continue
      this.#read(port, batch)
      left += this.ingress[port]?.length ?? 0
    }
    if (left > 0) this.#look()
    this.#watchEarly()
  }

  #watchEarly(): void {
    const { agent, world } = this.daemon
    for (const network of world.networks) {
      const session = agent?.sessions.snapshotOf(networkName(network))
      if (session?.state !== 'prepared') this.earlySince[network] = null
      else if (this.earlySince[network] === null && this.#holdsFrom(network, session.request.epoch))
        this.earlySince[network] = world.time.now
    }
  }

  /**
   * Whether frames from after a cut wait. Behind the gates that another network has closed anything may; and where a
   * host has not heard that an epoch was used up by a restore that was undone, frames of that epoch.
   */
  #holdsFrom(network: number, epoch: number): boolean {
    let found = false
    for (const { hold, closed } of this.forwarders[network].ports) {
      if (closed || hold.length === 0) continue
      hold.sift((copy) => {
        found ||= copy.color >= epoch
        return true
      })
    }
    return found
  }

  #read(port: number, most: number): number {
    const socket = this.ingress[port]
    if (socket === undefined || socket.length === 0) return 0
    const batch = socket.splice(0, most)
    const now = this.now
    const { world, host } = this.daemon
    for (const copy of batch) {
      this.fast?.take(port, copy)
      this.#forwarderOf[port].receive(port, this.#frame.pointAt(copy), now)
      if (port < TRUNK_PORTS) world.colored(port, this.#frame.color, host)
    }
    this.fast?.sent(port)
    return batch.length
  }

  #scheduleTick(ms: number): void {
    this.daemon.world.time.after(ms, () => {
      if (!this.alive) return
      for (const forwarder of this.forwarders) forwarder.tick(this.now)
      this.fast?.path.tick(this.now)
      const open = this.forwarders.some(({ snapshots }) => snapshots.openEpoch !== null)
      this.#scheduleTick(open ? TICK_INTERVAL_OPEN : TICK_INTERVAL_MS)
    })
  }

  #tell(event: DatapathEvent): void {
    this.#toMain(() => {
      this.daemon.world.step(this.daemon.host)
      this.daemon.datapath.emit('event', event)
    })
  }

  #toMain(act: () => void): void {
    const { world, host } = this.daemon
    const { time } = world
    this.#mainFreeAt = Math.max(
      this.#mainFreeAt,
      time.now + world.wait(ANSWER, host.index, this.#answers++, world.scenario.pace.poll),
    )
    time.at(this.#mainFreeAt, () => {
      if (!this.daemon.alive) return
      time.promised = true
      act()
    })
  }
}

const colorText = (color: number) => (color < 0 ? '' : ` e${color}`)

function lanText(frame: Frame): string | null {
  const bytes = frame.bytes.subarray(frame.start - VNET_HEADER_LENGTH)
  switch (kindOf(bytes)) {
    case 'control':
      return controlText(frame)
    case 'carrier': {
      const id = carriedId(bytes)
      return id < 0 ? null : `#${id}${colorText(u32(frame, CarrierField.COLOR))} carried`
    }
    case 'frame': {
      const id = frameId(frame.bytes, frame.start)
      return id < 0 ? null : `#${id}${colorText(frame.color)}`
    }
  }
}

function controlText(frame: Frame): string | null {
  const type = frame.bytes[frame.start + 19]
  const view = new DataView(frame.bytes.buffer, frame.start)
  if (type === 2) return `MARKER e${view.getUint32(158)} (${view.getBigUint64(162)} before)`
  return null
}

function unused(name: string): never {
  throw new Error(`nobody asks a virtual worker for ${name}`)
}
