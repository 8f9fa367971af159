// kill -9 of the daemon in the middle of a snapshot of a libvirt domain, and a libvirt that refuses to resume one: the
// next daemon puts right what was left, and libvirt's view is true.

import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { LocalEvent } from '../../src/api/schemas.js'
import { isAtOwnPace, readCounts, readReport, until } from '../hypervisor/boot-guest.js'
import { LibvirtDaemon } from '../hypervisor/libvirt-daemon.js'
import { isGapless } from '../hypervisor/machines.js'
import { fileLimit, patience } from '../patience.js'
import { root, type Switch, World } from './world.js'

t.setTimeout(fileLimit(240_000))
const LONG = { deadlineMs: patience(30_000) }
const hook = ['--import', new URL('./kill-hook.js', import.meta.url).href]

async function snapshot({ client }: Switch, name: string, epoch: number): Promise<LocalEvent | undefined> {
  await client.prepare('lab0', name, { epoch, policy: 'buffer', deadlineMs: patience(30_000) }, LONG)
  let last: LocalEvent | undefined
  for await (const event of client.take('lab0', name, LONG)) last = event
  return last
}

t.test('a domain, and a daemon that dies', root, async (t) => {
  const world = World.for(t)
  await world.namespace('host')
  await world.ip('host', 'tuntap', 'add', 'dev', 'tap0', 'mode', 'tap', 'vnet_hdr')
  const libvirt = await LibvirtDaemon.start('root', world.name('host'))
  t.teardown(() => libvirt.end())
  const domain = await libvirt.domain('dom', { taps: ['tap0'] })
  const lost = join(world.state('host'), 'snapshots', 'lab0', 'lost')
  const start = async (env: Record<string, string> = {}, network = 'lab0'): Promise<Switch> => {
    const ports = { one: { device: 'tap0', vm: 'vm0' } }
    const machines = { vm0: { libvirt: { domain: 'dom' } } }
    Object.assign(process.env, env)
    try {
      return await world.switch(
        'host',
        { networks: { [network]: { ports } }, machines, libvirt: { uri: libvirt.uri } },
        hook,
      )
    } finally {
      for (const name of Object.keys(env)) delete process.env[name]
    }
  }
  /** It runs on its own disk, and nothing is left of the snapshot. */
  const isAsBefore = async (what: string) => {
    await libvirt.runs(domain)
    t.equal(libvirt.virsh('domstate', 'dom'), 'running', `${what}: domstate`)
    t.same(libvirt.disks('dom'), { vda: domain.disk }, `${what}: domblklist`)
    t.same(libvirt.disks('dom', true), { vda: domain.disk }, `${what}: stored configuration`)
    t.match(libvirt.virsh('dumpxml', 'dom'), `<source file='${domain.disk}'`, `${what}: dumpxml`)
    t.match(libvirt.virsh('qemu-monitor-command', 'dom', '{"execute":"query-jobs"}'), '"return":[]', `${what}: jobs`)
    t.same(
      readdirSync(libvirt.directory).filter((file) => /^dom.+qcow2$/.test(file) && file !== 'dom.qcow2'),
      [],
      `${what}: no overlay, no copy`,
    )
    t.notOk(existsSync(lost), `${what}: no image, no record`)
    t.ok(isGapless(readCounts(domain.serial)), `${what}: nothing missed, nothing twice`)
    t.equal(readReport(domain.serial).complaints, '', `${what}: memory and disk of one piece`)
  }
  let epoch = 1
  for (const [kill, network] of [
    ['before:snapshot'],
    ['after:snapshot'],
    ['before:transaction'],
    ['after:transaction'],
    ['before:job-dismiss'],
    // Given back, renamed or taken out of the configuration meanwhile.
    ['after:transaction', 'another'],
  ] as const) {
    const killed = await start({ SNAPSWITCH_TEST_KILL: kill })
    t.match(await snapshot(killed, 'lost', epoch++).then(() => 'it answered', String), /Error/, kill)
    await until('the daemon to die', () => !killed.running)
    const { pid } = libvirt.machines()[0]!
    await until('all to go at their own pace', () => [pid, libvirt.pid].every(isAtOwnPace), 30_000)
    const daemon = await start({}, network)
    await until('the undoing', () => !existsSync(lost), 60_000)
    await isAsBefore(kill)
    await daemon.crash()
  }

  // Paused and then called off, and libvirt refuses a few times: the same daemon sees to it.
  const patient = await start({ SNAPSWITCH_TEST_REFUSE: '5', SNAPSWITCH_TEST_NO_BACKGROUND: '1' })
  t.match(await snapshot(patient, 'lost', epoch++), { type: 'failed', error: { code: 'CAPTURE_FAILED' } })
  await isAsBefore('refused a few times')
  await patient.crash()
  const refused = await start({ SNAPSWITCH_TEST_REFUSE: '1000', SNAPSWITCH_TEST_NO_BACKGROUND: '1' })
  const last = await snapshot(refused, 'lost', epoch++)
  t.match(last, {
    type: 'failed',
    error: { code: 'MACHINE_PAUSED', message: /^vm0 stands still/, action: /virsh resume/ },
  })
  t.equal(libvirt.virsh('domstate', 'dom'), 'paused')
  t.ok(existsSync(lost), 'it stays on record')
  await refused.crash()
  const daemon = await start()
  await until('the undoing', () => !existsSync(lost), 60_000)
  await isAsBefore('refused to the end')
  t.match(await snapshot(daemon, 'kept', epoch), { type: 'done' })
  t.equal(await daemon.stop(), 0)
})
