// Uplinks under random schedules: three hosts and an outside host on a LAN that delays each way as it likes, members
// that send all kinds of frames to everybody, snapshots one after the other. Every frame arrives once and in order,
// none as an orphan, the channel state is exact, and the outside host is given its own frames only.

import t from 'tap'
import { EtherType } from '../../src/frame/ethernet.js'
import { NO_COLOR, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import fc from '../property.js'
import { Random } from '../simulation/chance.js'
import { idOf, ip, Lan, type LanHost, type OnLan } from './lan.js'
import { type FrameWords, GROUP, mac } from './rig.js'

const LATER = 1e15
const O = mac(0x7777)
const UNKNOWN = mac(0x5555)
/** An address that a member uses beside its own, and that is never claimed towards peers in time. */
const nested = (host: LanHost, member: number) => mac(0x4000 + host.name.charCodeAt(0) * 16 + member)
/** Virtual milliseconds that a frame is under way at most. */
const SLOW = 500

interface Sent {
  readonly from: string
  readonly color: number
  /** Who must get it; null: all members and the outside but the sender. */
  readonly to: string | null
}

interface Got {
  readonly id: number
  readonly by: string
  readonly epoch: number
}

class Schedule {
  readonly lan = new Lan()
  readonly hosts: LanHost[]
  readonly sent = new Map<number, Sent>()
  readonly got: Got[] = []
  readonly state: { id: number; by: string; epoch: number }[] = []
  readonly #pending = new Map<string, { copy: OnLan; at: number }[]>()
  #nextId = 1
  #epoch = 4
  #waiting: (() => void)[] = []
  readonly #random: Random

  constructor(random: Random, color: 'dscp' | 'carrier') {
    this.#random = random
    this.hosts = ['a', 'b', 'c'].map((name) => this.lan.host(name, 2, { color }, this.#epoch))
    this.lan.outsider('o')
    this.lan.pass(300)
    for (const host of this.hosts) for (const member of [1, 2]) host.send(member, { type: EtherType.ARP })
    this.lan.send('o', { type: EtherType.ARP, from: O })
    this.lan.run()
    this.lan.pass(3000)
    this.lan.forget()
  }

  step(): void {
    const dice = this.#random.next()
    if (dice < 0.4) this.#send()
    else if (dice < 0.45) this.#sendFromOutside()
    else if (dice < 0.85) this.#deliverOne()
    else if (dice < 0.95) this.#tick(this.#random.integer(0, 29))
    else this.#progress()
    this.#collect()
  }

  /** Ends what is under way and looks at all that has come. */
  finish(): void {
    while (this.#waiting.length > 0) this.#progress()
    for (let i = 0; i < 20; i++) this.#tick(50)
    for (const host of this.hosts) this.#end(host)
  }

  #send(): void {
    const host = this.#random.pick(this.hosts)
    const member = this.#random.integer(1, 2)
    const other = this.#random.pick(this.hosts)
    const target = this.#random.integer(1, 2)
    const id = this.#nextId++
    const kind = this.#random.pick<(to: Uint8Array) => FrameWords>([
      (to) => ({ ...ip(4, id), to }),
      (to) => ({ ...ip(6, id), to }),
      (to) => ({ ...ip(4, id, 4), to }),
      (to) => ({ ...ip(4, id, 0xb8, 1500), to }),
      (to) => ({ type: EtherType.ARP, id, to }),
    ])
    const from = this.#random.next() < 0.1 ? nested(host, member) : host.macOf(member)
    const color = host.forwarder.byIndex[member]!.epoch
    const sender = `${host.name}${member}`
    const where = this.#random.next()
    let to: string | null = null
    let words = kind(GROUP)
    if (where < 0.6) {
      if (other === host && target === member) return
      to = `${other.name}${target}`
      words = kind(other.macOf(target))
    } else if (where < 0.75) {
      to = 'o'
      words = kind(O)
    } else if (where < 0.85) words = kind(UNKNOWN)
    this.sent.set(id, { from: sender, color, to })
    host.send(member, { ...words, from })
  }

  #sendFromOutside(): void {
    const id = this.#nextId++
    const host = this.#random.pick(this.hosts)
    const toAll = this.#random.next() < 0.3
    this.sent.set(id, { from: 'o', color: NO_COLOR, to: toAll ? null : `${host.name}1` })
    this.lan.send('o', { ...ip(4, id, this.#random.next() < 0.5 ? 4 : 0), from: O, to: toAll ? GROUP : host.macOf(1) })
  }

  /** One frame on one way of the LAN: on each way they keep their order, as on any. */
  #deliverOne(): void {
    this.#scatter()
    const ways = [...this.#pending.keys()]
    if (ways.length > 0) this.#take(this.#random.pick(ways))
  }

  #tick(ms: number): void {
    this.#scatter()
    for (const [way, queue] of [...this.#pending]) {
      while (queue.length > 0 && this.lan.now - queue[0].at > SLOW) this.#take(way)
    }
    this.lan.now += ms
    for (const host of this.hosts) host.forwarder.tick(this.lan.now)
    if (ms < 50) return
    for (;;) {
      this.#scatter()
      if (this.#pending.size === 0) break
      for (const way of [...this.#pending.keys()]) this.#take(way)
    }
    this.#collect()
  }

  #scatter(): void {
    for (const copy of this.lan.wire.splice(0)) {
      for (const to of this.lan.receivers(copy)) {
        const way = `${copy.from}>${to}`
        const queue = this.#pending.get(way) ?? []
        queue.push({ copy, at: this.lan.now })
        this.#pending.set(way, queue)
      }
    }
  }

  #take(way: string): void {
    const queue = this.#pending.get(way)!
    const { copy } = queue.shift()!
    if (queue.length === 0) this.#pending.delete(way)
    this.lan.give(way.slice(way.indexOf('>') + 1), copy)
    this.#collect()
  }

  /** The next thing that happens in a snapshot, in any order that hosts could do it in. */
  #progress(): void {
    if (this.#waiting.length > 0) {
      const at = this.#random.integer(0, this.#waiting.length - 1)
      this.#waiting.splice(at, 1)[0]()
      this.#collect()
      return
    }
    // The coordinator begins another one when all parts are done.
    if (this.hosts.some((host) => host.forwarder.snapshots.openEpoch !== null && host.closed.length === 0)) return
    for (const host of this.hosts) this.#end(host)
    const epoch = ++this.#epoch
    for (const host of this.hosts) {
      const flips = [1, 2].map((member) => () => {
        host.forwarder.snapshots.flip([member], epoch, [0], this.lan.now)
      })
      this.#waiting.push(() => {
        host.forwarder.snapshots.begin(epoch, 'buffer', LATER, this.lan.now)
        this.#waiting.push(...flips)
      })
    }
  }

  #end(host: LanHost): void {
    const epoch = host.forwarder.snapshots.openEpoch
    if (epoch === null) return
    for (const { copy, port } of host.forwarder.snapshots.end().frames) {
      this.state.push({ id: idOf(copy.bytes.subarray(VNET_HEADER_LENGTH)), by: `${host.name}${port}`, epoch })
    }
    for (const { closures } of host.closed.splice(0)) {
      for (const { byCount, lost } of closures)
        if (!byCount || lost > 0) throw new Error('a channel did not close by count')
    }
  }

  #collect(): void {
    for (const host of this.hosts) {
      for (const member of [1, 2]) {
        const { epoch } = host.forwarder.byIndex[member]!
        for (const { bytes } of host.outputs[member].take()) {
          this.got.push({ id: idOf(bytes), by: `${host.name}${member}`, epoch })
        }
      }
      for (const reason of ['carrier-broken', 'carrier-unexpected'] as const) {
        if (host.drops(reason) > 0) throw new Error(`${host.name}: ${reason}`)
      }
    }
    for (const copy of this.lan.outside.get('o')!.splice(0)) {
      const type = (copy.bytes[VNET_HEADER_LENGTH + 12] << 8) | copy.bytes[VNET_HEADER_LENGTH + 13]
      if (type === EtherType.CONTROL && (copy.bytes[VNET_HEADER_LENGTH] & 1) === 1) continue
      this.got.push({ id: idOf(copy.bytes.subarray(VNET_HEADER_LENGTH)), by: 'o', epoch: 0 })
    }
  }

  get everybody(): string[] {
    return [...this.hosts.flatMap((host) => [`${host.name}1`, `${host.name}2`]), 'o']
  }
}

/** On the LAN under a member's own address (LanHost.macOf): not in a carrier. */
const isToMember = ({ bytes, from }: OnLan) =>
  from !== 'o' && bytes[VNET_HEADER_LENGTH] === 2 && bytes[VNET_HEADER_LENGTH + 4] === 6

/** What does not hold, in words; empty when all does. */
function faultsOf(schedule: Schedule): string[] {
  const faults: string[] = []
  const { sent, got, state } = schedule
  const counts = new Map<string, number>()
  const last = new Map<string, number>()
  const due: string[] = []
  for (const { id, by, epoch } of got) {
    const frame = sent.get(id)
    const key = `#${id} at ${by}`
    if (frame === undefined) {
      faults.push(`${key} was never sent`)
      continue
    }
    counts.set(key, (counts.get(key) ?? 0) + 1)
    if (by === 'o' && frame.to !== null && frame.to !== 'o') faults.push(`${key} was not for the outside`)
    if (by !== 'o' && frame.color > epoch) faults.push(`${key} is an orphan: ${frame.color} at ${epoch}`)
    if (by !== 'o' && frame.color !== NO_COLOR) {
      for (let cut = frame.color + 1; cut <= epoch; cut++) due.push(`${key} for ${cut}`)
      const pair = `${frame.from}>${by}`
      if ((last.get(pair) ?? 0) > id) faults.push(`${key} overtaken`)
      last.set(pair, id)
    }
  }
  for (const [id, frame] of sent) {
    for (const name of frame.to === null ? schedule.everybody : [frame.to]) {
      const times = counts.get(`#${id} at ${name}`) ?? 0
      if (name !== frame.from && times !== 1) faults.push(`#${id} at ${name} ${times} times`)
    }
  }
  const recorded = state.map(({ id, by, epoch }) => `#${id} at ${by} for ${epoch}`)
  const difference = (a: string[], b: string[]) => a.filter((one) => !b.includes(one))
  for (const one of difference(due, recorded)) faults.push(`${one} is missing in the channel state`)
  for (const one of difference(recorded, due)) faults.push(`${one} is too much in the channel state`)
  return faults
}

for (const color of ['dscp', 'carrier'] as const) {
  t.test(`random schedules, ${color}`, async (t) => {
    let snapshots = 0
    let byBit = 0
    fc.assert(
      fc.property(fc.integer(), (seed) => {
        const random = new Random(seed)
        const schedule = new Schedule(random, color)
        for (let i = 0; i < 500; i++) schedule.step()
        schedule.finish()
        snapshots += new Set(schedule.state.map(({ epoch }) => epoch)).size
        byBit += schedule.lan.seen.filter(isToMember).length
        const faults = faultsOf(schedule)
        if (faults.length > 0) throw new Error(faults.slice(0, 5).join('\n'))
      }),
      { numRuns: 100, endOnFailure: true },
    )
    t.comment(`${snapshots} snapshots with frames under way, ${byBit} frames by the bit`)
    t.ok(snapshots > 50, 'frames were under way at cuts')
    if (color === 'dscp') t.ok(byBit > 1000, 'frames went by the bit')
    else t.equal(byBit, 0, 'all were carried')
  })
}
