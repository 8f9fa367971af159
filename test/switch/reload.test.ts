// A configuration that changes under a running switch: ports, networks and settings come, change and go, and numbered
// frames between two ports that stay arrive all of them, in order. What is wrong is refused whole.

import { readdirSync, writeFileSync } from 'node:fs'
import { setTimeout as pause } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { stringify } from 'yaml'
import { run, until } from '../lab/command.js'
import { program } from '../lab/daemon.js'
import { fileLimit, patience } from '../patience.js'
import { idOf, isOurs, stations, testFrame } from './station.js'
import { root, type Switch, World } from './world.js'

t.setTimeout(fileLimit(180_000))

type Ports = Record<string, Record<string, unknown>>
const [one, two, three, four] = ['one', 'two', 'three', 'four'].map((device) => ({ device }))

class Rig {
  readonly world: World
  daemon!: Switch

  constructor(t: Test) {
    this.world = World.for(t)
  }

  async start(ports: Ports): Promise<void> {
    await this.world.namespace('host')
    for (const label of ['one', 'two', 'three', 'four']) await this.world.endpoint(label, 'host')
    this.daemon = await this.world.switch('host', { networks: { lab0: { ports } } })
  }

  write(content: Record<string, unknown>): void {
    this.world.configFile('host', content)
  }

  /** What the daemon says has changed; else the error's code. */
  reload(content: Record<string, unknown>): Promise<readonly string[] | string> {
    this.write(content)
    return this.daemon.client.reload({ deadlineMs: patience(30_000) }).then(
      ({ changes }) => changes,
      ({ code }) => code,
    )
  }

  async ports(): Promise<string[]> {
    const ports = await this.daemon.client.ports({ deadlineMs: patience(5000) })
    return ports.map(({ name, network, kind, up }) => `${network} ${name} ${kind} ${up ? 'up' : 'DOWN'}`).sort()
  }
}

t.test('what did not change loses no frame, whatever else changes', root, async (t) => {
  const rig = new Rig(t)
  await rig.start({ a: one, b: two })
  const [sender, receiver] = stations(t, rig.world, 'one', 'two')
  const member = { device: 'two', vm: 'vm' }
  const steps: [string, Record<string, unknown>, string[]][] = [
    ['a port', { lab0: { ports: { a: one, b: two, c: three } } }, ['port added: c (three) in network lab0']],
    [
      'another network, and settings',
      { lab0: { ageing: 60, pause: 'forward', ports: { a: one, b: two, c: three } }, lab1: { ports: { d: four } } },
      ['network changed: lab0 (pause, fdb)', 'network added: lab1', 'port added: d (four) in network lab1'],
    ],
    [
      'a port moves to the other network',
      { lab0: { ports: { a: one, b: two } }, lab1: { ports: { c: three, d: four } } },
      [
        'port removed: c (three) in network lab0',
        'network changed: lab0 (pause, fdb)',
        'port added: c (three) in network lab1',
      ],
    ],
    [
      'a port becomes a machine’s',
      { lab0: { ports: { a: one, b: member } }, lab1: { ports: { c: three, d: four } } },
      ['port changed: b (two) in network lab0'],
    ],
    [
      'a network goes',
      { lab0: { ports: { a: one, b: member } } },
      ['port removed: d (four) in network lab1', 'port removed: c (three) in network lab1', 'network removed: lab1'],
    ],
    ['nothing', { lab0: { ports: { a: one, b: member } } }, []],
  ]

  let sent = 0
  let sending = true
  const seen: number[] = []
  const traffic = (async () => {
    while (sending) {
      if (sender.send(testFrame(sent, { to: 2 })) === null) sent++
      await pause(1)
      seen.push(...receiver.received().filter(isOurs).map(idOf))
    }
  })()
  for (const [name, networks, changes] of steps) {
    t.same(await rig.reload({ networks }), changes, name)
    const from = seen.length
    await until('frames after it', 10_000, () => (seen.length > from + 20 ? true : undefined))
  }
  sending = false
  await traffic
  await until('the last frame', 10_000, () => {
    seen.push(...receiver.received().filter(isOurs).map(idOf))
    return seen.length >= sent ? true : undefined
  }).catch(() => undefined)
  t.same(
    seen,
    Array.from({ length: sent }, (_, id) => id),
    `${sent} frames, each once, in order`,
  )
  t.same(await rig.ports(), ['lab0 a plain up', 'lab0 b member up'])
  t.match(await rig.world.in('host', 'tc', 'qdisc', 'show', 'dev', 'one'), /clsact/)
  t.notMatch(await rig.world.in('host', 'tc', 'qdisc', 'show', 'dev', 'four'), /clsact/, 'it was given back')
  const { networks } = await rig.daemon.client.status({ deadlineMs: patience(5000) })
  t.same(
    networks.map(({ name, ports }) => [name, ports]),
    [['lab0', 2]],
  )
})

t.test('frames go where the new configuration says, and only there', root, async (t) => {
  const rig = new Rig(t)
  await rig.start({ a: one, b: two, c: three })
  const [a, b, c] = stations(t, rig.world, 'one', 'two', 'three')
  t.equal(a.send(testFrame(1)), null)
  t.same([(await b.collect(1)).map(idOf), (await c.collect(1)).map(idOf)], [[1], [1]])
  t.type(await rig.reload({ networks: { lab0: { ports: { a: one, b: two } }, lab1: { ports: { c: three } } } }), Array)
  t.equal(a.send(testFrame(2)), null)
  t.same((await b.collect(1)).map(idOf), [2])
  t.same(c.received().filter(isOurs), [], 'nothing of another network')
  t.type(await rig.reload({ networks: { lab0: { ports: { a: one, c: three } } } }), Array)
  t.equal(a.send(testFrame(3)), null)
  t.same((await c.collect(1)).map(idOf), [3])
  t.same(b.received().filter(isOurs), [], 'it is no port any more')
})

t.test('what is wrong is refused whole, and said', root, async (t) => {
  const rig = new Rig(t)
  const good = { networks: { lab0: { ports: { a: one, b: two } } } }
  await rig.start(good.networks.lab0.ports)
  await rig.world.ip('host', 'link', 'add', 'br0', 'type', 'bridge')
  await rig.world.ip('host', 'link', 'set', 'four', 'master', 'br0')
  const before = await rig.ports()
  const lab0 = (ports: Ports) => ({ networks: { lab0: { ports } } })
  for (const [code, content] of [
    ['CONFIG_INVALID', { networks: { lab0: { ports: { a: one }, colour: 'red' } } }],
    ['CONFIG_INVALID', lab0({ a: one, b: one })],
    ['CONFIG_INVALID', { networks: { lab0: { ports: { a: one } }, lab1: { ports: { a: two } } } }],
    ['CONFIG_FIXED', { ...good, host: 'other' }],
    ['CONFIG_FIXED', { ...good, state: '/elsewhere' }],
    ['CONFIG_FIXED', { ...good, datapath: { poll: 'busy' } }],
    // A good port beside it is not added either, and none is removed.
    ['DEVICE_BUSY', lab0({ c: three, d: four })],
    ['DEVICE_UNSUPPORTED', lab0({ c: three, d: { device: 'lo' } })],
  ] as const) {
    t.equal(await rig.reload(content), code)
    t.same(await rig.ports(), before, `${code}: all is as it was`)
  }

  // Its port cannot be had when the former one has gone, and the former one could not come back.
  const { pid } = rig.daemon
  const files = (soft: string) => run('prlimit', ['--pid', String(pid), `--nofile=${soft}:`])
  const usual = await run('prlimit', ['--pid', String(pid), '--nofile', '--noheadings', '--output', 'SOFT'])
  await files(String(readdirSync(`/proc/${pid}/fd`).length + 20))
  t.equal(await rig.reload(lab0({ a: three, b: two })), 'FILES_SHORT')
  t.same(await rig.ports(), before, 'FILES_SHORT: all is as it was')
  await files(usual.trim())

  rig.write({ ...good, host: 'other' })
  const refused = await rig.world.try('host', program(), 'reload', '--socket', rig.world.socket('host'))
  t.equal(refused.code, 1)
  t.match(refused.stderr, /error CONFIG_FIXED: .*`host` cannot change while the daemon runs/)
  rig.daemon.signal('SIGHUP')
  await until('a word on it', 10_000, () =>
    /"pid".*stays as it was.*`host`/.test(rig.daemon.said()) ? true : undefined,
  )

  writeFileSync(rig.world.outside('host', rig.world.inside('host', 'host.yaml')), 'networks: [')
  t.equal(await rig.daemon.client.reload({ deadlineMs: patience(5000) }).catch(({ code }) => code), 'CONFIG_UNREADABLE')
  t.same(await rig.ports(), before)

  rig.write({ networks: { lab0: { ports: { a: one, c: three } } } })
  rig.daemon.signal('SIGHUP')
  const after = ['lab0 a plain up', 'lab0 c plain up']
  await until('the signal’s change', 10_000, async () =>
    stringify(await rig.ports()) === stringify(after) ? true : undefined,
  )
  const quiet = await rig.world.try('host', program(), 'reload', '--socket', rig.world.socket('host'))
  t.same([quiet.code, quiet.stdout], [0, 'nothing has changed\n'])
})

t.test('a port that waits for its device is added and taken away like another', root, async (t) => {
  const rig = new Rig(t)
  await rig.start({ a: one })
  t.same(await rig.reload({ networks: { lab0: { ports: { a: one, later: { device: 'later0' } } } } }), [
    'port added: later (later0) in network lab0',
  ])
  t.same(await rig.ports(), ['lab0 a plain up', 'lab0 later plain DOWN'])
  t.same(await rig.reload({ networks: { lab0: { ports: { a: one, later: two } } } }), [
    'port removed: later (later0) in network lab0',
    'port added: later (two) in network lab0',
  ])
  t.same(await rig.ports(), ['lab0 a plain up', 'lab0 later plain up'])
})
