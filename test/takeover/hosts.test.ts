// Bridges of two hosts, both taken over, on one LAN by their uplinks, with the coordinator inside one of the daemons: a
// snapshot of machines on both, a restore onto both bridges, and one that moves a machine to the other host's bridge.

import { mkdtempSync, rmSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { CoordinatorStatus, Manifest, RestoreReport } from '../../src/api/schemas.js'
import { attempt, run, until } from '../lab/command.js'
import { program } from '../lab/daemon.js'
import { Lab, type LabPlan } from '../lab/lab.js'
import { HOP_DELAY_US } from '../lab/ring.js'
import { fileLimit } from '../patience.js'

t.setTimeout(fileLimit(280_000))

const addresses = ['10.81.0.1', '10.81.0.2'] as const
const OUTSIDE = '10.81.0.200'
const ring = { ring: [...addresses], hops: 10_000_000, hopDelayUs: HOP_DELAY_US }
const plan: LabPlan = {
  network: 'br0',
  hosts: ['a', 'b'],
  memoryMiB: 128,
  lan: { outsideAddress: `${OUTSIDE}/24` },
  machines: addresses.map((ip, node) => ({
    name: `vm${node + 1}`,
    host: node === 0 ? 'a' : 'b',
    job: { ...ring, ip: `${ip}/24`, node },
  })),
}

/** As `ssh -L` does: a socket that another host sees, for one that it does not. */
async function tunnel(t: Test, to: string): Promise<string> {
  const directory = mkdtempSync(join(tmpdir(), 'ssw-tunnel-'))
  const server = createServer((near) => {
    const far = connect(to)
    for (const [one, other] of [
      [near, far],
      [far, near],
    ] as const)
      one.on('error', () => other.destroy()).pipe(other)
  })
  t.teardown(() => {
    server.close()
    rmSync(directory, { recursive: true, force: true })
  })
  const path = join(directory, 'b.sock')
  await new Promise<void>((resolve) => server.listen(path, resolve))
  return path
}

t.test('bridges of two hosts', { skip: process.getuid?.() === 0 ? false : 'needs root' }, async (t) => {
  const lab = await Lab.build(plan)
  t.teardown(() => lab.destroy())
  t.teardown(() => t.passing() || t.comment(lab.lastWords(60).join('\n')))
  const ip = (host: string, ...words: string[]) => run('ip', ['-n', lab.namespace(host), ...words])
  for (const [at, host] of plan.hosts.entries()) {
    await ip(host, 'link', 'add', 'br0', 'type', 'bridge')
    await ip(host, 'address', 'add', `10.81.0.${at + 101}/24`, 'dev', 'br0')
    await ip(host, 'link', 'set', 'br0', 'up')
    for (const device of ['uplink', `vm${at + 1}-tap`]) await ip(host, 'link', 'set', device, 'master', 'br0')
  }
  await lab.startMachines()
  const goesOn = async () => {
    for (const { console } of lab.machines.values()) {
      const hop = () => console.state?.ring?.hop ?? 0
      const before = hop()
      await until('the ring', 90_000, () => hop() > before || undefined)
    }
  }
  await goesOn()

  const files = (host: string) => ({
    host,
    api: { socket: lab.host(host).inside('switch.sock') },
    state: lab.host(host).inside('state'),
  })
  await lab.startSwitch('b', { ...files('b'), coordinator: 'none' })
  const others = { b: { socket: await tunnel(t, lab.switchSocket('b')) } }
  await lab.startSwitch('a', { ...files('a'), hosts: others, networks: { br0: { bridge: 'br0', uplink: 'uplink' } } })
  /** On a host, as a person would. */
  const said = (host: string, ...args: string[]) => {
    const [enter, ...entry] = lab.host(host).enter
    const env = ['env', `SNAPSWITCH_SOCKET=${lab.host(host).inside('switch.sock')}`]
    return attempt(enter!, [...entry, ...env, process.execPath, program(), ...args], 150_000)
  }
  const command = async (host: string, ...args: string[]) => {
    const { code, stdout, stderr } = await said(host, ...args, '-j')
    if (code !== 0) throw new Error(`snapswitch ${args.join(' ')}: ${stderr}`)
    return JSON.parse(stdout)
  }
  t.match(await command('b', 'take', 'br0', '--uplink', 'uplink'), { taken: true, problem: null })
  const ports = async (host: string) =>
    ((await command(host, 'port', 'list')) as { name: string; kind: string }[])
      .map(({ name, kind }) => `${name} ${kind}`)
      .sort()
  for (const [host, tap] of [
    ['a', 'vm1-tap'],
    ['b', 'vm2-tap'],
  ] as const) {
    const wanted = ['ssw-br0 host', 'uplink uplink', `${tap} member`]
    await until(`the ports of ${host}`, 60_000, async () =>
      JSON.stringify(await ports(host)) === JSON.stringify(wanted) ? true : undefined,
    )
  }
  await until('the coordinator, and peers that are alive', 60_000, async () => {
    const { coordinator } = (await command('a', 'status')) as { coordinator: CoordinatorStatus | null }
    return coordinator?.networks[0]?.hosts.every(({ reachable }) => reachable) ? true : undefined
  })
  await goesOn()

  // The first one may come before the switches have heard each other.
  const manifest = await until('a snapshot', 60_000, () =>
    command('a', 'snapshot', 'create', 'br0', '--name', 's1').catch(() => undefined),
  )
  t.match(manifest as Manifest, { state: 'complete', parts: [{ host: 'a' }, { host: 'b' }], figures: { lost: 0 } })
  await goesOn()

  const onBridge = async (host: string) =>
    (JSON.parse(await ip(host, '-j', 'link', 'show', 'master', 'br0')) as { ifname: string }[])
      .map(({ ifname }) => ifname)
      .sort()
  const reaches = async (why: string) => {
    for (const address of [...addresses, '10.81.0.101', '10.81.0.102']) {
      const ping = ['netns', 'exec', lab.namespace('out'), 'ping', '-c', '2', '-W', '20', address]
      t.equal((await attempt('ip', ping, 60_000)).code, 0, `${why}: from outside to ${address}`)
    }
  }
  await t.test('each machine onto the bridge of its host', async (t) => {
    const report = (await command('a', 'snapshot', 'restore', 's1', '--replace')) as RestoreReport
    t.same(report.placement, { vm1: 'a', vm2: 'b' })
    lab.restartConsoles()
    await goesOn()
    t.same(await onBridge('a'), ['ssh-br0', 'uplink', 'vm1-tap'])
    t.same(await onBridge('b'), ['ssh-br0', 'uplink', 'vm2-tap'])
    await reaches('restored')
  })
  await t.test('one of them onto the bridge of the other host', async (t) => {
    const report = (await command('a', 'snapshot', 'restore', 's1', '--replace', '--place', 'vm2=a')) as RestoreReport
    t.same(report.placement, { vm1: 'a', vm2: 'a' })
    lab.restartConsoles({ vm2: 'a' })
    await goesOn()
    t.same(await onBridge('a'), ['ssh-br0', 'uplink', 'vm1-tap', 'vm2-tap'])
    await reaches('moved')
    t.ok((await ports('a')).includes('vm2-tap member'))
  })
  await t.test('given back: the kernels forward', async (t) => {
    for (const host of plan.hosts) t.match(await said(host, 'give', 'br0'), { code: 0 }, `${host} gives it back`)
    t.same(await onBridge('a'), ['uplink', 'vm1-tap', 'vm2-tap'])
    t.notOk((await onBridge('b')).includes('ssh-br0'))
    for (const host of plan.hosts) t.same(await ports(host), [])
    await goesOn()
    await reaches('given')
  })
})
