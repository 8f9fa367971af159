// Faults that only machines in several networks can show, planted one at a time, as in faults.ts.

import type { Agent } from '../../switch/agent/agent.js'
import type { DatapathEvent } from '../../switch/datapath/protocol.js'
import type { Snapshots } from '../../switch/forwarding/snapshot/snapshots.js'
import { Random } from './chance.js'
import type { PlantedFault } from './faults.js'
import { networkName, withNetworks } from './networks.js'
import type { Plant } from './run.js'
import type { Order, Scenario } from './scenario.js'

const inSnapshots = (change: (snapshots: Snapshots) => void): Plant => {
  return () => ({ forwarder: (forwarder) => change(forwarder.snapshots) })
}

const inAgents = (change: (agent: Agent) => void): Plant => {
  return () => ({ agent: change })
}

/** More networks, whatever was drawn. */
const several = (scenario: Scenario): Scenario => withNetworks(scenario, new Random(scenario.seed))

/** All machines are in the first two. */
const joined = (scenario: Scenario): Scenario => {
  const networks = several(scenario)
  const machines = networks.machines.map((machine) => ({ ...machine, nics: 2, networks: [0, 1] }))
  const sends = networks.sends
    .filter(({ vm, toVm }) => vm >= 0 && vm !== toVm && toVm >= -1)
    .map((send) => ({ ...send, nic: send.nic % 2, toNic: send.nic % 2 }))
  return { ...networks, outside: [], machines, sends }
}

/** … and these are cut at about the same time. */
const atOnce = (scenario: Scenario): Scenario => {
  const order = (at: number, network: number): Order => ({ kind: 'snapshot', at, deadline: 20_000, network })
  return { ...joined(scenario), orders: [order(40, 0), order(43, 1)] }
}

export const networkFaults: readonly PlantedFault[] = [
  {
    name: 'gates close in the network that is cut only',
    breaks: [3],
    plant: inSnapshots((snapshots) => {
      const gate = snapshots.gate.bind(snapshots)
      snapshots.gate = (ports, now, forOther) => (forOther ? undefined : gate(ports, now))
    }),
    adapt: several,
  },
  {
    name: 'gates of other networks stay closed',
    breaks: [3, 4],
    plant: inSnapshots((snapshots) => {
      const gate = snapshots.gate.bind(snapshots)
      const release = snapshots.release.bind(snapshots)
      const shut = new Set<number>()
      snapshots.gate = (ports, now, forOther) => {
        for (const port of ports) if (forOther) shut.add(port)
        gate(ports, now, forOther)
      }
      snapshots.release = (ports, now, most) => (ports.some((port) => shut.has(port)) ? 0 : release(ports, now, most))
    }),
    adapt: several,
  },
  {
    name: 'a snapshot that is called off opens the gates that another network has closed',
    after: 155,
    breaks: [3],
    plant: inSnapshots((snapshots) => {
      const gate = snapshots.gate.bind(snapshots)
      snapshots.gate = (ports, now) => gate(ports, now)
    }),
    adapt: atOnce,
  },
  {
    name: 'a machine’s ports in other networks are flipped with it',
    breaks: [1, 2, 4],
    plant: () => ({
      worker: (worker) => {
        const { flip } = worker.handlers
        worker.handlers.flip = (args) => {
          for (const port of args.ports) {
            for (const { index, network } of worker.daemon.world.nics[port].guest.nics) {
              if (networkName(network) !== args.network)
                worker.forwarders[network].snapshots.flip([index], args.epoch, [0], worker.now)
            }
          }
          return flip(args)
        }
      },
    }),
    adapt: several,
  },
  {
    name: 'two networks that share a machine are cut at once',
    breaks: [1, 2, 3, 4],
    plant: inAgents((agent) => {
      agent.sessions.busy = (network) => agent.sessions.of(network)?.name ?? null
    }),
    adapt: atOnce,
  },
  {
    name: 'the trigger is heard in the first network only',
    breaks: [4],
    plant: () => ({
      daemon: ({ datapath }) => {
        const emit = datapath.emit.bind(datapath)
        datapath.emit = (name, ...args) => {
          const [event] = args as [DatapathEvent]
          return name === 'event' && event.kind === 'early' && event.network !== 'lab' ? true : emit(name, ...args)
        }
      },
    }),
    adapt: several,
  },
  {
    name: 'markers are sent in the first network only',
    breaks: [2, 4],
    plant: () => ({
      forwarder: (forwarder) => {
        if (forwarder.network.options.network === 'lab') return
        const addPort = forwarder.addPort.bind(forwarder)
        forwarder.addPort = (spec, output) => {
          const port = addPort(spec, output)
          if (port.channel !== null) port.channel.dueMarker = () => null
          return port
        }
      },
    }),
    adapt: several,
  },
  {
    name: 'a datapath that starts anew knows the epoch of the first network only',
    after: 440,
    breaks: [1, 4],
    plant: () => ({
      worker: (worker) => {
        const addMember = worker.addMember.bind(worker)
        worker.addMember = (nic, epoch) => addMember(nic, nic.network > 0 ? 0 : epoch)
      },
    }),
    adapt: (scenario) => {
      const fault = { kind: 'fail datapath' as const, host: 0, step: 60 + (Math.abs(scenario.seed) % 80) }
      return { ...atOnce(scenario), faults: [fault] }
    },
  },
  {
    name: 'the fence of a restore is put up in the first network only',
    breaks: [5],
    plant: () => ({
      forwarder: (forwarder) => {
        if (forwarder.network.options.network === 'lab') return
        const { network, snapshots } = forwarder
        const fence = snapshots.fence.bind(snapshots)
        network.raiseFence = () => undefined
        snapshots.fence = (ports, epoch, now) => {
          fence(ports, epoch, now)
          for (const port of forwarder.ports) port.fence = 0
        }
      },
    }),
    adapt: (scenario) => {
      const networks = joined(scenario)
      const orders: Order[] = [
        { kind: 'snapshot', at: 250, deadline: 20_000, network: 1 },
        { kind: 'restore', at: 500, deadline: 20_000, shift: 0, network: 1 },
      ]
      const trunk = { delay: 30, jitter: 0, reorder: false, loss: 0, duplicate: 0 }
      const others = networks.others.map((other) => ({ ...other, chain: false, trunk }))
      const pace = { poll: 0.05, read: 0.5, call: 0.3, hypervisor: 0.5, seal: 2, store: 0.1 }
      const sends = networks.sends.map((send, nth) => ({ ...send, nic: 1, toNic: 1, at: 480 + (nth % 40) / 2 }))
      return { ...networks, orders, others, sends, pace, faults: [] }
    },
  },
]
