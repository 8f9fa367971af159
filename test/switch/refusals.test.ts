// Everything that can be wrong when a daemon starts: each gets one error with its code, exit code 1, and leaves nothing
// changed.

import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { type CommandResult, until } from '../lab/command.js'
import { fileLimit, patience } from '../patience.js'
import { root, type SwitchFile, World } from './world.js'

t.setTimeout(fileLimit(180_000))

const network = (ports: Record<string, unknown>): SwitchFile => ({ networks: { lab0: { ports } } })

async function host(t: { teardown(end: () => Promise<void>): void }): Promise<World> {
  const world = World.for(t)
  await world.namespace('host', { ipv6: true })
  for (const [device, peer] of [
    ['one', 'one-peer'],
    ['two', 'two-peer'],
  ]) {
    await world.ip('host', 'link', 'add', device, 'type', 'veth', 'peer', 'name', peer)
    await world.ip('host', 'link', 'set', peer, 'up')
    await world.linkSays('host', peer, /state LOWERLAYERDOWN/)
  }
  return world
}

/** Everything about the host's devices that a daemon may touch. */
async function stateOf(world: World): Promise<string> {
  const sysctls = 'cd /proc/sys/net/ipv6/conf && for d in *; do echo "$d $(cat $d/disable_ipv6)"; done'
  const parts = [
    world.ip('host', '-d', '-o', 'link', 'show'),
    world.in('host', 'tc', 'qdisc', 'show'),
    world.in('host', 'sh', '-c', sysctls),
    // Who has a socket where; how many bytes wait in it (Rmem) is of the moment.
    world.in('host', 'awk', '{ print $3, $4, $5, $6, $9 }', '/proc/net/packet'),
  ]
  return (await Promise.all(parts)).join('\n')
}

/** The kernel notices a moment later what became of a device's carrier. */
async function isAsBefore(t: Test, world: World, before: string): Promise<void> {
  await until('the former state', 5000, async () => ((await stateOf(world)) === before ? true : undefined)).catch(
    () => undefined,
  )
  t.equal(await stateOf(world), before, 'nothing has changed')
}

interface Refusal {
  readonly code: string
  readonly says: RegExp
  readonly does?: RegExp
}

/** One error, in words a person can act on; no stack, no log line, nothing changed. */
async function refused(
  t: Test,
  world: World,
  file: string,
  { code, says, does = /\w/ }: Refusal,
): Promise<CommandResult> {
  const before = await stateOf(world)
  const result = await world.refused('host', file)
  t.equal(result.code, 1)
  t.match(result.stderr, new RegExp(`^error ${code}: `, 'm'))
  t.match(result.stderr, says)
  t.match(result.stderr, does)
  t.equal(result.stderr.match(/^error /gm)?.length, 1, 'one error')
  t.notMatch(result.stderr, /^\s+at .*:\d+:\d+\)?$/m, 'no stack')
  t.equal(result.stdout, '')
  await isAsBefore(t, world, before)
  t.equal(existsSync(world.socket('host')), false)
  return result
}

t.test('configurations that do not fit', root, async (t) => {
  const world = await host(t)
  const written = (name: string, text: string) => {
    const file = join(world.directory, name)
    writeFileSync(file, text)
    return file
  }
  const head = `host: host\napi: { socket: ${world.socket('host')} }\nstate: ${world.state('host')}\n`

  await t.test('an unknown key: where it is, and which key is near it', (t) =>
    refused(t, world, written('key.yaml', `${head}networks:\n  lab0:\n    portz:\n      one: { device: one }\n`), {
      code: 'CONFIG_INVALID',
      says: /key\.yaml:6:5: .*portz.*\bports\b/s,
    }),
  )
  await t.test('an unknown key in a port', (t) =>
    refused(t, world, written('port.yaml', `${head}networks:\n  lab0:\n    ports:\n      one: { devcie: one }\n`), {
      code: 'CONFIG_INVALID',
      says: /port\.yaml:7:\d+: .*devcie.*device/s,
    }),
  )
  await t.test('a value of the wrong kind', (t) =>
    refused(t, world, written('value.yaml', `${head}networks:\n  lab0:\n    ageing: soon\n`), {
      code: 'CONFIG_INVALID',
      says: /value\.yaml:6:13: /s,
    }),
  )
  await t.test('one device in two ports', (t) =>
    refused(t, world, world.configFile('host', network({ a: { device: 'one' }, b: { device: 'one' } }), 'twice'), {
      code: 'CONFIG_INVALID',
      says: /twice\.yaml:\d+:\d+: .*one.*already.*\ba\b/,
    }),
  )
  await t.test('a member without a machine', (t) =>
    refused(t, world, world.configFile('host', network({ a: { device: 'one', kind: 'member' } }), 'member'), {
      code: 'CONFIG_INVALID',
      says: /needs `vm:`/,
    }),
  )
  await t.test('an uplink beside a trunk', (t) =>
    refused(
      t,
      world,
      world.configFile(
        'host',
        network({ up: { device: 'one', kind: 'uplink' }, a: { device: 'x', kind: 'trunk' } }),
        'up',
      ),
      { code: 'CONFIG_INVALID', says: /up\.yaml:\d+:\d+: .*one uplink or trunks.* a is .*trunk/s },
    ),
  )
  await t.test('a color for what is no uplink', (t) =>
    refused(t, world, world.configFile('host', network({ a: { device: 'one', color: 'dscp' } }), 'color'), {
      code: 'CONFIG_INVALID',
      says: /only a port of kind uplink has `color:`/,
    }),
  )
  await t.test('no YAML', (t) =>
    refused(t, world, written('broken.yaml', 'host: [\n'), { code: 'CONFIG_UNREADABLE', says: /broken\.yaml:\d+:\d+/ }),
  )
  await t.test('no such file', (t) =>
    refused(t, world, join(world.directory, 'none.yaml'), { code: 'CONFIG_UNREADABLE', says: /none\.yaml.*ENOENT/ }),
  )
})

t.test('devices that cannot be ports: those opened before are given back', root, async (t) => {
  const world = await host(t)
  const one = { one: { device: 'one' } }

  await t.test('one that belongs to a bridge', async (t) => {
    await world.ip('host', 'link', 'add', 'br0', 'type', 'bridge')
    await world.ip('host', 'link', 'set', 'two', 'master', 'br0')
    await refused(t, world, world.configFile('host', network({ ...one, b: { device: 'two' } })), {
      code: 'DEVICE_BUSY',
      says: /two/,
      does: /ip link set two nomaster/,
    })
    await world.ip('host', 'link', 'del', 'br0')
  })
  await t.test('one that is no Ethernet device', (t) =>
    refused(t, world, world.configFile('host', network({ ...one, b: { device: 'lo' } })), {
      code: 'DEVICE_UNSUPPORTED',
      says: /lo is no Ethernet device/,
    }),
  )
  await t.test('a trunk without room for the color tag', async (t) => {
    const ports = { ...one, trunk: { device: 'two', kind: 'trunk' } }
    await refused(t, world, world.configFile('host', network(ports)), {
      code: 'DEVICE_MTU',
      says: /two.*1500/,
      does: /ip link set two mtu 1504/,
    })
  })
  await t.test('one with another program’s ingress filter', async (t) => {
    await world.in('host', 'tc', 'qdisc', 'add', 'dev', 'two', 'clsact')
    const match = ['u32', 'match', 'u32', '0', '0']
    await world.in('host', 'tc', 'filter', 'add', 'dev', 'two', 'ingress', 'pref', '1', 'protocol', 'all', ...match)
    // The device before it was set up and down again: a qdisc of the default kind stays from that.
    await world.ip('host', 'link', 'set', 'one', 'up')
    await refused(t, world, world.configFile('host', network({ ...one, b: { device: 'two' } })), {
      code: 'DEVICE_BUSY',
      says: /two/,
      does: /tc filter show/,
    })
    await world.in('host', 'tc', 'qdisc', 'del', 'dev', 'two', 'clsact')
  })
})

t.test('what is taken already', root, async (t) => {
  const world = await host(t)
  const daemon = await world.switch('host', network({ one: { device: 'one' } }))
  for (const device of ['one', 'one-peer']) await world.linkSays('host', device, /state UP/)
  const before = await stateOf(world)

  await t.test('its socket', async (t) => {
    const other = world.configFile(
      'host',
      { ...network({ two: { device: 'two' } }), api: { socket: world.socket('host') } },
      'b',
    )
    const result = await world.refused('host', other)
    t.equal(result.code, 1)
    t.match(result.stderr, /^error DEVICE_BUSY: another daemon listens on /m)
    await isAsBefore(t, world, before)
    t.equal(existsSync(world.socket('host')), true, 'the socket of the one that runs is untouched')
    t.equal((await daemon.client.status({ deadlineMs: patience(5000) })).pid, daemon.pid)
  })
  await t.test('its device', async (t) => {
    const result = await world.refused('host', world.configFile('host', network({ x: { device: 'one' } }), 'c'))
    t.equal(result.code, 1)
    t.match(result.stderr, /^error DEVICE_BUSY: one is a port of another switch daemon/m)
    await isAsBefore(t, world, before)
  })
  await t.test('its state directory', async (t) => {
    const content = { ...network({ two: { device: 'two' } }), state: world.state('host') }
    const result = await world.refused('host', world.configFile('host', content, 'd'))
    t.equal(result.code, 1)
    t.match(result.stderr, /^error DEVICE_BUSY: another daemon keeps its records in /m)
    await isAsBefore(t, world, before)
  })
  t.equal(await daemon.stop(), 0)

  await t.test('a file that is no socket stands where the socket should be', async (t) => {
    writeFileSync(world.socket('host'), 'precious')
    const result = await world.refused('host', world.configFile('host', network({ one: { device: 'one' } })))
    t.equal(result.code, 1)
    t.match(result.stderr, /^error DEVICE_BUSY: .*is no socket/m)
    t.equal(existsSync(world.socket('host')), true)
  })
})

t.test('a state directory or a socket that cannot be used', root, async (t) => {
  const world = await host(t)
  const state = join(world.directory, 'file')
  writeFileSync(state, '')
  await refused(t, world, world.configFile('host', { ...network({ one: { device: 'one' } }), state }), {
    code: 'STORE_IO',
    says: /file/,
  })
  const one = network({ one: { device: 'one' } })
  // Where nobody can make directories, and where Node's own recursive mkdir never returns.
  await refused(t, world, world.configFile('host', { ...one, state: '/proc/none/state' }), {
    code: 'STORE_IO',
    says: /cannot use the state directory \/proc\/none\/state: ENOENT/,
  })
  await refused(t, world, world.configFile('host', { ...one, api: { socket: '/proc/none/run/switch.sock' } }), {
    code: 'SYSCALL',
    says: /cannot listen on \/proc\/none\/run\/switch\.sock: ENOENT/,
  })
  for (const file of ['epochs.json', 'fences.json', 'disks.json', 'members.json', 'machine-names.json']) {
    const damaged = world.state(`damaged-${file}`)
    mkdirSync(damaged)
    writeFileSync(join(damaged, file), '[1]')
    await refused(t, world, world.configFile('host', { ...one, state: damaged }), {
      code: 'STORE_DAMAGED',
      says: new RegExp(file),
    })
  }
})

t.test('without the privileges that it needs', root, async (t) => {
  const world = await host(t)
  const file = world.configFile('host', network({ one: { device: 'one' } }))
  const found = spawnSync('setpriv', ['--version'])
  if (found.error !== undefined) throw found.error
  const before = await stateOf(world)
  const drop = ['setpriv', '--bounding-set', '-net_admin,-net_raw', '--inh-caps', '-net_admin,-net_raw']
  const result = await world.refused('host', file, drop)
  t.equal(result.code, 1)
  t.match(result.stderr, /^error PERMISSION: /m)
  await isAsBefore(t, world, before)
})
