// Faults planted in the rules, one at a time, by wrapping the objects of a running world: what the simulation must
// notice, or it proves nothing. The product has no switch for any of them.

import { isUnfinished } from '../../coordinator/recovery.js'
import { Frame, type FrameCopy } from '../../src/frame/frame.js'
import type { Forwarder } from '../../switch/forwarding/forwarder.js'
import type { PortState } from '../../switch/forwarding/port-state.js'
import type { Snapshots } from '../../switch/forwarding/snapshot/snapshots.js'
import type { Guest } from './guest.js'
import type { Plant } from './run.js'
import type { Order, Scenario } from './scenario.js'

export interface PlantedFault {
  readonly name: string
  /** Which invariants may show it. */
  readonly breaks: readonly number[]
  readonly plant: Plant
  /** Schedules that hold although it is planted: the search begins behind them. */
  readonly after?: number
  /** Makes what it takes to show more likely. */
  readonly adapt?: (scenario: Scenario) => Scenario
}

const inForwarder = (change: (forwarder: Forwarder) => void): Plant => {
  return () => ({ forwarder: change })
}

const inSnapshots = (change: (snapshots: Snapshots, forwarder: Forwarder) => void): Plant =>
  inForwarder((forwarder) => change(forwarder.snapshots, forwarder))

/** Changes the channel of every trunk. */
const inChannels = (change: (channel: NonNullable<PortState['channel']>) => void): Plant =>
  inForwarder((forwarder) => {
    const addPort = forwarder.addPort.bind(forwarder)
    forwarder.addPort = (spec, output) => {
      const port = addPort(spec, output)
      if (port.channel !== null) change(port.channel)
      return port
    }
  })

const inGuests = (change: (guest: Guest) => void): Plant => {
  return () => ({ guest: change })
}

const membersOf = (forwarder: Forwarder, ports: readonly number[]) =>
  ports.flatMap((index) => forwarder.byIndex[index] ?? []).filter((port) => port.isMember)

/** The gates of a machine's ports open, in the first network. */
const openGates = ({ world, host, nics }: Guest) => {
  const worker = world.hosts[host].daemon?.worker
  const ports = nics.filter(({ network }) => network === 0).map(({ index }) => index)
  worker?.forwarder.snapshots.release(ports, worker.now)
}

const reordering = (scenario: Scenario): Scenario => ({
  ...scenario,
  trunk: { ...scenario.trunk, reorder: true, jitter: 8, loss: 0, duplicate: 0 },
})

/** Peers begin anew before and around the cut, in a network that lets frames overtake HELLOs. */
const restarting = (scenario: Scenario): Scenario => ({
  ...scenario,
  hosts: Math.max(2, scenario.hosts),
  chain: false,
  trunk: { delay: 1, jitter: 20, reorder: true, loss: 0, duplicate: 0 },
  faults: [
    { kind: 'unplug trunk', a: 0, b: 1, at: 10, for: 1 },
    { kind: 'unplug trunk', a: 1, b: 0, at: 30, for: 1 },
  ],
})

export const plantedFaults: readonly PlantedFault[] = [
  {
    name: 'the drain is dropped',
    breaks: [2],
    plant: () => ({
      worker: (worker) => {
        worker.drain = () => undefined
      },
    }),
  },
  {
    name: 'the flip comes before the drain',
    breaks: [2],
    plant: () => ({
      worker: (worker) => {
        const { flip } = worker.handlers
        const drain = worker.drain.bind(worker)
        worker.handlers.flip = (args) => {
          worker.drain = () => undefined
          const results = flip(args)
          worker.drain = drain
          for (const port of args.ports) worker.drain(port)
          return results
        }
      },
    }),
  },
  {
    name: 'residue is forgotten',
    breaks: [2],
    plant: inSnapshots((snapshots) => {
      const flip = snapshots.flip.bind(snapshots)
      snapshots.flip = (ports, epoch, residue, now) =>
        flip(
          ports,
          epoch,
          residue.map(() => 0),
          now,
        )
    }),
  },
  {
    name: 'ports are never armed',
    breaks: [2],
    plant: inSnapshots((snapshots) => {
      snapshots.arm = () => undefined
    }),
  },
  {
    name: 'the Lai-Yang trigger is skipped',
    breaks: [4],
    plant: inSnapshots((snapshots) => {
      snapshots.early = () => undefined
    }),
  },
  {
    name: 'a channel closes with its marker, counts ignored',
    breaks: [2],
    plant: inChannels((channel) => {
      const closure = channel.closure.bind(channel)
      channel.closure = (epoch, _deadline, now) => {
        const closed = closure(epoch, 0, now)
        return closed === null ? null : { ...closed, lost: 0, byCount: true }
      }
    }),
    adapt: reordering,
  },
  {
    name: 'a channel closes without a marker',
    breaks: [2],
    plant: inChannels((channel) => {
      channel.closure = () => ({ expected: 0, received: 0, lost: 0, byCount: true })
    }),
  },
  {
    name: 'frames of any generation are counted',
    after: 500,
    breaks: [2],
    plant: inChannels((channel) => {
      channel.take = (_generation, color, frames) => {
        channel.received.add(color, frames)
        return true
      }
    }),
    adapt: restarting,
  },
  {
    name: 'frames of another generation are let in, uncounted',
    after: 460,
    breaks: [2],
    plant: inChannels((channel) => {
      const take = channel.take.bind(channel)
      channel.take = (generation, color, frames) => take(generation, color, frames) || true
    }),
    adapt: (scenario) => ({ ...restarting(scenario), trunk: { ...restarting(scenario).trunk, jitter: 120 } }),
  },
  {
    name: 'what is sent to a new end is counted on from the former one',
    breaks: [2],
    plant: inChannels((channel) => {
      channel.sent.reset = () => undefined
    }),
    adapt: restarting,
  },
  {
    name: 'the marker says that nothing was sent',
    breaks: [2],
    plant: inChannels((channel) => {
      const due = channel.dueMarker.bind(channel)
      channel.dueMarker = (now, repeat) => {
        const marker = due(now, repeat)
        return marker === null ? null : { ...marker, sentBelow: 0 }
      }
    }),
    adapt: reordering,
  },
  {
    name: 'the marker is sent once and never again',
    breaks: [4],
    plant: inChannels((channel) => {
      const due = channel.dueMarker.bind(channel)
      let last = -1
      channel.dueMarker = (now, repeat) => {
        const marker = due(now, repeat)
        if (marker === null || marker.epoch === last) return null
        last = marker.epoch
        return marker
      }
    }),
  },
  {
    name: 'held frames are released without being judged',
    breaks: [1, 2],
    plant: inSnapshots((snapshots, forwarder) => {
      snapshots.release = (ports) => {
        for (const port of membersOf(forwarder, ports)) {
          port.closed = false
          port.hold.sift((copy) => {
            port.output.send(frameOf(copy), -1)
            return false
          })
        }
        return 0
      }
    }),
  },
  {
    name: 'the hold queue is flushed after later frames',
    breaks: [2, 3, 5],
    plant: () => ({
      worker: (worker) => {
        const { snapshots } = worker.forwarder
        const release = snapshots.release.bind(snapshots)
        snapshots.release = (ports, now) => {
          for (const port of membersOf(worker.forwarder, ports)) port.closed = false
          worker.daemon.after(2, () => worker.alive && release(ports, worker.now))
          return ports.length > 0 ? now : 0
        }
      },
    }),
  },
  {
    name: 'what comes while held frames go out in portions passes them',
    breaks: [2, 3, 5],
    plant: inSnapshots((snapshots, forwarder) => {
      const release = snapshots.release.bind(snapshots)
      snapshots.release = (ports, now, most) => {
        const released = release(ports, now, most)
        for (const port of membersOf(forwarder, ports)) port.closed = false
        return released
      }
    }),
  },
  {
    name: 'only the first portion of what was held goes out',
    breaks: [3, 4],
    plant: inSnapshots((snapshots) => {
      snapshots.drain = () => 0
    }),
  },
  {
    name: 'the gate is never closed',
    breaks: [2, 3],
    plant: inSnapshots((snapshots) => {
      snapshots.gate = () => undefined
    }),
  },
  {
    name: 'the gate opens before the flip',
    breaks: [2, 3],
    plant: () => ({
      worker: (worker) => {
        const { flip } = worker.handlers
        worker.handlers.flip = (args) => {
          openGates(worker.daemon.world.nics[args.ports[0]].guest)
          return flip(args)
        }
      },
    }),
  },
  {
    name: 'the gate opens before the guest runs',
    breaks: [2, 3],
    plant: inGuests((guest) => {
      const capture = guest.capture.bind(guest)
      guest.capture = (network, driverAlive, events) => {
        openGates(guest)
        capture(network, driverAlive, events)
      }
    }),
  },
  {
    name: 'the gate never opens again',
    breaks: [3, 4],
    plant: inSnapshots((snapshots) => {
      snapshots.release = () => 0
    }),
  },
  {
    name: 'the guest is not paused',
    breaks: [1, 2],
    plant: inGuests((guest) => {
      guest.pause = (done) => done()
    }),
  },
  {
    name: 'only the first NIC of a machine is flipped in time',
    breaks: [1, 2, 4],
    plant: () => ({
      worker: (worker) => {
        const { snapshots } = worker.forwarder
        const flip = snapshots.flip.bind(snapshots)
        snapshots.flip = (ports, epoch, residue, now) => {
          const others = ports.slice(1)
          worker.daemon.after(15, () => {
            if (worker.alive && others.length > 0) flip(others, epoch, residue.slice(1), worker.now)
          })
          const results = flip(ports.slice(0, 1), epoch, residue.slice(0, 1), now)
          return [...results, ...others.map(() => ({ recorded: 0, lost: 0 }))]
        }
      },
    }),
    adapt: (scenario) => ({
      ...scenario,
      machines: scenario.machines.map((machine) => ({ ...machine, nics: Math.max(2, machine.nics) })),
    }),
  },
  {
    name: 'early frames are delivered',
    breaks: [1],
    plant: inForwarder(({ egress }) => {
      const deliver = egress.deliver.bind(egress)
      egress.deliver = (port, frame, now) => {
        if (port.isMember && !port.closed && frame.color > port.epoch) frame.color = port.epoch
        deliver(port, frame, now)
      }
    }),
  },
  {
    name: 'early frames are dropped under `buffer`',
    breaks: [3, 5],
    plant: inForwarder(({ egress }) => {
      const deliver = egress.deliver.bind(egress)
      egress.deliver = (port, frame, now) => {
        if (!(port.isMember && !port.closed && frame.color > port.epoch)) deliver(port, frame, now)
      }
    }),
  },
  {
    name: 'in-transit frames are not recorded',
    breaks: [2],
    plant: inSnapshots((snapshots) => {
      snapshots.inTransit = () => undefined
    }),
  },
  {
    name: 'in-transit frames are recorded and not delivered',
    breaks: [2, 3],
    plant: inForwarder(({ egress, snapshots }) => {
      const deliver = egress.deliver.bind(egress)
      egress.deliver = (port, frame, now) => {
        const inTransit = port.isMember && !port.closed && frame.color >= 0 && frame.color < port.epoch
        if (inTransit) snapshots.inTransit(port, frame, now)
        else deliver(port, frame, now)
      }
    }),
  },
  {
    name: 'epochs go back when a snapshot is called off',
    after: 155,
    breaks: [1, 4],
    plant: inSnapshots((snapshots, forwarder) => {
      const advance = snapshots.advance.bind(snapshots)
      snapshots.advance = (epoch, now) => {
        advance(epoch, now)
        for (const port of forwarder.ports) if (port.isMember) port.epoch = epoch - 1
      }
    }),
  },
  {
    name: 'the epoch is not written to disk',
    breaks: [1, 4],
    plant: () => ({
      daemon: ({ drive }) => {
        drive.records.writeEpochs = async () => undefined
      },
    }),
  },
  {
    name: 'a machine that was paused is not resumed when its snapshot is called off',
    breaks: [4],
    plant: inGuests((guest) => {
      const resume = guest.resume.bind(guest)
      guest.resume = (done, refused) => (guest.fresh ? resume(done, refused) : done())
    }),
  },
  {
    name: 'a restarted coordinator forgets what a former one has left',
    breaks: [4],
    plant: () => ({
      coordinator: (coordinator) => {
        const list = coordinator.catalogue.list
        coordinator.catalogue.list = async () =>
          (await list()).filter(({ manifest }) => manifest !== null && !isUnfinished(manifest))
      },
    }),
    adapt: (scenario) => {
      const kill = { kind: 'kill coordinator' as const, step: 1 + (Math.abs(scenario.seed) % 20), down: 5 }
      return { ...scenario, faults: [kill], orders: snapshotAndRestore(0).slice(0, 1) }
    },
  },
  {
    name: 'a restarted daemon forgets the machines that it had paused',
    breaks: [4],
    plant: () => ({
      daemon: ({ drive }) => {
        drive.journal.unfinished = async () => []
      },
    }),
    adapt: withKills,
  },
  {
    name: 'the fence is missing on restore',
    breaks: [5],
    plant: inSnapshots((snapshots, forwarder) => {
      const fence = snapshots.fence.bind(snapshots)
      forwarder.network.raiseFence = () => undefined
      snapshots.fence = (ports, epoch, now) => {
        fence(ports, epoch, now)
        for (const port of forwarder.ports) port.fence = 0
      }
    }),
    adapt: withSlowTrunks,
  },
  {
    name: 'the fence of a restore does not outlive its daemon',
    breaks: [5],
    plant: () => ({
      daemon: ({ drive }) => {
        drive.records.readFences = async () => new Map()
      },
    }),
    adapt: (scenario) => {
      const orders: Order[] = [
        { kind: 'snapshot', at: 300, deadline: 20_000 },
        { kind: 'restore', at: 600, deadline: 20_000, shift: 0 },
      ]
      const step = 30 + (Math.abs(scenario.seed) % 60)
      const kill = { kind: 'kill daemon' as const, host: scenario.machines[0]?.host ?? 0, step, down: 1 }
      const sends = scenario.sends.map((send, nth) => ({ ...send, at: 580 + (nth % 40) / 2 }))
      const trunk = { ...scenario.trunk, delay: 60, jitter: 0 }
      const pace = { poll: 0.05, read: 0.5, call: 0.3, hypervisor: 0.5, seal: 2, store: 0.1 }
      return { ...scenario, chain: false, trunk, pace, orders, sends, faults: [kill] }
    },
  },
  {
    name: 'only the hosts that get machines are fenced',
    after: 360,
    breaks: [5],
    plant: inSnapshots((snapshots) => {
      const fence = snapshots.fence.bind(snapshots)
      snapshots.fence = (ports, epoch, now) => (ports.length > 0 ? fence(ports, epoch, now) : undefined)
    }),
    adapt: (scenario) => ({ ...scenario, hosts: 4, chain: true, faults: [], orders: snapshotAndRestore(1) }),
  },
  {
    name: 'an undoing ends machines that run already',
    breaks: [4],
    plant: () => ({
      agent: ({ restores, sessions }, { world, host }) => {
        const abort = restores.abort.bind(restores)
        restores.abort = (network, snapshot, epoch) => {
          for (const vm of sessions.restoreOf(network)?.machines ?? []) {
            const guest = world.guestOf(vm)
            if (guest.host === host.index && guest.origin !== null) guest.undo()
          }
          return abort(network, snapshot, epoch)
        }
      },
    }),
    adapt: (scenario) => {
      // One of two machines of a host runs, the other takes its time; meanwhile the other host fails.
      const machines = scenario.machines.map((machine, vm) => ({ ...machine, host: vm === 0 ? 1 : 0 }))
      const kill = { kind: 'kill daemon' as const, host: 1, step: 30 + (Math.abs(scenario.seed) % 60), down: 5 }
      const slow = { kind: 'slow resume' as const, vm: 1, by: 4000 }
      return {
        ...scenario,
        hosts: 2,
        outside: [],
        sends: [],
        machines,
        faults: [kill, slow],
        orders: snapshotAndRestore(0),
      }
    },
  },
  {
    name: 'a restarted daemon forgets the machines that it was loading',
    breaks: [4],
    plant: () => ({
      daemon: ({ drive }) => {
        const restores = drive.journal.restores
        drive.journal.restores = async () => (await restores()).map((record) => ({ ...record, machines: [] }))
      },
    }),
    adapt: (scenario) => ({ ...withKills(scenario), orders: snapshotAndRestore(0) }),
  },
  {
    name: 'what runs is ended before all hosts have loaded',
    breaks: [4],
    plant: () => ({
      agent: ({ restores }, { world, host }) => {
        const load = restores.load.bind(restores)
        restores.load = (network, snapshot, request) => {
          for (const { vm } of request.members) {
            const guest = world.guestOf(vm)
            if (guest.alive && guest.host === host.index) guest.end()
          }
          return load(network, snapshot, request)
        }
      },
    }),
    adapt: (scenario) => ({
      ...scenario,
      faults: [{ kind: 'fail load', vm: scenario.machines.length - 1 }],
      orders: snapshotAndRestore(0),
    }),
  },
  {
    name: 'a restarted daemon forgets the machines that a restore had paused',
    breaks: [4],
    plant: () => ({
      daemon: ({ drive }) => {
        const restores = drive.journal.restores
        drive.journal.restores = async () => (await restores()).map((record) => ({ ...record, formers: [] }))
      },
    }),
    adapt: (scenario) => {
      const step = 30 + (Math.abs(scenario.seed) % 60)
      const kill = { kind: 'kill daemon' as const, host: scenario.machines[0]?.host ?? 0, step, down: 5 }
      return { ...scenario, sends: [], outside: [], faults: [kill], orders: snapshotAndRestore(0) }
    },
  },
  {
    name: 'an agent that nobody goes on with waits for ever',
    breaks: [4],
    plant: () => ({
      daemon: ({ clock }) => {
        const { after } = clock
        clock.after = (ms, act) => (ms < LONG_MS ? after(ms, act) : () => undefined)
      },
    }),
    adapt: (scenario) => {
      const kill = { kind: 'kill coordinator' as const, step: 15 + (Math.abs(scenario.seed) % 40), down: 5 }
      return { ...scenario, sends: [], outside: [], faults: [kill], orders: snapshotAndRestore(0) }
    },
  },
  {
    name: 'a former incarnation teaches where machines are',
    after: 240,
    breaks: [5],
    plant: inForwarder(({ network }) => {
      network.raiseFence = () => undefined
    }),
    adapt: (scenario) => {
      const at = scenario.sends[scenario.sends.length >> 1]?.at ?? 50
      const orders: Order[] = [
        { kind: 'snapshot', at: at - 60, deadline: 20_000 },
        { kind: 'restore', at: at - 10, deadline: 20_000, shift: 1 },
      ]
      const hosts = Math.max(2, scenario.hosts)
      return withSlowTrunks({ ...scenario, hosts, orders, chain: false, faults: [] })
    },
  },
  {
    name: 'the gates of a restore are open while its machines load',
    breaks: [3, 5],
    plant: inSnapshots((snapshots, forwarder) => {
      const fence = snapshots.fence.bind(snapshots)
      snapshots.fence = (ports, epoch, now) => {
        fence(ports, epoch, now)
        for (const port of membersOf(forwarder, ports)) port.closed = false
      }
    }),
  },
  {
    name: 'the channel state is not put back on restore',
    breaks: [5],
    plant: inSnapshots((snapshots) => {
      snapshots.preload = () => undefined
    }),
  },
  {
    name: 'the channel state is put back in reverse',
    after: 140,
    breaks: [3, 5],
    plant: inSnapshots((snapshots) => {
      const preload = snapshots.preload.bind(snapshots)
      snapshots.preload = (index, copies) => preload(index, [...copies].reverse())
    }),
  },
]

/** Deadlines of orders are longer, all other waits of an agent shorter. */
const LONG_MS = 10_000

function snapshotAndRestore(shift: number): Order[] {
  return [
    { kind: 'snapshot', at: 20, deadline: 20_000 },
    { kind: 'restore', at: 90, deadline: 20_000, shift },
  ]
}

function withKills(scenario: Scenario): Scenario {
  const kill = { kind: 'kill daemon' as const, host: 0, step: 5 + (Math.abs(scenario.seed) % 60), down: 5 }
  return { ...scenario, faults: [kill] }
}

function withSlowTrunks(scenario: Scenario): Scenario {
  return { ...scenario, trunk: { ...scenario.trunk, delay: 12 } }
}

function frameOf(copy: FrameCopy): Frame {
  return new Frame().pointAt(copy)
}
