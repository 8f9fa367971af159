// Who holds a TAP, and which machine that is: on real TAPs, held by real QEMUs (their guests never run) and by others.

import { execFileSync, spawn } from 'node:child_process'
import { copyFileSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import path from 'node:path'
import t from 'tap'
import { createHypervisors } from '../../src/hypervisor/drivers.js'
import type { MachineSpec } from '../../src/hypervisor/hypervisor.js'
import { libc } from '../../src/linux/libc.js'
import { Links } from '../../src/linux/link.js'
import { createTap, openTap, type TapOptions } from '../../src/linux/tap.js'
import type { Discovered, TapDevice } from '../../switch/discovery/discovery.js'
import { TapIdentifier } from '../../switch/discovery/identify.js'
import { soon, until } from '../hypervisor/boot-guest.js'
import { scratch } from '../hypervisor/machines.js'
import { enterFreshNamespace, run } from '../linux/namespace.js'
import { fileLimit } from '../patience.js'
import { startHolder, startQemu } from './holders.js'

enterFreshNamespace()
t.setTimeout(fileLimit(120_000))
const directory = scratch('discovery')
const links = new Links()
t.teardown(() => links.close())

function makeTap(name: string, options: TapOptions = {}): TapDevice {
  const { index } = createTap(name, { up: true, ...options })
  return { name, ifindex: index }
}

function identifier(configured: Record<string, MachineSpec> = {}): TapIdentifier {
  const named = () => new Map(Object.entries(configured))
  const isHeld = (ifindex: number) => links.findByIndex(ifindex)?.lowerUp ?? false
  return new TapIdentifier({ hypervisors: createHypervisors({}), configured: named, known: named, isHeld })
}

async function look(who: TapIdentifier, tap: TapDevice): Promise<Discovered> {
  return (await who.identify([tap], soon(10_000))).get(tap.ifindex)!
}

/** Its socket is there a moment before it can be connected to. */
async function lookForMachine(who: TapIdentifier, tap: TapDevice): Promise<Discovered> {
  for (const limit = soon(20_000); ; ) {
    const found = await look(who, tap)
    if (found.kind === 'machine' || performance.now() > limit) return found
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

const qmp = (name: string) => ['-qmp', `unix:${path.join(directory, name)},server=on,wait=off`]
const at = (name: string) => path.join(directory, name)

t.test('nobody, we, others', async (t) => {
  const tap = makeTap('none')
  const who = identifier()
  t.same(await look(who, tap), { kind: 'none' })
  const fd = openTap('none')
  t.match(await look(who, tap), { kind: 'pending', holder: { pid: process.pid } })
  libc().close(fd)
  for (const [program, wanted] of [
    ['virtqemud', { kind: 'pending', holder: { program: 'virtqemud' } }],
    ['firecracker', { kind: 'undrivable', title: 'Firecracker', problem: { code: 'MACHINE_UNSUPPORTED' } }],
    ['vpn', { kind: 'undrivable', title: null, problem: { message: /held by vpn \(process \d+\)/ } }],
  ] as const) {
    const holder = await startHolder('none', program, directory)
    t.match(await look(who, tap), wanted, program)
    await holder.end()
    t.same(await look(who, tap), { kind: 'none' })
  }
})

t.test('plain QEMUs', async (t) => {
  const [a, b, c, d] = [makeTap('a'), makeTap('b'), makeTap('c'), makeTap('d')]
  const who = identifier()
  // Its socket's path counts from where it was started.
  const relative = ['-qmp', 'unix:web.qmp,server=on,wait=off']
  const web = await startQemu(['a', 'b'], ['-name', 'web', ...relative], { cwd: directory, ready: at('web.qmp') })
  const monitor = ['-chardev', `socket,id=m,path=${at('c.qmp')},server=on,wait=off`, '-mon', 'chardev=m,mode=control']
  const second = await startQemu(['c'], ['-name', 'guest=web,debug-threads=on', ...monitor], { ready: at('c.qmp') })
  const mute = await startQemu(['d'], ['-name', 'mute,process=strange', '-monitor', 'none'])
  await until('all of them', () => [a, b, c, d].every(({ ifindex }) => links.findByIndex(ifindex)?.lowerUp))
  for (const tap of [a, c]) await lookForMachine(who, tap)
  const found = await who.identify([a, b, c, d], soon(10_000))
  const first = { kind: 'machine', name: 'web', spec: { qmp: at('web.qmp') }, holder: { pid: web.pid } }
  t.match(found.get(a.ifindex), first)
  t.match(found.get(b.ifindex), first, 'one machine with two TAPs')
  t.match(found.get(c.ifindex), { kind: 'machine', name: 'web-c', spec: { qmp: at('c.qmp') } }, 'of the same name')
  t.match(found.get(d.ifindex), { kind: 'undrivable', title: 'mute', problem: { message: /no QMP socket/ } })

  const client = connect(at('c.qmp'))
  await new Promise((resolve) => client.once('data', resolve))
  t.match(await look(who, c), { kind: 'machine', name: 'web-c' }, 'a snapshot’s own connection is no obstacle')
  t.match(await look(identifier(), c), {
    kind: 'undrivable',
    problem: { code: 'HYPERVISOR_UNREACHABLE', message: /another/ },
  })
  client.destroy()
  // QEMU takes a moment to notice, and answers one client at a time.
  await lookForMachine(identifier(), c)

  const named = identifier({ mine: { qmp: at('c.qmp') }, web: { exec: { command: '/bin/x' } } })
  t.match(
    await look(named, c),
    { kind: 'machine', name: 'mine', spec: { qmp: at('c.qmp') } },
    'as the configuration says',
  )
  t.match(await look(named, a), { name: 'web', spec: { exec: { command: '/bin/x' } } }, 'driven as it says')
  const mutes = identifier({ mute: { qmp: '/elsewhere' } })
  t.match(await look(mutes, d), { kind: 'machine', name: 'mute', spec: { qmp: '/elsewhere' } })

  rmSync(at('web.qmp'))
  t.match(await look(identifier(), a), { kind: 'undrivable', problem: { message: /nothing leads to its QMP socket/ } })
  for (const machine of [web, second, mute]) await machine.end()
  t.same(await look(who, a), { kind: 'none' })
  // Started again, it is itself.
  const again = await startQemu(['c'], ['-name', 'web', ...qmp('d.qmp')], { ready: at('d.qmp') })
  t.match(await lookForMachine(who, c), { kind: 'machine', name: 'web-c', spec: { qmp: at('d.qmp') } })
  await again.end()
})

t.test('one socket path for two', async (t) => {
  const [one, two] = [makeTap('one'), makeTap('two')]
  const older = await startQemu(['one'], ['-name', 'older', ...qmp('same')], { ready: at('same') })
  rmSync(at('same'))
  const younger = await startQemu(['two'], ['-name', 'younger', ...qmp('same')], { ready: at('same') })
  const who = identifier()
  await lookForMachine(who, two)
  const found = await who.identify([one, two], soon(10_000))
  t.match(found.get(one.ifindex), { kind: 'undrivable', problem: { message: /replaced by that of process/ } })
  t.match(found.get(two.ifindex), { kind: 'machine', name: 'younger' })
  for (const machine of [older, younger]) await machine.end()
})

t.test('a QEMU with several queues, and one with files of its own', async (t) => {
  const [queues, jail] = [makeTap('queues', { multiQueue: true }), makeTap('jail')]
  const many = await startQemu(['queues'], ['-name', 'many', ...qmp('many')], {
    netdev: ',queues=3',
    ready: at('many'),
  })
  const who = identifier()
  t.match(await lookForMachine(who, queues), { kind: 'machine', name: 'many' })
  const inside = `mount -t tmpfs none ${directory} && exec "$@"`
  const through = ['unshare', '--mount', 'sh', '-c', inside, 'sh']
  const jailed = await startQemu(['jail'], ['-name', 'jailed', ...qmp('jailed')], { through })
  const found = await lookForMachine(who, jail)
  t.match(found, { kind: 'machine', name: 'jailed', spec: { qmp: `/proc/${jailed.pid}/root${at('jailed')}` } })
  const [machine] = [
    await createHypervisors({}).qemu.attach('jailed', (found as { spec: MachineSpec }).spec, soon(10_000)),
  ]
  t.match(machine!.incarnation, new RegExp(`^${jailed.pid}:`), 'and it answers there')
  await machine!.close()
  for (const one of [many, jailed]) await one.end()
})

t.test('namespaces', async (t) => {
  const other = `sswdisc${process.pid}`
  run('ip', 'netns', 'add', other)
  t.teardown(() => run('ip', 'netns', 'del', other))
  const tap = makeTap('twin')
  run('ip', '-n', other, 'tuntap', 'add', 'twin', 'mode', 'tap')
  run('ip', '-n', other, 'tuntap', 'add', 'comes', 'mode', 'tap')
  const through = ['ip', 'netns', 'exec', other]
  const twin = await startQemu(['twin', 'comes'], ['-name', 'twin', ...qmp('twin')], { through, ready: at('twin') })
  const who = identifier()
  t.same(await look(who, tap), { kind: 'none' }, 'a device of the same name elsewhere is another one')
  run('ip', '-n', other, 'link', 'set', 'comes', 'netns', String(process.pid))
  const ifindex = links.get('comes').index
  t.match(
    await lookForMachine(who, { name: 'comes', ifindex }),
    { kind: 'machine', name: 'twin' },
    'one that came from elsewhere',
  )
  run('ip', 'link', 'set', 'twin', 'name', 'renamed')
  await twin.end()
})

t.test('many processes', async (t) => {
  const tap = makeTap('needle')
  const needle = await startQemu(['needle'], ['-name', 'needle', ...qmp('needle')], { ready: at('needle') })
  copyFileSync('/bin/sleep', at('crowd'))
  const crowd = Array.from({ length: 400 }, () => spawn(at('crowd'), ['600'], { stdio: 'ignore' }))
  t.teardown(() => {
    for (const child of crowd) child.kill('SIGKILL')
  })
  await Promise.all(crowd.map((child) => new Promise((resolve) => child.once('spawn', resolve))))
  const processes = Number(execFileSync('sh', ['-c', 'ls /proc | grep -c "^[0-9]"'], { encoding: 'utf8' }))
  const times: number[] = []
  for (let nth = 0; nth < 11; nth++) {
    const began = performance.now()
    const found = await look(identifier(), tap)
    times.push(performance.now() - began)
    if (nth === 10) t.match(found, { kind: 'machine', name: 'needle' })
  }
  times.sort((a, b) => a - b)
  t.comment(`${processes} processes: ${times[0]!.toFixed(1)} ms at best, ${times[5]!.toFixed(1)} ms as a rule`)
  const late = await identifier().identify([tap], performance.now() - 1)
  t.match(late.get(tap.ifindex), { kind: 'undrivable', problem: { code: 'DEADLINE' } }, 'no time')
  await needle.end()
})
