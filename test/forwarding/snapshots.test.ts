// A forwarder's part in snapshots and restores, step by step: gate, hold, early, cut, in-transit, residue, release,
// markers, closure, advance, fence, preload, announce.

import t from 'tap'
import { colorVid } from '../../src/frame/color-tag.js'
import { ControlType } from '../../src/frame/control.js'
import { eventLogMemory } from '../../switch/forwarding/event-log.js'
import { Peer } from './peer.js'
import { GROUP, mac, Rig } from './rig.js'

const LATER = 1e15

/** A frame from behind trunk `port`, of a VM whose switch is at `epoch`. */
function fromPeer(rig: Rig, port: number, epoch: number, id: number, to: Uint8Array = GROUP): void {
  rig.receive(port, { from: mac(90), to, id, tag: peerOn(rig, port).tag(epoch) })
}

const peers = new Map<Rig, Peer[]>()

function peerOn(rig: Rig, port: number): Peer {
  const known = peers.get(rig) ?? []
  peers.set(rig, known)
  known[port] ??= new Peer(rig, port)
  return known[port]
}

/** Control frames of a type that went out of a port since the last look; other frames stay. */
function controlsSent(rig: Rig, port: number, type: ControlType) {
  const found = peerOn(rig, port).heard()
  return found.filter((message) => message.type === type).map(({ epoch, count }) => ({ epoch, count }))
}

t.test('a closed gate holds everything in order; opening it lets it go before anything later', async (t) => {
  const rig = new Rig(['member', 'member', 'plain'])
  const { snapshots } = rig.forwarder
  snapshots.gate([1], rig.now)
  for (const id of [1, 2, 3]) rig.receive(0, { id })
  rig.receive(2, { id: 4, from: mac(3) })
  t.same(rig.ids(), [[4], [], [1, 2, 3]], 'the outside world is held, too; nobody else is')
  t.equal(rig.count(1, 'held'), 4)
  t.equal(snapshots.release([1], rig.now), 4)
  rig.receive(0, { id: 5 })
  t.same(rig.ids(), [[], [1, 2, 3, 4, 5], [5]])
  t.equal(snapshots.release([1], rig.now), 0, 'once')
  t.equal(rig.count(1, 'early'), 0)
})

t.test('a gate lets go in portions; what comes meanwhile waits behind, and the last portion opens it', async (t) => {
  const rig = new Rig(['member', 'member'], {}, 3)
  const { snapshots } = rig.forwarder
  snapshots.begin(4, 'buffer', LATER, rig.now)
  snapshots.gate([0, 1], rig.now)
  for (const id of [1, 2, 3, 4, 5]) rig.receive(0, { id })
  snapshots.flip([0, 1], 4, [0, 0], rig.now)
  t.equal(snapshots.release([0, 1], rig.now, [2, 2]), 2)
  t.same(snapshots.opening(), [1], 'nothing was behind the other gate')
  rig.receive(0, { id: 6 })
  t.same(rig.ids(), [[], [1, 2]])
  rig.tick(10)
  t.notOk(
    rig.events.some(({ kind }) => kind === 'closed'),
    'in-transit frames are still to come',
  )
  t.equal(snapshots.drain([0, 1], rig.now, [9, 0]), 0, 'no room')
  t.equal(snapshots.drain([0, 1], rig.now, [9, 3]), 3)
  t.same(snapshots.opening(), [1])
  t.equal(snapshots.drain([1], rig.now, [1]), 1)
  t.same(snapshots.opening(), [])
  t.equal(snapshots.drain([0, 1], rig.now), 0)
  rig.receive(0, { id: 7 })
  t.same(rig.ids(), [[], [3, 4, 5, 6, 7]])
  rig.tick(10)
  t.same(
    rig.events.filter(({ kind }) => kind === 'closed'),
    [{ kind: 'closed', epoch: 4, closures: [] }],
  )
  const recorded = snapshots.end().frames.map(({ copy }) => new DataView(copy.bytes.buffer).getUint32(24))
  t.same(recorded, [1, 2, 3, 4, 5])
})

t.test('a gate that is closed again while it opens stays closed', async (t) => {
  const rig = new Rig(['member', 'member'])
  const { snapshots } = rig.forwarder
  snapshots.gate([1], rig.now)
  for (const id of [1, 2, 3]) rig.receive(0, { id })
  snapshots.release([1], rig.now, [1])
  snapshots.gate([1], rig.now)
  t.same(snapshots.opening(), [])
  t.equal(snapshots.drain([1], rig.now), 0, 'who drained it is late')
  t.same(rig.ids(), [[], [1]])
  snapshots.advance(0, rig.now, 1)
  t.same(snapshots.opening(), [1], 'called off, it opens in portions, too')
  t.same(rig.ids(), [[], [2]])
  snapshots.fence([1], 1, rig.now)
  t.same(snapshots.opening(), [])
  t.equal(rig.drops(1, 'fenced'), 1)
  snapshots.release([1], rig.now, [0])
  rig.receive(0, { id: 4 })
  t.same(rig.ids(), [[], [4]], 'nothing waits, so it is open')
})

t.test('a gate does not keep its own VM from sending', async (t) => {
  const rig = new Rig(['member', 'member'])
  rig.forwarder.snapshots.gate([0], rig.now)
  rig.receive(0, { id: 1 })
  t.same(rig.ids(), [[], [1]])
})

t.test('a full hold queue drops the rest, counted', async (t) => {
  const rig = new Rig(['member', 'member'], { hold: { frames: 2, bytes: 1 << 20 } })
  rig.forwarder.snapshots.gate([1], rig.now)
  for (const id of [1, 2, 3, 4]) rig.receive(0, { id })
  t.equal(rig.drops(1, 'hold-overflow'), 2)
  rig.forwarder.snapshots.release([1], rig.now)
  t.same(rig.ids(), [[], [1, 2]])
})

t.test('hold queues have a bound together, too; room that one gives up is there for all', async (t) => {
  const rig = new Rig(['member', 'member', 'member'], { networkHold: { frames: 3, bytes: 1 << 20 } })
  const { snapshots } = rig.forwarder
  snapshots.gate([1, 2], rig.now)
  for (const id of [1, 2]) rig.receive(0, { id })
  t.same([rig.count(1, 'held'), rig.count(2, 'held')], [2, 1])
  t.same([rig.drops(1, 'hold-overflow'), rig.drops(2, 'hold-overflow')], [0, 1])
  snapshots.release([1], rig.now)
  rig.receive(0, { id: 3 })
  rig.forwarder.removePort(2)
  snapshots.gate([1], rig.now)
  for (const id of [4, 5, 6, 7]) rig.receive(0, { id })
  snapshots.release([1], rig.now)
  t.same(rig.outputs[1].ids(), [1, 2, 3, 4, 5, 6])
})

t.test('an early frame waits for its receiver’s cut, and asks for it once', async (t) => {
  const rig = new Rig(['member', 'trunk', 'member'], {}, 3)
  const { snapshots } = rig.forwarder
  snapshots.begin(4, 'buffer', LATER, rig.now)
  fromPeer(rig, 1, 4, 1)
  fromPeer(rig, 1, 4, 2)
  t.same(rig.outputs[0].ids(), [])
  t.equal(rig.count(0, 'early'), 2)
  t.same(rig.events, [
    { kind: 'early', port: 0, epoch: 4 },
    { kind: 'early', port: 2, epoch: 4 },
  ])
  snapshots.gate([0], rig.now)
  fromPeer(rig, 1, 4, 3)
  snapshots.flip([0], 4, [0], rig.now)
  t.same(rig.outputs[0].ids(), [], 'cut, yet the guest does not run')
  snapshots.release([0], rig.now)
  t.same(rig.outputs[0].ids(), [1, 2, 3])
  fromPeer(rig, 1, 4, 4)
  t.same(rig.outputs[0].ids(), [4])
  t.same(rig.outputs[2].ids(), [], 'the other member has not cut')
  t.same(snapshots.end().frames, [], 'an early frame is in no channel state')
})

t.test('an early frame without a snapshot is held too, and asks for one', async (t) => {
  const rig = new Rig(['member', 'trunk'], {}, 3)
  fromPeer(rig, 1, 4, 1)
  t.same(rig.events, [{ kind: 'early', port: 0, epoch: 4 }])
  t.same(rig.outputs[0].ids(), [])
  rig.forwarder.snapshots.advance(4, rig.now)
  t.same(rig.outputs[0].ids(), [1])
})

t.test('policy drop: early frames are dropped and counted, gated ones are still held', async (t) => {
  const rig = new Rig(['member', 'trunk'], {}, 3)
  const { snapshots } = rig.forwarder
  snapshots.begin(4, 'drop', LATER, rig.now)
  fromPeer(rig, 1, 4, 1)
  t.equal(rig.drops(0, 'early-dropped'), 1)
  t.match(rig.events, [{ kind: 'early', port: 0, epoch: 4 }])
  snapshots.gate([0], rig.now)
  fromPeer(rig, 1, 3, 2)
  snapshots.flip([0], 4, [0], rig.now)
  snapshots.release([0], rig.now)
  t.same(rig.outputs[0].ids(), [2])
})

t.test('an in-transit frame is delivered, and once in the channel state', async (t) => {
  const rig = new Rig(['member', 'trunk', 'member'], {}, 3)
  const { snapshots } = rig.forwarder
  snapshots.begin(4, 'buffer', LATER, rig.now)
  snapshots.gate([0], rig.now)
  fromPeer(rig, 1, 3, 1, mac(1))
  snapshots.flip([0], 4, [0], rig.now)
  snapshots.release([0], rig.now)
  rig.receive(2, { from: mac(3), id: 2 })
  fromPeer(rig, 1, 3, 3)
  fromPeer(rig, 1, 4, 4)
  t.same(rig.outputs[0].ids(), [1, 2, 3, 4])
  const { frames, overflow } = snapshots.end()
  t.same(
    frames.map((one) => [one.port, one.verdict, one.copy.bytes[10 + 14 + 3], one.copy.color]),
    [
      [0, 'in-transit', 1, 3],
      [0, 'in-transit', 2, 3],
      [0, 'in-transit', 3, 3],
    ],
    'also the local ones: the sender had not cut',
  )
  t.equal(overflow.size, 0)
  t.equal(rig.count(0, 'recorded'), 3)
  fromPeer(rig, 1, 3, 5)
  t.same(rig.outputs[0].ids(), [5], 'a straggler is delivered')
  t.equal(rig.count(0, 'stragglers'), 1)
})

t.test('a channel state over its bounds: delivered all the same, counted as lost per port', async (t) => {
  const rig = new Rig(['member', 'trunk'], { record: { frames: 1, bytes: 1 << 20 } }, 3)
  const { snapshots } = rig.forwarder
  snapshots.begin(4, 'buffer', LATER, rig.now)
  snapshots.flip([0], 4, [0], rig.now)
  for (const id of [1, 2, 3]) fromPeer(rig, 1, 3, id)
  t.same(rig.outputs[0].ids(), [1, 2, 3])
  t.equal(rig.drops(0, 'record-overflow'), 2)
  const { frames, overflow } = snapshots.end()
  t.equal(frames.length, 1)
  t.same([...overflow], [[0, 2]])
})

t.test('residue: the last frames delivered and not read; those of the outside world are not recorded', async (t) => {
  const rig = new Rig(['member', 'member', 'plain'], {}, 3)
  const { snapshots } = rig.forwarder
  rig.receive(1, { from: mac(2), id: 1 })
  snapshots.begin(4, 'buffer', LATER, rig.now)
  snapshots.arm([0])
  rig.receive(1, { from: mac(2), id: 2 })
  rig.receive(2, { from: mac(3), id: 3 })
  rig.receive(1, { from: mac(2), id: 4 })
  snapshots.gate([0], rig.now)
  rig.receive(1, { from: mac(2), id: 5 })
  t.same(snapshots.flip([0], 4, [3], rig.now), [{ recorded: 2, lost: 0 }])
  snapshots.release([0], rig.now)
  const { frames } = snapshots.end()
  t.same(
    frames.map((one) => [one.verdict, one.copy.bytes[10 + 14 + 3]]),
    [
      ['residue', 2],
      ['residue', 4],
      ['in-transit', 5],
    ],
  )
  t.equal(rig.count(0, 'recorded'), 3)
})

t.test('more residue than copies is lost, and said; a straggler among them keeps the copies in step', async (t) => {
  const rig = new Rig(['member', 'trunk'], {}, 3)
  const { snapshots } = rig.forwarder
  snapshots.begin(4, 'buffer', LATER, rig.now)
  snapshots.arm([0])
  fromPeer(rig, 1, 3, 1)
  fromPeer(rig, 1, 2, 2)
  t.same(snapshots.flip([0], 4, [5], rig.now), [{ recorded: 2, lost: 3 }])
  t.same(
    snapshots.end().frames.map((one) => one.copy.bytes[10 + 14 + 3]),
    [1, 2],
  )
})

t.test('a frame that the device refused is no residue', async (t) => {
  const rig = new Rig(['member', 'member'], {}, 3)
  rig.forwarder.snapshots.begin(4, 'buffer', LATER, rig.now)
  rig.forwarder.snapshots.arm([0])
  rig.receive(1, { id: 1 })
  rig.outputs[0].refuses = true
  rig.receive(1, { id: 2 })
  t.same(rig.forwarder.snapshots.flip([0], 4, [1], rig.now), [{ recorded: 1, lost: 0 }])
  t.same(
    rig.forwarder.snapshots.end().frames.map((one) => one.copy.bytes[10 + 14 + 3]),
    [1],
  )
})

t.test('epochs never go back, and ports that are no members have none', async (t) => {
  const rig = new Rig(['member', 'plain', 'trunk'], {}, 5)
  t.same(rig.forwarder.snapshots.flip([0, 1, 2, 17], 4, [0, 1, 1, 1], rig.now), [
    { recorded: 0, lost: 0 },
    { recorded: 0, lost: 0 },
    { recorded: 0, lost: 0 },
    { recorded: 0, lost: 0 },
  ])
  t.equal(rig.forwarder.byIndex[0]!.epoch, 5)
  rig.forwarder.snapshots.gate([1, 2, 17], rig.now)
  rig.receive(0, { id: 1 })
  t.same(rig.ids(), [[], [1], [1]])
})

t.test('markers: sent when all local members have flipped, repeated, acknowledged', async (t) => {
  const rig = new Rig(['member', 'member', 'trunk', 'trunk'], {}, 3)
  const { snapshots } = rig.forwarder
  rig.tick()
  for (const port of [2, 3]) peerOn(rig, port).meet(3)
  rig.receive(0, { id: 1 })
  rig.receive(1, { from: mac(2), to: mac(1), id: 2 })
  rig.clear()
  snapshots.begin(4, 'buffer', LATER, rig.now)
  snapshots.flip([0], 4, [0], rig.now)
  rig.receive(0, { id: 3 })
  t.same(controlsSent(rig, 2, ControlType.MARKER), [], 'one member has not flipped')
  snapshots.flip([1], 4, [0], rig.now)
  t.same(controlsSent(rig, 2, ControlType.MARKER), [{ epoch: 4, count: 1 }], 'frames of older colors, this trunk')
  t.same(controlsSent(rig, 3, ControlType.MARKER), [{ epoch: 4, count: 1 }])
  peerOn(rig, 2).say(ControlType.MARKER_ACK, 4)
  rig.tick(25)
  t.same(controlsSent(rig, 2, ControlType.MARKER), [])
  t.same(controlsSent(rig, 3, ControlType.MARKER), [{ epoch: 4, count: 1 }])
  peerOn(rig, 3).say(ControlType.MARKER_ACK, 4, 0, { bootId: 'cccccccccccccccc' })
  rig.tick(25)
  t.equal(controlsSent(rig, 3, ControlType.MARKER).length, 1, 'a stranger’s answer is none')
})

t.test('markers end at the snapshot’s deadline', async (t) => {
  const rig = new Rig(['member', 'trunk'], {}, 3)
  peerOn(rig, 1).meet(3)
  rig.forwarder.snapshots.begin(4, 'buffer', rig.now + 1000, rig.now)
  rig.forwarder.snapshots.flip([0], 4, [0], rig.now)
  rig.clear()
  rig.tick(900)
  t.equal(controlsSent(rig, 1, ControlType.MARKER).length, 1)
  rig.tick(101)
  t.equal(controlsSent(rig, 1, ControlType.MARKER).length, 0)
})

t.test('a marker is acknowledged, and triggers the members that have not begun', async (t) => {
  const rig = new Rig(['member', 'trunk'], {}, 3)
  peerOn(rig, 1).meet(3)
  rig.clear()
  peerOn(rig, 1).say(ControlType.MARKER, 4, 0)
  t.same(controlsSent(rig, 1, ControlType.MARKER_ACK), [{ epoch: 4, count: 0 }])
  peerOn(rig, 1).say(ControlType.MARKER, 4, 0)
  t.same(rig.events, [{ kind: 'early', port: 0, epoch: 4 }], 'once')
  t.equal(controlsSent(rig, 1, ControlType.MARKER_ACK).length, 1, 'each repeat is answered')
})

t.test('closure: all peers’ frames in, own gates open; told once', async (t) => {
  const rig = new Rig(['member', 'trunk', 'trunk'], {}, 3)
  const { snapshots } = rig.forwarder
  peerOn(rig, 1).meet(3)
  peerOn(rig, 2).meet(3)
  fromPeer(rig, 1, 3, 1)
  rig.clear()
  snapshots.begin(4, 'buffer', LATER, rig.now)
  snapshots.gate([0], rig.now)
  snapshots.flip([0], 4, [0], rig.now)
  peerOn(rig, 1).say(ControlType.MARKER, 4, 2)
  peerOn(rig, 2).say(ControlType.MARKER, 4, 0)
  fromPeer(rig, 1, 3, 2)
  rig.tick(1)
  t.same(rig.events, [], 'a gate is closed: what it holds may still be recorded')
  snapshots.release([0], rig.now)
  rig.tick(1)
  t.same(rig.events, [
    {
      kind: 'closed',
      epoch: 4,
      closures: [
        { expected: 2, received: 2, lost: 0, late: 0, byCount: true, port: 1, host: 'b' },
        { expected: 0, received: 0, lost: 0, late: 0, byCount: true, port: 2, host: 'b' },
      ],
    },
  ])
  rig.tick(1)
  t.equal(rig.events.length, 1)
  // A copy had been counted in its place.
  fromPeer(rig, 1, 3, 3)
  const { frames, closures } = snapshots.end()
  t.equal(frames.length, 2, 'what comes after the closure is in transit all the same')
  t.match(closures, [
    { port: 1, lost: 0, late: 1 },
    { port: 2, lost: 0, late: 0 },
  ])
  fromPeer(rig, 1, 3, 4)
  t.equal(rig.count(0, 'stragglers'), 1, 'after the end: delivered, counted')
})

t.test('closure by deadline, and not at all while a peer sends no marker', async (t) => {
  const rig = new Rig(['member', 'trunk', 'trunk'], {}, 3)
  const { snapshots } = rig.forwarder
  peerOn(rig, 1).meet(3)
  peerOn(rig, 2).meet(3)
  rig.clear()
  snapshots.begin(4, 'buffer', LATER, rig.now)
  snapshots.flip([0], 4, [0], rig.now)
  peerOn(rig, 1).say(ControlType.MARKER, 4, 3)
  rig.tick(199)
  rig.tick(4000)
  t.same(rig.events, [], 'the second trunk is open')
  rig.tick(1000)
  t.same(rig.events, [{ kind: 'broken', epoch: 4, port: 2, host: 'b' }], 'and broken when its peer stays silent')
  rig.clear()
  peerOn(rig, 2).say(ControlType.MARKER, 4, 0)
  t.match(rig.events, [
    {
      kind: 'closed',
      closures: [
        { port: 1, lost: 3, byCount: false },
        { port: 2, lost: 0 },
      ],
    },
  ])
  fromPeer(rig, 1, 3, 1)
  fromPeer(rig, 1, 3, 2)
  const { frames, closures } = snapshots.end()
  t.equal(frames.length, 2)
  t.match(closures, [{ port: 1, lost: 1, late: 2, byCount: false }, { port: 2 }], 'those are not lost after all')
})

t.test('a recording ends, and the channel state with it', async (t) => {
  const rig = new Rig(['member', 'trunk'], {}, 3)
  const { snapshots } = rig.forwarder
  peerOn(rig, 1).meet(3)
  snapshots.record(eventLogMemory(100), rig.now)
  snapshots.begin(4, 'buffer', LATER, rig.now)
  snapshots.flip([0], 4, [0], rig.now)
  peerOn(rig, 1).say(ControlType.MARKER, 4, 2)
  rig.tick(200)
  fromPeer(rig, 1, 3, 1)
  snapshots.record(null, rig.now)
  fromPeer(rig, 1, 3, 2)
  const { frames, closures } = snapshots.end()
  t.equal(frames.length, 1, 'what no audit could see is not in it')
  t.match(closures, [{ lost: 1, late: 1 }])
  t.equal(rig.count(0, 'stragglers'), 1)
})

t.test('a host without trunks closes when its members run again', async (t) => {
  const rig = new Rig(['member', 'member'], {}, 3)
  const { snapshots } = rig.forwarder
  snapshots.begin(4, 'buffer', LATER, rig.now)
  snapshots.gate([0, 1], rig.now)
  snapshots.flip([0], 4, [0], rig.now)
  rig.tick(1)
  snapshots.flip([1], 4, [0], rig.now)
  snapshots.release([0], rig.now)
  rig.tick(1)
  t.same(rig.events, [])
  snapshots.release([1], rig.now)
  rig.tick(1)
  t.match(rig.events, [{ kind: 'closed', epoch: 4, closures: [] }])
})

t.test('advance: a gate that is closed for another network stays closed until it is released', async (t) => {
  const rig = new Rig(['member', 'trunk', 'member'], {}, 3)
  const { snapshots } = rig.forwarder
  snapshots.gate([0], rig.now, true)
  fromPeer(rig, 1, 3, 1)
  snapshots.advance(4, rig.now)
  fromPeer(rig, 1, 4, 2)
  t.same(rig.outputs[0].ids(), [])
  t.equal(rig.forwarder.byIndex[0]?.epoch, 4, 'all the same it moves on')
  snapshots.release([0], rig.now)
  t.same(rig.outputs[0].ids(), [1, 2])
  snapshots.gate([0], rig.now)
  snapshots.advance(5, rig.now)
  fromPeer(rig, 1, 5, 3)
  t.same(rig.outputs[0].ids(), [3], 'one of its own opens')
})

t.test('advance: a snapshot called off leaves every member past it, gates open, nothing lost', async (t) => {
  const rig = new Rig(['member', 'trunk', 'member'], {}, 3)
  const { snapshots } = rig.forwarder
  snapshots.begin(4, 'buffer', LATER, rig.now)
  snapshots.gate([0], rig.now)
  fromPeer(rig, 1, 4, 1)
  fromPeer(rig, 1, 3, 2, mac(77))
  snapshots.advance(4, rig.now)
  t.equal(snapshots.openEpoch, null)
  t.same(rig.outputs[0].ids(), [1, 2])
  // The other one got the old frame at once and the early one with the advance.
  t.same(rig.outputs[2].ids(), [2, 1])
  t.equal(rig.forwarder.byIndex[0]!.epoch, 4)
  t.equal(rig.forwarder.byIndex[2]!.epoch, 4)
  t.equal(rig.forwarder.network.epoch, 4)
  snapshots.advance(2, rig.now)
  t.equal(rig.forwarder.byIndex[0]!.epoch, 4)
  t.same(snapshots.end(), { frames: [], overflow: new Map(), closures: [] })
})

t.test('fence: restored ports take nothing of the incarnation before, all members move on', async (t) => {
  const rig = new Rig(['member', 'trunk', 'member'], {}, 3)
  const { snapshots } = rig.forwarder
  rig.receive(2, { from: mac(2), id: 0 })
  fromPeer(rig, 1, 4, 1)
  rig.clear()
  snapshots.fence([0], 9, rig.now)
  t.equal(rig.drops(0, 'fenced'), 1, 'what was held is of the old incarnation')
  t.same(rig.outputs[2].ids(), [1], 'a member that is not restored gets what it waited for, before anything later')
  t.equal(rig.forwarder.fdb.size, 0, 'machines may have moved')
  fromPeer(rig, 1, 8, 2)
  t.equal(rig.drops(0, 'fenced'), 2)
  fromPeer(rig, 1, 9, 3)
  snapshots.preload(0, [
    { bytes: new Uint8Array(10 + 60).fill(1), tagTpid: 0, tagTci: 0 },
    { bytes: new Uint8Array(10 + 60).fill(2), tagTpid: 0x8100, tagTci: 5 },
  ])
  t.same(rig.outputs[0].ids(), [])
  t.equal(snapshots.release([0], rig.now), 3)
  t.same(rig.outputs[0].ids(), [0x01010101, 0x02020202, 3], 'the channel state goes first')
  rig.receive(2, { from: mac(2), id: 4 })
  t.same(rig.outputs[0].ids(), [4], 'the other member was moved on, so the fence lets it pass')
})

t.test('announce: every switch on the way learns where an address is', async (t) => {
  const rig = new Rig(['member', 'trunk', 'member'], {}, 3)
  rig.forwarder.announce(0, mac(42), rig.now)
  const [sent] = rig.outputs[1].take()
  t.equal(sent.serviceTci, colorVid(3))
  t.same(sent.bytes.slice(0, 6), GROUP)
  t.same(sent.bytes.slice(6, 12), mac(42))
  t.equal(rig.outputs[2].take().length, 1)
  rig.receive(2, { from: mac(2), to: mac(42), id: 7 })
  t.same(rig.ids(), [[7], [], []])
})
