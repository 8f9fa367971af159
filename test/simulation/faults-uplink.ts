// Faults planted in the rules of uplinks, one at a time, as in faults.ts.

import { NONE } from '../../src/frame/agreement.js'
import { CarrierField, u32 } from '../../src/frame/carrier.js'
import { colorBit, flipColorBit } from '../../src/frame/color-dscp.js'
import type { Uplink } from '../../switch/forwarding/peers/uplink.js'
import type { UplinkPeer } from '../../switch/forwarding/peers/uplink-peer.js'
import { Random } from './chance.js'
import type { PlantedFault } from './faults.js'
import type { Plant } from './run.js'
import { LAN_STATION, type Order, putOnLan, type Scenario } from './scenario.js'

const inUplinks = (change: (uplink: Uplink) => void): Plant => {
  return () => ({
    forwarder: (forwarder) => {
      const addPort = forwarder.addPort.bind(forwarder)
      forwarder.addPort = (spec, output) => {
        const port = addPort(spec, output)
        if (forwarder.uplink !== null && spec.kind === 'uplink') change(forwarder.uplink)
        return port
      }
    },
  })
}

const inPeers = (change: (peer: UplinkPeer) => void): Plant =>
  inUplinks(({ neighbors }) => {
    const meet = neighbors.meet.bind(neighbors)
    neighbors.meet = (mac, now) => {
      const neighbor = meet(mac, now)
      if (neighbor !== null) change(neighbor.peer)
      return neighbor
    }
  })

/** On a LAN, whatever was drawn. */
const onLan = (scenario: Scenario): Scenario => ({
  ...putOnLan(scenario, new Random(scenario.seed)),
  lan: 'dscp',
})

/** A datapath fails in a snapshot; its machines speak to others at once, and a snapshot is on its heels. */
const withRestart = (drawn: Scenario): Scenario => {
  const scenario = onLan({ ...drawn, trunk: { ...drawn.trunk, delay: 5, loss: 0, reorder: false } })
  const first = 1500
  const sends = scenario.sends.map((send, nth) => ({ ...send, at: first + nth / 2 }))
  const orders = [0, 20].map((after): Order => ({ kind: 'snapshot', at: first + after, deadline: 20_000 }))
  const faults = [{ kind: 'fail datapath' as const, host: 0, step: 1 + (Math.abs(drawn.seed) % 10) }]
  return { ...scenario, announced: true, sends, orders, faults }
}

/** An uplink is taken out for a moment; machines speak on, and a snapshot is taken when it is back. */
const withUnplug = (drawn: Scenario): Scenario => {
  const scenario = onLan({
    ...drawn,
    faults: [],
    trunk: { ...drawn.trunk, delay: 1, loss: 0, duplicate: 0, reorder: false },
  })
  const first = 4500
  const sends = scenario.sends.map((send, nth) => ({ ...send, form: 'ipv4' as const, at: first + nth * 3 }))
  const faults = [{ kind: 'unplug trunk' as const, a: 0, b: 1, at: first - 5 - (Math.abs(drawn.seed) % 600), for: 3 }]
  const orders: Order[] = [
    { kind: 'snapshot', at: 1500, deadline: 2000 },
    { kind: 'snapshot', at: first + 400, deadline: 20_000 },
  ]
  return { ...scenario, announced: true, hosts: Math.max(2, scenario.hosts), sends, orders, faults }
}

/**
 * One machine after the other speaks from an address that they share, then both do, while a snapshot is taken: for a
 * moment two hosts claim it. They speak to a third.
 */
const withFloating = (scenario: Scenario): Scenario => {
  const start = 1200
  const machines = [0, 1, 2].map((host) => ({ host, nics: 1, stopped: false }))
  const speak = (vm: number, at: number) => ({
    at,
    vm,
    nic: 0,
    toVm: 2,
    toNic: 0,
    form: 'ipv4' as const,
    floating: true,
  })
  const last = Array.from({ length: 60 }, (_, nth) => speak(nth % 2, start + 1400 + nth))
  const sends = [speak(0, start), speak(1, start + 900), ...last]
  const orders = [{ kind: 'snapshot' as const, at: start + 1410, deadline: 20_000 }]
  const trunk = { ...scenario.trunk, loss: 0, duplicate: 0, reorder: false }
  const lan = { lan: 'dscp' as const, announced: true, chain: false, outside: [LAN_STATION] }
  return { ...scenario, ...lan, hosts: 3, machines, sends, orders, trunk, faults: [] }
}

const unannounced = (scenario: Scenario): Scenario => ({
  ...onLan({ ...scenario, faults: [] }),
  trunk: { ...scenario.trunk, loss: 0, duplicate: 0, reorder: false },
  announced: false,
})

export const uplinkFaults: readonly PlantedFault[] = [
  {
    name: 'the bit is not set back on arrival',
    breaks: [3],
    plant: inUplinks((uplink) => {
      const enter = uplink.enter.bind(uplink)
      uplink.enter = (frame, now) => {
        const wasSet = colorBit(frame) === 1
        const from = enter(frame, now)
        if (wasSet && from !== null && colorBit(frame) === 0) flipColorBit(frame)
        return from
      }
    }),
    adapt: onLan,
  },
  {
    name: 'the bit is used for colors that were not agreed',
    breaks: [1, 2, 3, 4],
    plant: inPeers((peer) => {
      const mayUseBit = peer.mayUseBit.bind(peer)
      peer.mayUseBit = (frame) => {
        const agreed = peer.writesFrom
        if (agreed !== NONE) peer.writesFrom = frame.color
        const may = mayUseBit(frame)
        peer.writesFrom = agreed
        return may
      }
    }),
    adapt: onLan,
  },
  {
    name: 'a bit that the guest has set is taken for ours',
    breaks: [1, 2, 3, 4],
    plant: inPeers((peer) => {
      const mayUseBit = peer.mayUseBit.bind(peer)
      peer.mayUseBit = (frame) => {
        const isSet = colorBit(frame) === 1
        if (isSet) flipColorBit(frame)
        const may = mayUseBit(frame)
        if (isSet) flipColorBit(frame)
        return may
      }
    }),
    adapt: onLan,
  },
  {
    name: 'an address that two hosts claim is believed of both',
    breaks: [1, 2, 3, 4],
    plant: inUplinks(({ neighbors }) => {
      neighbors.grant = () => {
        neighbors.claimed.clear()
        for (const { peer, port } of neighbors.joined()) {
          peer.refused = peer.theirs.map(() => false)
          for (const mac of peer.theirs) neighbors.claimed.add(mac, port.index)
        }
      }
    }),
    adapt: withFloating,
  },
  {
    name: 'pieces are joined though one between them is missing',
    after: 680,
    breaks: [0, 2, 3],
    plant: inPeers((peer) => {
      const unpack = peer.unpack.bind(peer)
      peer.unpack = (frame) => {
        if (peer.filled > 0 && u32(frame, CarrierField.OFFSET) > 0) {
          peer.filled = u32(frame, CarrierField.OFFSET)
          peer.nextSequence = u32(frame, CarrierField.SEQUENCE)
        }
        return unpack(frame)
      }
    }),
    adapt: (scenario) => {
      const lossy = onLan({ ...scenario, trunk: { ...scenario.trunk, loss: 0.3 } })
      // Each frame's luck hangs on its number: many would not shrink well.
      return { ...lossy, sends: lossy.sends.slice(0, 28).map((send) => ({ ...send, form: 'gso' as const })) }
    },
  },
  {
    name: 'who was only heard in carriers is taken for an outsider',
    breaks: [1, 2, 3, 5],
    plant: inUplinks(({ neighbors }) => {
      neighbors.carriedFrom.learn = () => true
    }),
    adapt: unannounced,
  },
  {
    name: 'frames follow claims from before a restore',
    breaks: [5],
    plant: inUplinks((uplink) => {
      uplink.behind = (bytes, start) => {
        const view = new DataView(bytes.buffer, bytes.byteOffset + start)
        return uplink.neighbors.claimed.get(view.getUint16(0), view.getInt32(2))
      }
    }),
    adapt: (scenario) => {
      const { orders, ...rest } = unannounced({ ...scenario, hosts: Math.max(3, scenario.hosts) })
      const at = rest.sends[rest.sends.length >> 1]?.at ?? 1300
      const trunk = { ...rest.trunk, delay: 5 }
      return {
        ...rest,
        announced: true,
        trunk,
        orders: [
          { kind: 'snapshot', at: at - 60, deadline: 20_000 },
          { kind: 'restore', at: at - 10, deadline: 20_000, shift: 1 },
        ],
      }
    },
  },
  {
    name: 'a switch that starts is not quiet, nor doubted',
    breaks: [1, 2, 3, 4, 5],
    plant: () => {
      const loud = inUplinks(({ conversation }) =>
        Object.defineProperty(conversation, 'quiet', { get: () => false, set() {} }),
      )()
      const trusting = inPeers((peer) => {
        peer.doubts = ({ bootId }) => bootId !== peer.heard
      })()
      return {
        forwarder: (forwarder) => {
          loud.forwarder!(forwarder)
          trusting.forwarder!(forwarder)
        },
      }
    },
    adapt: withRestart,
  },
  {
    name: 'an uplink that is taken anew within a boot is not doubted',
    breaks: [1, 2, 3, 4],
    plant: inPeers((peer) => {
      const doubts = peer.doubts.bind(peer)
      peer.doubts = (hello, now) => hello.bootId !== peer.heard && doubts(hello, now)
    }),
    adapt: withUnplug,
  },
  {
    name: 'what was agreed with a former uplink of a boot is kept',
    breaks: [1, 2, 3, 4],
    plant: inPeers((peer) => {
      const meets = peer.meets.bind(peer)
      peer.meets = (bootId, end) => {
        const isKnown = bootId === peer.heard
        if (isKnown) peer.doubted = false
        return !isKnown && meets(bootId, end)
      }
    }),
    adapt: withUnplug,
  },
  {
    name: 'colors travel the LAN under service tags',
    breaks: [6],
    plant: inPeers((peer) => {
      const send = peer.send.bind(peer)
      peer.send = (frame, serviceTci) => {
        frame.tagTpid = frame.color < 0 ? frame.tagTpid : 0x88a8
        return send(frame, serviceTci)
      }
    }),
    adapt: unannounced,
  },
]
