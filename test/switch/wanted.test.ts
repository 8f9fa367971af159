// What a host is to have, and the way there: sources put together, restores' moves on top, the list of changes; and
// what becomes of a change that has to wait, is refused, or fails half-way. All that it is performed on is made up.

import fc from 'fast-check'
import { pino } from 'pino'
import t, { type Test } from 'tap'
import { SnapswitchError } from '../../src/errors/errors.js'
import { systemClock } from '../../src/runtime/clock.js'
import { defaultFdbOptions } from '../../switch/forwarding/fdb.js'
import type { NetworkSettings } from '../../switch/forwarding/network.js'
import type { PortEntry } from '../../switch/ports/table.js'
import { type Change, changesBetween, type Present, touchedNetworks } from '../../switch/wanted/changes.js'
import { Reconfiguration } from '../../switch/wanted/reconfiguration.js'
import { WantedState } from '../../switch/wanted/state.js'
import {
  combine,
  movedPorts,
  NOTHING,
  requestOf,
  type Wanted,
  type WantedPort,
  withMoves,
  withValues,
} from '../../switch/wanted/wanted.js'
import { fileLimit } from '../patience.js'

const bounds = { frames: 1, bytes: 65536 }
const settings: NetworkSettings = {
  linkLocal: 'forward',
  pause: 'drop',
  transit: false,
  fdb: defaultFdbOptions,
  hold: bounds,
  networkHold: bounds,
  record: bounds,
  closureDeadline: 200,
  controlKey: null,
}

const port = (name: string, more: Partial<WantedPort> = {}): WantedPort => ({
  name,
  network: 'lab0',
  device: `dev-${name}`,
  kind: 'plain',
  vm: null,
  ...more,
})
const member = (name: string, vm: string, more: Partial<WantedPort> = {}) => port(name, { kind: 'member', vm, ...more })
const byName = (...ports: WantedPort[]) => new Map(ports.map((one) => [one.name, one]))

function wanted(networks: readonly string[], ...ports: WantedPort[]): Present {
  return { networks: new Map(networks.map((name) => [name, settings])), ports: byName(...ports), machines: new Map() }
}

const entry = (of: WantedPort, index = 0): PortEntry => ({
  ...of,
  index,
  ifindex: 1,
  ifname: of.device,
  mtu: 1500,
  mac: null,
  queueLength: 1000,
  ownsDevice: of.ownsDevice ?? false,
})

t.test('sources are put together; two that want the same are told so', async (t) => {
  const config = wanted(['lab0'], port('a'))
  const bridge: Wanted = { ...NOTHING, networks: new Map([['lab0', null]]), ports: byName(port('b')) }
  const all = combine(
    new Map([
      ['file', config],
      ['bridge', bridge],
    ]),
  )
  t.equal(all.networks.get('lab0'), settings, 'the one that has settings says them')
  t.equal(
    combine(
      new Map([
        ['bridge', bridge],
        ['file', config],
      ]),
    ).networks.get('lab0'),
    settings,
  )
  t.same([...all.ports.keys()], ['a', 'b'])
  const fills: Wanted = { ...bridge, values: new Map([['lab0', { ageing: 77 }]]) }
  const { values } = combine(
    new Map([
      ['bridge', fills],
      ['file', config],
    ]),
  )
  t.same(values?.get('lab0'), { ageing: 77 })
  t.same(withValues(settings, { ageing: 77 }), { ...settings, fdb: { ...settings.fdb, ageing: 77 } })
  const machine = (qmp: string): Wanted => ({ ...NOTHING, machines: new Map([['vm', { qmp }]]) })
  for (const [code, other] of [
    ['PORT_EXISTS', wanted([], port('a', { device: 'x' }))],
    ['PORT_EXISTS', wanted([], port('b', { device: 'dev-a' }))],
    ['PORT_EXISTS', wanted([], port('u', { kind: 'uplink' }), port('t', { kind: 'trunk' }))],
    ['NETWORK_UNKNOWN', wanted([], port('b', { network: 'lab9' }))],
    ['WANTED_TWICE', { ...wanted(['lab0']), networks: new Map([['lab0', { ...settings, transit: true }]]) }],
  ] as const) {
    t.throws(
      () =>
        combine(
          new Map([
            ['file', config],
            ['bridge', other],
          ]),
        ),
      { code },
    )
  }
  t.throws(
    () =>
      combine(
        new Map([
          ['file', machine('/a')],
          ['bridge', machine('/b')],
        ]),
      ),
    { code: 'WANTED_TWICE' },
  )
  t.same(
    [
      ...combine(
        new Map([
          ['file', machine('/a')],
          ['bridge', machine('/a')],
        ]),
      ).machines.keys(),
    ],
    ['vm'],
  )
})

t.test('what restores have changed goes first, and is found again in what is there', async (t) => {
  const config = wanted(['lab0', 'lab1'], member('a', 'one'), member('b', 'two'), port('c'))
  const here = { ...member('d', 'three', { network: 'lab1' }), ownsDevice: true }
  const other = { ...member('b', 'two', { device: 'elsewhere' }), ownsDevice: false }
  const all = withMoves(config, { gone: ['a'], ports: [here, other] as never })
  t.same([...all.ports.keys()].sort(), ['b', 'c', 'd'])
  t.equal(all.ports.get('b')?.device, 'elsewhere', 'as the restore has left it')
  const moves = movedPorts(config.ports, [...all.ports.values()].map(entry))
  t.same(moves.gone, ['a'])
  t.same(
    moves.ports.map(({ name, ownsDevice }) => [name, ownsDevice]),
    [
      ['d', true],
      ['b', false],
    ],
  )
  t.same([...withMoves(config, moves).ports.keys()].sort(), ['b', 'c', 'd'], 'and once more')
  const bridged = (name: string) => ({ ...member(name, name), bridge: 7 })
  const onBridge = movedPorts(new Map([['p', bridged('p')]]), [entry(bridged('q'))])
  t.same(onBridge, { ports: [], gone: [] }, 'which ports a bridge has, it says itself')
  const less = withMoves(wanted(['lab0'], port('c')), moves)
  t.same([...less.ports.keys()].sort(), ['b', 'c'], 'a network that nobody wants has no ports')
})

/** What the changes make of what was there. */
function applied(
  before: Present,
  changes: readonly Change[],
): { networks: Map<string, unknown>; ports: Map<string, WantedPort> } {
  const networks = new Map<string, unknown>(before.networks)
  const ports = new Map(before.ports)
  for (const change of changes) {
    if (change.kind === 'port removed') ports.delete(change.port.name)
    if (change.kind === 'network removed') {
      if ([...ports.values()].some(({ network }) => network === change.network)) throw new Error('it has ports')
      networks.delete(change.network)
    }
    if (change.kind === 'network added' || change.kind === 'network changed')
      networks.set(change.network, change.settings)
    if (change.kind === 'port added' || change.kind === 'port changed') {
      if (!networks.has(change.port.network)) throw new Error('it has no network')
      const same = [...ports.values()].find((one) => one.device === change.port.device)
      if (same !== undefined && (change.kind === 'port added' || same.name !== change.port.name))
        throw new Error('taken')
      ports.set(change.port.name, change.port)
    }
  }
  return { networks, ports }
}

t.test('the changes lead from any layout to any other, and touch nothing that is the same', async (t) => {
  const names = fc.constantFrom('a', 'b', 'c', 'd')
  const layout = fc
    .record({
      networks: fc.dictionary(fc.constantFrom('lab0', 'lab1', 'lab2'), fc.boolean(), { minKeys: 1 }),
      ports: fc.uniqueArray(
        fc.record({ name: names, device: names, at: fc.nat(2), kind: fc.constantFrom('plain', 'trunk') }),
        { selector: ({ name }) => name },
      ),
    })
    .map(({ networks, ports }): Present => {
      const known = Object.keys(networks)
      const devices = new Set<string>()
      const all = ports.flatMap(({ name, device, at, kind }) => {
        if (devices.has(device)) return []
        devices.add(device)
        return [port(name, { device, network: known[at % known.length], kind: kind as 'plain' | 'trunk' })]
      })
      const set = known.map((name): [string, NetworkSettings] => [name, { ...settings, transit: networks[name] }])
      return { networks: new Map(set), ports: byName(...all), machines: new Map() }
    })
  fc.assert(
    fc.property(layout, layout, (before, after) => {
      const changes = changesBetween(before, after)
      const { networks, ports } = applied(before, changes)
      const sorted = (map: ReadonlyMap<string, unknown>) => [...map].sort(([x], [y]) => (x < y ? -1 : 1))
      t.same(sorted(networks), sorted(after.networks))
      t.same(sorted(ports), sorted(after.ports))
      const said = JSON.stringify(changes)
      for (const [name, own] of before.ports)
        if (JSON.stringify(after.ports.get(name)) === JSON.stringify(own) && said.includes(`"name":"${name}"`))
          throw new Error(`${name} was touched`)
      t.same(changesBetween(after, after), [])
    }),
    { numRuns: 300 },
  )
})

t.test('a plain port is no part of a snapshot; all else waits for the end of one', async (t) => {
  const touched = (before: Present, after: Present) => [
    ...touchedNetworks(changesBetween(before, after), before.ports.values()),
  ]
  const own = wanted(['lab0', 'lab1'], port('a'), member('m', 'vm'))
  t.same(touched(own, wanted(['lab0', 'lab1'], member('m', 'vm'), port('b'))), [])
  t.same(touched(own, wanted(['lab0', 'lab1'], port('a'))), ['lab0'])
  t.same(touched(own, wanted(['lab0', 'lab1'], member('a', 'vm'), member('m', 'vm'))), ['lab0'])
  t.same(touched(own, wanted(['lab0', 'lab1', 'lab2'], port('a'), member('m', 'vm'))), [], 'a new one')
  t.same(touched(own, wanted(['lab0'], port('a'), member('m', 'vm'))), ['lab1'])
  const machine = (qmp: string) => ({ ...own, machines: new Map([['vm', { qmp }]]) })
  t.same(touched(machine('/a'), machine('/b')), ['lab0'])
})

/** Ports, datapath and sessions made up; what is done is written down. */
class MadeUp {
  readonly done: string[] = []
  readonly entries = new Map<string, PortEntry>()
  readonly state = new WantedState()
  saved: unknown = null
  busy: string | null = null
  occupied = new Set<string>()
  failsAt: string | null = null
  /** Steps that fail whenever they are tried once one has failed. */
  readonly stuck = new Set<string>()
  #hasFailed = false
  /** Is told of each step before it is made. */
  atStep: (what: string) => void = () => undefined
  machines: ReadonlyMap<string, unknown> = new Map()

  #note(what: string): void {
    this.atStep(what)
    if (this.failsAt === what || (this.#hasFailed && this.stuck.has(what))) {
      this.failsAt = null
      this.#hasFailed = true
      throw new SnapswitchError('SYSCALL', `${what} failed`, 'None.')
    }
    this.done.push(what)
  }

  readonly change = new Reconfiguration(
    {
      name: 'h',
      clock: systemClock,
      log: pino({ level: 'silent' }),
      epochs: { get: () => 0, fence: () => 0 },
      records: {
        writeMoves: async (moves: () => unknown) => {
          this.saved = moves()
        },
      },
      machines: {
        configured: new Map(),
        moved: () => ({}),
        set: () => undefined,
        configure: (machines: ReadonlyMap<string, unknown>) => {
          this.machines = machines
        },
      },
      datapath: {
        addNetwork: async ({ options }: { options: { network: string } }) => this.#note(`+ ${options.network}`),
        removeNetwork: async (name: string) => this.#note(`- ${name}`),
        configure: async (name: string) => this.#note(`~ ${name}`),
      },
      ports: {
        all: () => [...this.entries.values()],
        check: () => undefined,
        checkTrunkRoom: () => undefined,
        remove: async (name: string) => {
          this.#note(`- ${name}`)
          this.entries.delete(name)
        },
        change: async (one: WantedPort) => {
          this.#note(`~ ${one.name}`)
          this.entries.set(one.name, entry(one))
        },
        addAllOrAwait: async (ports: readonly WantedPort[]) => {
          const failures: unknown[] = []
          for (const one of ports) {
            try {
              this.#note(`+ ${one.name}`)
              this.entries.set(one.name, entry(one))
            } catch (thrown) {
              failures.push(thrown)
            }
          }
          if (failures.length > 0) throw failures[0]
        },
      },
    } as never,
    this.state,
    {
      refusal: () => (this.busy === null ? null : new SnapswitchError('SNAPSHOT_BUSY', this.busy, 'Wait.')),
      occupy: (network) => this.occupied.add(network),
      end: (network) => this.occupied.delete(network),
    },
    settings,
  )

  moves() {
    return this.state.moves([...this.entries.values()])
  }

  layout(): string[] {
    return [...this.entries.values()].map((one) => JSON.stringify(requestOf(one))).sort()
  }
}

t.test('a change that fails half-way is taken back', async (t) => {
  const made = new MadeUp()
  await made.change.set('file', wanted(['lab0'], port('a'), member('b', 'vm')))
  t.same(made.done, ['+ lab0', '+ a', '+ b'])
  t.same(made.saved, { machines: {}, ports: [], gone: [] })
  const before = made.layout()
  const next = wanted(['lab0', 'lab1'], member('a', 'vm'), port('c', { network: 'lab1' }), port('d'))
  for (const step of ['- b', '+ lab1', '~ a', '+ c', '+ d']) {
    made.failsAt = step
    await t.rejects(made.change.set('file', next), { code: 'SYSCALL' }, step)
    t.same(made.layout(), before, `${step}: as it was`)
    t.same(made.state.networks(), ['lab0'])
    t.equal(made.occupied.size, 0)
  }
  made.done.splice(0)
  t.equal((await made.change.set('file', next)).length, 5)
  t.same(made.done, ['- b', '+ lab1', '~ a', '+ c', '+ d'])
  t.same(made.state.networks(), ['lab0', 'lab1'])
  t.same(await made.change.set('file', next), [])
  t.equal((await made.change.set('file', null)).length, 5)
  t.same(made.layout(), [])
})

/** A change that leaves `a` away, `c` a machine's and `q` there; `r` was brought by a restore before. */
async function halfTakenBack(t: Test): Promise<{ made: MadeUp; file: Present; before: string[] }> {
  const made = new MadeUp()
  const file = wanted(['lab0', 'lab1'], port('a'), member('b', 'vm'), port('c'))
  await made.change.set('file', file)
  made.entries.set('r', entry({ ...member('r', 'moved'), ownsDevice: true }, 9))
  const before = made.layout()
  const next = wanted(['lab0'], port('a', { device: 'other' }), member('c', 'vm2'), port('q'))
  made.failsAt = '+ a'
  for (const step of ['- q', '~ c', '+ a']) made.stuck.add(step)
  await t.rejects(made.change.set('file', next), {
    code: 'SYSCALL',
    message: '+ a failed; it could not be taken back, and these are not as they were: port q, port c, port a',
    action: 'None. Then run: snapswitch reload',
  })
  return { made, file, before }
}
const restored = { ports: [{ ...member('r', 'moved'), ownsDevice: true }], gone: [] }

t.test('a change that cannot be taken back is no restore’s: the next one puts its ports right', async (t) => {
  const { made, file, before } = await halfTakenBack(t)
  t.same([...made.entries.keys()].sort(), ['b', 'c', 'q', 'r'], 'what can be taken back is')
  t.ok(made.done.includes('+ lab1'), 'networks as well')
  t.equal(made.entries.get('r')?.ownsDevice, true)
  t.same(made.moves(), restored)

  // As long as it cannot be put right, it stays known what is wrong.
  const other: Wanted = { ...NOTHING, networks: new Map([['lab0', null]]), ports: byName(port('p')) }
  await t.rejects(made.change.set('bridge', other), { code: 'SYSCALL', message: '- q failed' })
  t.same(made.moves(), restored)
  t.same(made.saved, { machines: {}, ports: [], gone: [] }, 'as it was before the restore')

  made.stuck.clear()
  t.equal((await made.change.set('file', file)).length, 3)
  t.same(made.layout(), before)
  t.same(made.saved, { machines: {}, ...restored })
  t.equal((await made.change.set('bridge', other)).length, 1)
  t.same(made.saved, { machines: {}, ...restored })
})

t.test('another source’s change puts right what could not be taken back, too', async (t) => {
  const { made, before } = await halfTakenBack(t)
  made.stuck.clear()
  const other: Wanted = { ...NOTHING, networks: new Map([['lab0', null]]), ports: byName(port('p')) }
  t.equal((await made.change.set('bridge', other)).length, 4)
  made.entries.delete('p')
  t.same(made.layout(), before)
})

t.test('a lost port that nobody wants any more does not come back', async (t) => {
  const { made } = await halfTakenBack(t)
  const now = wanted(['lab0', 'lab1'], member('b', 'vm'), member('c', 'vm2'), port('q'))
  t.same(await made.change.set('file', now), [], 'it is so already')
  t.same(made.moves(), restored)
  t.same(await made.change.set('file', now), [])
})

t.test('what a restore makes of a port that could not be taken back is a restore’s', async (t) => {
  const { made, file } = await halfTakenBack(t)
  const elsewhere = { ...member('c', 'vm3', { device: 'tap9' }), ownsDevice: true }
  made.entries.set('c', entry(elsewhere))
  const moves = { ...restored, ports: [elsewhere, ...restored.ports] }
  const sorted = ({ ports, gone }: ReturnType<MadeUp['moves']>) => ({
    ports: ports.toSorted((one, two) => (one.name < two.name ? -1 : 1)),
    gone,
  })
  t.same(sorted(made.moves()), moves)
  made.stuck.clear()
  t.equal((await made.change.set('file', file)).length, 2)
  t.same([...made.entries.keys()].sort(), ['a', 'b', 'c', 'r'])
  t.equal(made.entries.get('c')?.vm, 'vm3')
})

t.test('a restore that writes down its moves while a change is under way writes none of the change’s', async (t) => {
  const made = new MadeUp()
  await made.change.set('file', wanted(['lab0'], port('a'), member('b', 'vm')))
  const seen: unknown[] = []
  made.atStep = () => seen.push(made.moves())
  made.failsAt = '+ c'
  const next = wanted(['lab0'], port('a', { device: 'other' }), port('b'), port('c'))
  await t.rejects(made.change.set('file', next), { code: 'SYSCALL' })
  t.equal((await made.change.set('file', next)).length, 4)
  t.ok(seen.length > 4)
  t.same(
    seen,
    seen.map(() => ({ ports: [], gone: [] })),
  )
})

t.test('a change waits for what is under way, and is refused when that takes too long', async (t) => {
  const made = new MadeUp()
  await made.change.set('file', wanted(['lab0'], port('a'), member('b', 'vm')))
  made.busy = 'a snapshot is under way'
  const plain = await made.change.set('bridge', {
    ...NOTHING,
    ports: byName(port('p')),
    networks: new Map([['lab0', null]]),
  })
  t.equal(plain.length, 1, 'a plain port need not wait')
  const waiting = made.change.set('file', wanted(['lab0'], port('a')))
  setTimeout(() => {
    made.busy = null
  }, 200)
  t.equal((await waiting).length, 1)
  t.notOk(made.entries.has('b'))
  made.busy = 'a snapshot is under way'
  const began = performance.now()
  await t.rejects(made.change.set('file', wanted(['lab0'], port('a'), member('b', 'vm')), 0), { code: 'SNAPSHOT_BUSY' })
  t.ok(performance.now() - began < 5000, 'who does not want to wait is told at once')
  const before = made.layout()
  await t.rejects(made.change.set('file', wanted(['lab0'], port('a'), member('b', 'vm'))), { code: 'SNAPSHOT_BUSY' })
  t.same(made.layout(), before)
  t.same([...made.state.ports().keys()], ['a', 'p'])
})

t.setTimeout(fileLimit(120_000))
