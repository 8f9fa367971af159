// Domains as a distribution runs them: QEMU under a user of its own. Where that may not use userfaultfd (Debian 12),
// most of their memory is sent ahead of the cut. What libvirt and snapswitch make has to be in that user's reach.

import { chmodSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import type { SnapswitchError } from '../../src/errors/errors.js'
import { createLibvirtHypervisor } from '../../src/hypervisor/libvirt/driver.js'
import { probeLibvirt } from '../../src/hypervisor/libvirt/probe.js'
import { fileLimit } from '../patience.js'
import { readCounts, readReport, soon } from './boot-guest.js'
import { LibvirtDaemon } from './libvirt-daemon.js'
import { isGapless, scratch, take } from './machines.js'

t.setTimeout(fileLimit(120_000))

const daemon = await LibvirtDaemon.start('nobody')
t.teardown(() => daemon.end())
const hypervisor = createLibvirtHypervisor({ uri: daemon.uri })
const everyUser = readFileSync('/proc/sys/vm/unprivileged_userfaultfd', 'latin1').trim() === '1'
const libvirtMajor = Number(/library: libvirt (\d+)/.exec(daemon.virsh('version'))?.[1])
const allowed = everyUser || libvirtMajor >= 11
const mode = allowed ? 'background' : 'precopy'

t.test(`a snapshot (${mode}), restored where QEMU’s user gets to, refused where it does not`, async (t) => {
  const domain = await daemon.domain('user')
  const machine = await hypervisor.attach('vm0', { libvirt: { domain: 'user' } }, soon(10_000))
  const info = await machine.inspect(soon(5000))
  t.equal(info.captureMode, mode)
  if (!allowed) t.match(info.captureModeReason, /unprivileged_userfaultfd/)
  const { definition, seal, said } = await take(machine, domain.serial)
  t.equal(seal.captureMode, mode)
  await daemon.runs(domain)
  t.ok(isGapless(readCounts(domain.serial)))
  await machine.destroy(soon(5000))
  writeFileSync(domain.serial, '')
  const closed = scratch('closed')
  const request = { definition, memoryFile: seal.memoryFile, disks: seal.disks, taps: [], directory: closed }
  const error: SnapswitchError = await hypervisor.load(request, soon(20_000)).then(
    () => t.fail('loaded') as never,
    (thrown) => thrown,
  )
  t.equal(error.code, 'RESTORE_FAILED')
  t.match(error.message, /Permission denied/)
  const directory = scratch('open')
  chmodSync(directory, 0o711)
  const { control } = await hypervisor.load({ ...request, directory }, soon(20_000))
  await control.resume(soon(5000))
  await daemon.runs(domain)
  const joined = path.join(directory, 'joined')
  writeFileSync(joined, said + readFileSync(domain.serial, 'latin1'))
  t.ok(isGapless(readCounts(joined)), 'goes on from the cut')
  t.equal(readReport(domain.serial).complaints, '')
  await control.destroy(soon(5000))
})

t.test('what doctor is told', async (t) => {
  const { libvirt, background, confinement } = await probeLibvirt(
    daemon.uri,
    path.join(daemon.directory, 'etc', 'qemu.conf'),
  )
  t.match(libvirt, { ok: true, detail: /^libvirt \d+\.\d+\.\d+ with QEMU \d+/, cost: null })
  t.equal(background?.ok, allowed)
  t.match(
    background?.detail,
    everyUser ? /every user/ : allowed ? /userfaultfd/ : /user 65534 and may not use userfaultfd/,
  )
  const confined = /<model>(apparmor|selinux)</.test(daemon.virsh('capabilities'))
  t.equal(confinement?.ok, !confined)
  const nowhere = await probeLibvirt(`qemu+unix:///system?socket=${daemon.directory}/run/nothing`)
  t.match(nowhere, { libvirt: { ok: false, cost: /systemctl start libvirtd/ }, background: null, confinement: null })
})

t.test('doctor, with QEMU as root', async (t) => {
  const root = await LibvirtDaemon.start('root')
  t.teardown(() => root.end())
  const { background } = await probeLibvirt(root.uri, path.join(root.directory, 'etc', 'qemu.conf'))
  t.match(background, { ok: true, cost: null })
  const without = await probeLibvirt(root.uri, '/nonexistent')
  t.equal(without.background?.ok, allowed)
})
