// A network of libvirt domains and a plain QEMU, as a lab has it: two domains on one host, a QEMU on the other, a ring
// and UDP streams over all of them; snapshot by the coordinator, everything killed, restored where it was, deleted.

import { existsSync } from 'node:fs'
import t from 'tap'
import { bitsOf, ringResult } from '../../guest/expected.js'
import type { AuditReport, Manifest, RestoreReport } from '../../src/api/schemas.js'
import { checkOutcome } from '../demo/checks.js'
import { sleep } from '../lab/command.js'
import { startDomain, startLibvirt, withDomains } from '../lab/domains.js'
import { Lab, type LabPlan } from '../lab/lab.js'
import { fileLimit, patience, slowness } from '../patience.js'
import { until } from './boot-guest.js'

t.setTimeout(fileLimit(280_000))

/** What is done meanwhile takes longer on a busy machine; the pauses between hops do not. */
const hops = Math.round(1000 * slowness)
const [one, two, three] = ['10.77.0.1', '10.77.0.2', '10.77.0.3'] as const
const ring = { ring: [one, two, three], hops, hopDelayUs: 4000, journalEvery: 10 }
const plan: LabPlan = {
  network: 'lab0',
  hosts: ['a', 'b'],
  memoryMiB: 128,
  machines: [
    {
      name: 'dom1',
      host: 'a',
      job: { ...ring, ip: `${one}/24`, node: 0, send: [`1@${three}:5001/100`, `2@${two}:5002/100`] },
    },
    { name: 'dom2', host: 'a', job: { ...ring, ip: `${two}/24`, node: 1, receive: ['2@5002'] } },
    { name: 'plain3', host: 'b', job: { ...ring, ip: `${three}/24`, node: 2, receive: ['1@5001'] } },
  ],
}
const domains = ['dom1', 'dom2']

async function ringAt(lab: Lab, hop: number): Promise<void> {
  const began = performance.now()
  for (;;) {
    const states = [...lab.machines.values()].map(({ console }) => console.state?.ring)
    if (states.some((state) => state?.failed)) throw new Error('the ring broke')
    if (Math.max(...states.map((state) => state?.hop ?? 0)) >= hop) return
    if (performance.now() > began + patience(120_000)) throw new Error(`the ring did not come to ${hop}`)
    await sleep(100)
  }
}

t.test('domains of libvirt and a plain QEMU in one snapshot', async (t) => {
  const lab = await Lab.build(plan)
  t.teardown(() => lab.destroy())
  const daemon = await startLibvirt(lab, 'a')
  t.teardown(() => daemon.end())
  await lab.startSwitch('a', withDomains(lab.switchConfig('a'), domains, daemon))
  await lab.startSwitch('b')
  await lab.startCoordinator()
  await Promise.all([...domains.map((name) => startDomain(daemon, lab, name)), lab.startMachine('plain3')])
  await ringAt(lab, hops * 0.3)
  const before = Object.fromEntries(domains.map((name) => [name, daemon.disks(name).vda!]))
  const manifest = await lab.snapswitchJson<Manifest>(['snapshot', 'create', 'lab0', '--name', 'mixed', '--record'])
  const atSnapshot = Math.max(...[...lab.machines.values()].map(({ console }) => console.state?.ring?.hop ?? 0))
  t.equal(manifest.state, 'complete')
  const audit = await lab.snapswitchJson<AuditReport>(['snapshot', 'audit', 'mixed'])
  t.equal(audit.verdict, 'consistent', JSON.stringify(audit.checks.filter(({ verdict }) => verdict !== 'consistent')))
  for (const member of manifest.parts.flatMap((part) => part.members)) {
    t.comment(`${member.vm}: stood still for ${(member.resumedAtUs - member.pausedAtUs) / 1000} ms`)
  }
  t.ok(atSnapshot < hops, 'it was taken in the middle')
  const outcome = async (phase: string) => {
    await ringAt(lab, hops)
    const done = await Promise.all(
      [...lab.machines.values()].map(async ({ plan: { name }, console }) => ({
        name,
        done: await console.done(30_000),
        errors: console.errors,
      })),
    )
    const streams = { 1: 'UDP between hosts', 2: 'UDP within a host' }
    for (const check of checkOutcome(phase, done, bitsOf(ringResult(3, hops)), streams)) {
      if (check.kind === 'must') t.ok(check.ok, `${phase}: ${check.what} (${check.seen})`)
    }
  }
  await outcome('ran on')
  await lab.killMachines()
  await until('libvirt to notice', () => domains.every((name) => daemon.virsh('domstate', name) === 'shut off'))
  lab.restartConsoles()
  const report = await lab.snapswitchJson<RestoreReport>(['snapshot', 'restore', 'mixed'])
  t.ok(report, 'restored')
  for (const name of domains) {
    t.equal(daemon.virsh('domstate', name), 'running')
    t.match(daemon.disks(name).vda, lab.host('a').inside('state', 'machines', name))
    t.same(daemon.disks(name, true), daemon.disks(name))
    t.equal(daemon.virsh('snapshot-list', name), '')
  }
  await outcome('restored')
  lab.restartConsoles()
  await lab.snapswitchJson<RestoreReport>(['snapshot', 'restore', 'mixed', '--replace'])
  await outcome('restored over machines that ran')
  const views = () => domains.map((name) => [daemon.disks(name), daemon.disks(name, true)])
  const viewed = views()
  await lab.snapswitchJson<Manifest>(['snapshot', 'create', 'lab0', '--name', 'again'])
  t.notSame(views(), viewed)
  await lab.snapswitchJson(['snapshot', 'delete', 'again'])
  t.same(views(), viewed, 'domblklist is as before the snapshot that was deleted')
  for (const name of domains) t.equal(daemon.virsh('snapshot-list', name), '')
  const overlays = domains.map((name) => daemon.disks(name).vda!)
  await lab.killMachines()
  await until('libvirt to notice', () => domains.every((name) => daemon.virsh('domstate', name) === 'shut off'))
  for (const file of [...Object.values(before), ...overlays]) t.ok(existsSync(lab.host('a').outside(file)))
})
