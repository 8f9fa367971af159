// The promises of gate and delivery rule, under random interleavings of frames and commands: nothing is lost, doubled
// or reordered between any sender and receiver; no frame is received before a cut that was sent after one; and the
// channel state is exactly what crossed the cut.

import t from 'tap'
import { ControlType } from '../../src/frame/control.js'
import { VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import fc from '../property.js'
import { Peer } from './peer.js'
import { GROUP, mac, Rig } from './rig.js'

/** Three local members, the outside world, and a trunk with two senders behind it. */
const KINDS = ['member', 'member', 'member', 'plain', 'trunk'] as const
const MEMBERS = [0, 1, 2]
const PLAIN = 3
const TRUNK = 4
const REMOTE = [10, 11]
const RECEIVERS = [...MEMBERS, PLAIN, TRUNK]

type Kind =
  | 'local'
  | 'remote'
  | 'remoteCut'
  | 'gate'
  | 'flip'
  | 'release'
  | 'drain'
  | 'begin'
  | 'marker'
  | 'everybody'
  | 'advance'
  | 'tick'
interface Step {
  readonly kind: Kind
  readonly from?: number
  readonly to?: number
  readonly port?: number
  /** Frames that a gate lets out at once. */
  readonly most?: number
}

const local = fc.constantFrom(...MEMBERS)
const to = fc.constantFrom(-1, ...MEMBERS)
const sender = fc.constantFrom(...MEMBERS, PLAIN)
const remote = fc.constantFrom(...REMOTE)
const portion = fc.constantFrom(1, 2, 1000)
const one = (kind: Kind, rest: Record<string, fc.Arbitrary<number>> = {}): fc.Arbitrary<Step> =>
  fc.record({ kind: fc.constant(kind), ...rest }) as fc.Arbitrary<Step>
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 12, arbitrary: one('local', { from: sender, to }) },
  { weight: 8, arbitrary: one('remote', { from: remote, to }) },
  { weight: 2, arbitrary: one('remoteCut', { from: remote }) },
  { weight: 3, arbitrary: one('gate', { port: local }) },
  { weight: 3, arbitrary: one('flip', { port: local }) },
  { weight: 3, arbitrary: one('release', { port: local, most: portion }) },
  { weight: 2, arbitrary: one('drain', { most: portion }) },
  { weight: 3, arbitrary: one('begin') },
  { weight: 2, arbitrary: one('marker') },
  { weight: 1, arbitrary: one('everybody') },
  { weight: 1, arbitrary: one('advance') },
  { weight: 1, arbitrary: one('tick') },
)

/** All that happened, frame by frame; `id` is unique, and grows per sender. */
class Run {
  readonly rig = new Rig(KINDS, { hold: { frames: 1e6, bytes: 1e9 }, record: { frames: 1e6, bytes: 1e9 } }, 1)
  readonly peer = new Peer(this.rig, TRUNK)
  readonly sent: { id: number; from: number; color: number; to: number }[] = []
  readonly received = new Map<number, { id: number; epoch: number }[]>(RECEIVERS.map((port) => [port, []]))
  readonly remoteEpoch = new Map(REMOTE.map((from) => [from, 1]))
  /** The epoch that cuts are about; one more after each snapshot. */
  target = 2
  readonly recorded: { port: number; id: number; epoch: number }[] = []
  readonly expected: { port: number; id: number; epoch: number }[] = []

  readonly #inVlan: boolean

  /** `inVlan`: every port is in VLAN 10, the trunk with the tag and the others without. */
  constructor(inVlan: boolean) {
    this.#inVlan = inVlan
    if (inVlan) {
      for (const port of RECEIVERS)
        this.rig.forwarder.setRules(port, { vlan: port === TRUNK ? { tagged: [10] } : { pvid: 10 } })
    }
    this.peer.meet(1)
    // Everybody is known, so that frames to one go to one only.
    for (const from of [...MEMBERS, PLAIN]) this.#send(from, -1)
    for (const from of REMOTE) this.#send(from, -1)
  }

  perform(one: Step): void {
    const { forwarder, now } = this.rig
    const { snapshots } = forwarder
    const actions = {
      local: () => this.#send(one.from!, one.to!),
      remote: () => this.#send(one.from!, one.to!),
      remoteCut: () => this.remoteEpoch.set(one.from!, Math.min(this.target, this.remoteEpoch.get(one.from!)! + 1)),
      gate: () => this.#watch(() => snapshots.gate([one.port!], now)),
      flip: () => this.#watch(() => snapshots.flip([one.port!], this.target, [0], now)),
      release: () => this.#watch(() => snapshots.release([one.port!], now, [one.most!])),
      drain: () => this.#watch(() => snapshots.drain(MEMBERS, now, [one.most!, 1, 1])),
      begin: () => snapshots.openEpoch ?? this.#watch(() => snapshots.begin(this.target, 'buffer', 1e15, now)),
      marker: () => this.#marker(),
      everybody: () => this.#everybody(),
      advance: () => this.finish(),
      tick: () => this.#watch(() => this.rig.tick(7)),
    } satisfies Record<Step['kind'], () => unknown>
    actions[one.kind]()
  }

  /** All that have not cut yet do, here and there. */
  #everybody(): void {
    const { snapshots } = this.rig.forwarder
    for (const from of REMOTE) this.remoteEpoch.set(from, this.target)
    this.#watch(() => snapshots.flip(MEMBERS, this.target, [0, 0, 0], this.rig.now))
    this.#watch(() => snapshots.release(MEMBERS, this.rig.now))
  }

  /** The peer's word that all its members have cut, once they have. */
  #marker(): void {
    if ([...this.remoteEpoch.values()].some((epoch) => epoch < this.target)) return
    const count = this.sent.filter(({ from, color }) => REMOTE.includes(from) && color < this.target).length
    this.#watch(() => this.peer.say(ControlType.MARKER, this.target, count))
  }

  /** The snapshot ends and everybody moves on; its channel state is compared. */
  finish(): void {
    const { snapshots } = this.rig.forwarder
    const epoch = snapshots.openEpoch
    if (epoch !== null) {
      for (const { port, copy } of snapshots.end().frames) {
        const id = new DataView(copy.bytes.buffer).getUint32(VNET_HEADER_LENGTH + 14)
        this.recorded.push({ port, id, epoch })
      }
    }
    this.#watch(() => snapshots.advance(this.target, this.rig.now))
    this.target++
  }

  get closed(): boolean {
    return this.rig.events.some((event) => event.kind === 'closed' && event.epoch === this.target)
  }

  #send(from: number, to: number): void {
    const id = this.sent.length + 1
    const { forwarder } = this.rig
    const remote = REMOTE.includes(from)
    const color = remote ? this.remoteEpoch.get(from)! : from === PLAIN ? -1 : forwarder.byIndex[from]!.epoch
    this.sent.push({ id, from, color, to })
    const words = { id, from: mac(from + 1), to: to < 0 ? GROUP : mac(to + 1) }
    this.#watch(() => {
      if (remote) this.rig.receive(TRUNK, { ...words, ...this.#tagged(id), tag: this.peer.tag(color) })
      else this.rig.receive(from, words)
    })
  }

  /** As it is behind the color's tag. */
  #tagged(id: number): { type?: number; payload?: Uint8Array } {
    if (!this.#inVlan) return {}
    const payload = new Uint8Array(50)
    payload.set([0, 10, 8, 0])
    new DataView(payload.buffer).setUint32(4, id)
    return { type: 0x8100, payload }
  }

  /** Notes what comes out while `act` runs, with the receiver's epoch at that instant. */
  #watch(act: () => unknown): void {
    act()
    const { forwarder, outputs } = this.rig
    const open = forwarder.snapshots.openEpoch
    for (const port of RECEIVERS) {
      for (const sent of outputs[port].take()) {
        if (sent.bytes[12] === 0x88 && sent.bytes[13] === 0xb5) continue
        const isTagged = sent.tagTpid === 0x8100 && sent.tagTci === 10
        if (isTagged !== (this.#inVlan && port === TRUNK))
          throw new Error(`port ${port}: ${sent.tagTpid} ${sent.tagTci}`)
        const { epoch } = forwarder.byIndex[port]!
        this.received.get(port)!.push({ id: sent.id, epoch })
        const { color } = this.sent[sent.id - 1]
        if (open === null || this.closed || color < 0 || !MEMBERS.includes(port)) continue
        if (color < open && open <= epoch) this.expected.push({ port, id: sent.id, epoch: open })
      }
    }
  }
}

/** Who has to get a frame: the one it is for, or all but its sender; from a trunk, nobody on a trunk. */
function receiversOf(run: Run, { from, to }: { from: number; to: number }): number[] {
  if (to >= 0) return to === from ? [] : [to]
  const port = REMOTE.includes(from) ? TRUNK : from
  return RECEIVERS.filter((receiver) => receiver !== port && run.received.has(receiver))
}

t.test('random interleavings of frames, cuts and gates', async (t) => {
  let held = 0
  let crossed = 0
  let closed = 0
  fc.assert(
    fc.property(fc.array(step, { minLength: 10, maxLength: 150, size: 'max' }), fc.boolean(), (steps, inVlan) => {
      const run = new Run(inVlan)
      for (const each of steps) run.perform(each)
      run.finish()
      for (const port of MEMBERS) {
        held += run.rig.count(port, 'held')
        if (run.rig.forwarder.byIndex[port]!.hold.length !== 0) throw new Error(`port ${port} still holds frames`)
      }
      for (const receiver of RECEIVERS) {
        const got = run.received.get(receiver)!
        for (const from of [...MEMBERS, PLAIN, ...REMOTE]) {
          const meant = run.sent.filter((frame) => frame.from === from && receiversOf(run, frame).includes(receiver))
          const came = got.filter(({ id }) => run.sent[id - 1].from === from)
          const wanted = meant.map(({ id }) => id).join()
          const found = came.map(({ id }) => id).join()
          if (wanted !== found) throw new Error(`from ${from} to ${receiver}: sent ${wanted}; received ${found}`)
        }
        if (!MEMBERS.includes(receiver)) continue
        for (const { id, epoch } of got) {
          const { color } = run.sent[id - 1]
          if (color > epoch) throw new Error(`orphan: frame ${id} of epoch ${color} received at epoch ${epoch}`)
        }
      }
      const key = ({ port, id, epoch }: { port: number; id: number; epoch: number }) => `${epoch}/${port}/${id}`
      const recorded = run.recorded.map(key).sort().join()
      const expected = run.expected.map(key).sort().join()
      if (recorded !== expected) throw new Error(`recorded ${recorded}; crossed the cut: ${expected}`)
      closed += run.rig.events.filter((event) => event.kind === 'closed').length
      crossed += run.recorded.length
    }),
    { numRuns: 3000 },
  )
  t.ok(held > 1000 && crossed > 1000 && closed > 100, `${held} frames held, ${crossed} recorded, ${closed} closures`)
})
