// Restores that end running machines: on two hosts whose files and paths differ. Guests have blank data disks (equal
// content, several paths) on golden images that lie elsewhere on each host; the snapshot's channel states may both be
// empty. A load that fails on one host leaves all machines running, with no frame lost; then they are swapped, and
// restored where they are.

import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import t, { type Test } from 'tap'
import type { RestoreReport } from '../../src/api/schemas.js'
import { fileLimit } from '../patience.js'
import { attempt, run, until } from './command.js'
import { inGuest } from './guest-shell.js'
import { Lab, type LabPlan } from './lab.js'
import { HOP_DELAY_US } from './ring.js'

t.setTimeout(fileLimit(600_000))

const [one, two] = ['10.78.0.1', '10.78.0.2'] as const
const ring = { ring: [one, two], hops: 10_000_000, hopDelayUs: HOP_DELAY_US }
const dataDisk = (inside: (...names: string[]) => string) => [
  ...['-drive', `file=${inside('vm', 'data.raw')},format=raw,if=none,id=data0`],
  ...['-device', 'virtio-blk-pci,drive=data0,id=vdb'],
]
const plan: LabPlan = {
  network: 'lab0',
  hosts: ['a', 'b'],
  memoryMiB: 128,
  machines: [
    { name: 'vm1', host: 'a', job: { ...ring, ip: `${one}/24`, node: 0, send: [`1@${two}:5001/60`] }, more: dataDisk },
    { name: 'vm2', host: 'b', job: { ...ring, ip: `${two}/24`, node: 1, receive: ['1@5001'] }, more: dataDisk },
  ],
}

/** A golden image below each machine's disk, in a directory that only its host has. */
async function makeDisks(lab: Lab): Promise<void> {
  for (const { plan: machine, files } of lab.machines.values()) {
    const host = lab.host(machine.host)
    const directory = host.outside(host.inside(`golden-${host.name}`))
    mkdirSync(directory)
    execFileSync('truncate', ['-s', '16M', `${directory}/base.raw`])
    execFileSync('truncate', ['-s', '1M', host.outside(host.inside('vm', 'data.raw'))])
    const golden = host.inside(`golden-${host.name}`, 'base.raw')
    await run(host.enter[0]!, [
      ...host.enter.slice(1),
      ...['qemu-img', 'create', '-q', '-f', 'qcow2', '-b', golden, '-F', 'raw', files.qcow2],
    ])
  }
}

const hopsOf = (lab: Lab, name: string) => lab.machine(name).console.state?.ring?.hop ?? 0

/** The ring is a token over TCP: it goes on only if both machines and all between them do. */
async function goesOn(lab: Lab): Promise<void> {
  for (const name of ['vm1', 'vm2']) {
    const before = hopsOf(lab, name)
    await until(`the ring at ${name}`, 90_000, () => hopsOf(lab, name) > before || undefined)
  }
}

async function running(lab: Lab): Promise<Record<string, string>> {
  const found = await lab.runningMachines()
  return Object.fromEntries(found.map(({ name, host, id }) => [name, `${host} ${id.pid}`]))
}

async function devices(lab: Lab, host: string): Promise<string[]> {
  const text = await run('ip', ['-n', lab.namespace(host), '-o', 'link', 'show'])
  return [...text.matchAll(/^(\d+): ([^:@]+)/gm)].map(([, index, name]) => `${name} ${index}`)
}

async function hasNoStandIns(t: Test, lab: Lab): Promise<void> {
  for (const host of plan.hosts)
    t.notOk(
      (await devices(lab, host)).some((one) => one.startsWith('sswt')),
      host,
    )
}

t.test('restores that replace what runs', async (t) => {
  const lab = await Lab.build(plan)
  t.teardown(() => lab.destroy())
  await makeDisks(lab)
  for (const host of plan.hosts) await lab.startSwitch(host)
  await lab.startCoordinator()
  await lab.startMachines()
  await goesOn(lab)
  await lab.snapswitchJson(['snapshot', 'create', 'lab0', '--name', 'kept'])
  const swapped = ['--place', 'vm1=b', '--place', 'vm2=a']
  const restore = (...more: string[]) =>
    lab.snapswitchJson<RestoreReport>(['snapshot', 'restore', 'kept', '--replace', ...more], undefined, 120_000)

  await t.test('a load that fails on one host leaves all running, and no frame is lost', async (t) => {
    const before = await running(lab)
    // Where vm1 would have its directory there is a file.
    const obstacle = lab.state('b', 'machines', 'vm1')
    writeFileSync(obstacle, '')
    const [command, ...args] = lab.commandLine(['snapshot', 'restore', 'kept', '--replace', ...swapped])
    const { code, stderr } = await attempt(command!, args, 120_000)
    rmSync(obstacle)
    t.equal(code, 1, stderr)
    t.match(stderr, /^error STORE_IO: .*host b: cannot make .*vm1/m)
    t.same(await running(lab), before, 'the same processes run')
    await goesOn(lab)
    const report = lab.machine('vm2').console.state
    t.match(report?.receive, [{ lost: 0, doubled: 0, reordered: 0 }], 'a numbered stream went on through all of it')
    t.equal(report?.ring?.resets, 0)
    await hasNoStandIns(t, lab)
  })

  await t.test('swapped', async (t) => {
    const before = await running(lab)
    lab.restartConsoles({ vm1: 'b', vm2: 'a' })
    // Nor has the other host a kernel under that path.
    const kernel = lab.host('b').outside((await lab.images()).kernel)
    renameSync(kernel, `${kernel}.away`)
    const report = await restore(...swapped)
    renameSync(`${kernel}.away`, kernel)
    t.same(report.placement, { vm1: 'b', vm2: 'a' })
    const after = await running(lab)
    t.match(after, { vm1: /^b /, vm2: /^a / })
    t.notOk(
      Object.values(before).some((one) => Object.values(after).includes(one)),
      'none of before is left',
    )
    await goesOn(lab)
    t.ok((await devices(lab, 'b')).some((one) => one.startsWith('vm1-tap ')))
    await hasNoStandIns(t, lab)
    t.notOk(existsSync(lab.host('a').outside(lab.host('a').inside('golden-b'))), 'no path of another host is made')
  })

  await t.test('where they are: the new ones take over the devices of those that run', async (t) => {
    const [before, links] = [await running(lab), await devices(lab, 'b')]
    lab.restartConsoles()
    const report = await restore(...swapped)
    t.equal(report.transferredBytes, 0)
    const after = await running(lab)
    t.match(after, { vm1: /^b /, vm2: /^a / })
    t.notSame(after, before)
    await goesOn(lab)
    const tap = (all: string[]) => all.find((one) => one.startsWith('vm1-tap '))
    t.notSame(tap(await devices(lab, 'b')), tap(links), 'another device has the name')
    await hasNoStandIns(t, lab)
    t.same(report.warnings, [])
  })

  await t.test('a snapshot of restored machines, restored over them', async (t) => {
    await lab.snapswitchJson(['snapshot', 'create', 'lab0', '--name', 'again'])
    lab.restartConsoles()
    const command = ['snapshot', 'restore', 'again', '--replace']
    const report = await lab.snapswitchJson<RestoreReport>(command, undefined, 120_000)
    t.same(report.placement, { vm1: 'b', vm2: 'a' })
    t.match(report.disks, { vm1: [{ name: 'disk0' }, { name: 'data0' }] })
    t.match(await inGuest(lab, 'vm1', 'echo its-socket'), 'its-socket', 'its own socket has the name that it was given')
    for (const { file } of report.disks.vm1 ?? []) t.ok(existsSync(lab.host('b').outside(file)), file)
    await goesOn(lab)
    await hasNoStandIns(t, lab)
  })

  await t.test('--end-first: the old order, on demand', async () => {
    lab.restartConsoles()
    await restore('--end-first', ...swapped)
    await goesOn(lab)
  })
})
