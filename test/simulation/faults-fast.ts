// Faults of the fast path, planted one at a time, as in faults.ts: in the production rules, and in the programs.

import type { Attached } from '../../switch/datapath/kernel/attached.js'
import { PORT_WORDS, PortWord } from '../../switch/datapath/kernel/layout.js'
import { NetworkPath } from '../../switch/datapath/kernel/network-path.js'
import type { Fdb } from '../../switch/forwarding/fdb.js'
import type { Forwarder } from '../../switch/forwarding/forwarder.js'
import { Random } from './chance.js'
import type { FastPorts } from './fast-path.js'
import { onFastPath } from './fast-scenario.js'
import type { PlantedFault } from './faults.js'
import type { Plant } from './run.js'
import { BROADCAST, type Fault, type Order, type Scenario, type Send } from './scenario.js'
import type { Worker } from './worker.js'

const inFastPath = (change: (fast: FastPorts, worker: Worker) => void): Plant => {
  return () => ({
    worker: (worker) => {
      if (worker.fast !== null) change(worker.fast, worker)
    },
  })
}

/** Changes ports whose frames may be fast, as they are made. */
const inPorts = (change: (port: Attached, fast: FastPorts) => void): Plant =>
  inFastPath((fast) => {
    const { path } = fast
    const hooked = path.hooked.bind(path)
    path.hooked = (state) => {
      const before = path.attached[state.index]
      hooked(state)
      const port = path.attached[state.index]
      if (port !== undefined && port !== before) change(port, fast)
    }
  })

/** What `name` removes or moves, nobody is told of. */
function silence(fdb: Fdb, name: 'learn' | 'sweep' | 'removePort'): void {
  const original = fdb[name].bind(fdb) as (...args: unknown[]) => unknown
  const silenced = (...args: unknown[]) => {
    const { unpinned } = fdb
    fdb.unpinned = null
    try {
      return original(...args)
    } finally {
      fdb.unpinned = unpinned
    }
  }
  Object.assign(fdb, { [name]: silenced })
}

const inForwarders = (change: (forwarder: Forwarder) => void): Plant =>
  inFastPath((_fast, { forwarders }) => {
    for (const forwarder of forwarders) change(forwarder)
  })

const fast = (scenario: Scenario): Scenario => onFastPath(scenario, new Random(scenario.seed))

/** A machine on each of two hosts; one asks the other all the time. */
const asking = (scenario: Scenario): Scenario => {
  const machines = scenario.machines.map((machine, vm) => ({ ...machine, host: vm < 2 ? vm : machine.host, nics: 1 }))
  const sends = Array.from({ length: 60 }, (_, nth): Send => {
    return { at: 20 + 3 * nth, vm: 0, nic: 0, toVm: 1, toNic: 0, form: 'raw', floating: false }
  })
  const hosts = Math.max(2, scenario.hosts)
  return { ...scenario, hosts, machines, outside: [], chain: false, sends, orders: [], faults: [] }
}

/** The other one never answers, and is forgotten. */
const silent = (scenario: Scenario): Scenario => {
  const { sends, ...rest } = asking(scenario)
  return {
    ...fast({ ...rest, sends: [] }),
    ageing: 15,
    sends: sends.map((send, nth) => ({ ...send, at: nth < 3 ? 800 + 25 * nth : 14_000 + 50 * nth })),
  }
}

/** The trunk between these is taken away at one of its ends, and plugged in again. */
const replugging =
  (a: number, b: number) =>
  (scenario: Scenario): Scenario => {
    const fault: Fault = { kind: 'unplug trunk', a, b, at: 80, for: 20 }
    return fast({ ...asking(scenario), faults: [fault] })
  }

/** A machine on the processor on which the daemon is not speaks all the time while a snapshot begins. */
const hurried = (scenario: Scenario): Scenario => {
  const one = asking(scenario)
  const sends = one.sends.map((send, nth) => ({ ...send, at: 40 + 0.2 * nth, vm: 1, toVm: 0 }))
  const orders: Order[] = [{ kind: 'snapshot', at: 40, deadline: 20_000 }]
  const trunk = { ...one.trunk, jitter: 0, loss: 0, reorder: false, duplicate: 0 }
  return fast({ ...one, sends, orders, trunk, pace: { ...one.pace, poll: 0.05, call: 2 } })
}

/** Long frames, which are never fast, among others of the same pair. */
const mixed = (scenario: Scenario): Scenario => {
  const sends = scenario.sends.map((send, nth) =>
    send.toVm === BROADCAST || nth % 3 > 0 ? send : { ...send, form: 'long' as const },
  )
  return fast({ ...scenario, sends })
}

export const fastPathFaults: readonly PlantedFault[] = [
  {
    name: 'the barrier is left out',
    breaks: [1, 2, 3, 8],
    plant: inFastPath(({ path }) => {
      path.barrier = () => undefined
    }),
    adapt: fast,
  },
  {
    name: 'it is waited for the end of programs, and not for what they have redirected',
    breaks: [1, 2, 3, 8],
    plant: inFastPath(({ kernel }) => {
      kernel.visit = () => true
    }),
    adapt: fast,
  },
  {
    name: 'it is not waited for the queues of processors',
    breaks: [2, 3],
    plant: inFastPath(({ kernel }) => {
      kernel.drain = () => true
    }),
    adapt: hurried,
  },
  {
    name: 'frames are fast while others of their bucket wait in the daemon',
    breaks: [3],
    plant: inFastPath(({ kernel }) => {
      kernel.hasSent = () => true
    }),
    adapt: mixed,
  },
  {
    name: 'what the daemon has sent counts as through at once',
    breaks: [3],
    plant: inPorts(({ buckets }) => {
      const sent = buckets.sent.bind(buckets)
      buckets.sent = () => {
        sent()
        buckets.await()
        buckets.through()
      }
    }),
    adapt: mixed,
  },
  {
    name: 'a network stays fast when commands change its state',
    breaks: [1, 2, 3, 8],
    plant: inFastPath((fast) => {
      fast.makeSlow = () => undefined
    }),
    adapt: fast,
  },
  {
    name: 'a network stays fast while gates are closed',
    breaks: [2, 3, 8],
    plant: inForwarders(({ network }) => {
      if (network.fast !== null) network.fast.slow = () => undefined
    }),
    adapt: fast,
  },
  {
    name: 'verdicts of a former epoch are valid again',
    breaks: [1, 2, 8],
    plant: inPorts((port, { kernel }) => {
      const start = port.start.bind(port)
      let isFirst = true
      port.start = () => {
        start()
        // Generations go on by two: this is the one before.
        if (!isFirst) kernel.memory.ports[port.port.index * PORT_WORDS + PortWord.GENERATION] -= 2
        isFirst = false
      }
    }),
    adapt: fast,
  },
  {
    name: 'an address that moves leaves its verdicts',
    breaks: [8],
    plant: inForwarders(({ fdb }) => silence(fdb, 'learn')),
    adapt: fast,
  },
  {
    name: 'an address that is forgotten leaves its verdicts',
    breaks: [8],
    plant: inForwarders(({ fdb, network }) => {
      silence(fdb, 'sweep')
      if (network.fast instanceof NetworkPath) network.fast.keeps = () => true
    }),
    adapt: silent,
  },
  {
    name: 'a port that goes leaves its verdicts',
    breaks: [8],
    plant: inFastPath((fast, worker) => {
      for (const { fdb } of worker.forwarders) silence(fdb, 'removePort')
      fast.path.slow = () => undefined
      fast.remove = () => undefined
    }),
    adapt: replugging(0, 1),
  },
  {
    name: 'a generation that is new to a trunk leaves its verdicts',
    breaks: [2, 8],
    plant: inForwarders(({ network, trunks }) => {
      const { fast } = network
      if (fast === null) return
      const outdated = fast.outdated.bind(fast)
      const control = trunks.control.bind(trunks)
      trunks.control = (port, frame, now) => {
        fast.outdated = () => undefined
        const message = control(port, frame, now)
        fast.outdated = outdated
        return message
      }
    }),
    adapt: replugging(1, 0),
  },
  {
    name: 'what kernels have counted is nobody’s',
    breaks: [2],
    plant: inPorts((port) => {
      port.sync = () => undefined
    }),
    adapt: fast,
  },
]
