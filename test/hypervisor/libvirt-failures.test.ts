// The libvirt driver when things go wrong: libvirtd away, started again or killed in the middle, the libvirt process or
// the domain killed. Every time the snapshot ends `sealed` or failed, the domain is as it was or runs on, nothing is
// stuck.

import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import type { SnapswitchError } from '../../src/errors/errors.js'
import type { Capture, SealInfo } from '../../src/hypervisor/hypervisor.js'
import { DomainLink } from '../../src/hypervisor/libvirt/domain-link.js'
import { createLibvirtHypervisor } from '../../src/hypervisor/libvirt/driver.js'
import { makeOverlay, takeBack } from '../../src/hypervisor/libvirt/overlays.js'
import { LibvirtProcess } from '../../src/hypervisor/libvirt/process-handle.js'
import { fileLimit } from '../patience.js'
import { readCounts, readReport, soon, tooSoon, until } from './boot-guest.js'
import { LibvirtDaemon, type TestDomain } from './libvirt-daemon.js'
import { chainOf, codeOf, isGapless, mergeDisk, scratch, take } from './machines.js'

t.setTimeout(fileLimit(280_000))

const daemon = await LibvirtDaemon.start()
t.teardown(() => daemon.end())
const hypervisor = createLibvirtHypervisor({ uri: daemon.uri })
const attach = (name: string) => hypervisor.attach('vm0', { libvirt: { domain: name } }, soon(10_000))

const outcomeOf = (capture: Capture): Promise<SealInfo | SnapswitchError> =>
  capture.sealed.catch((error: SnapswitchError) => error)

/** Nothing of a failed capture is left: no image, no overlay, no setting, and libvirt's view is the old one. */
async function isAsBefore(t: Test, domain: TestDomain, store: string): Promise<void> {
  t.same(readdirSync(store), [], 'no image')
  t.same(daemon.disks(domain.name), { vda: domain.disk }, 'domblklist')
  t.same(daemon.disks(domain.name, true), { vda: domain.disk }, 'stored configuration')
  const overlays = readdirSync(daemon.directory).filter((file) => /\.s\d?\.qcow2$/.test(file))
  t.same(overlays, [], 'no overlay')
}

async function runsOn(t: Test, domain: TestDomain): Promise<void> {
  await daemon.runs(domain)
  t.equal(daemon.virsh('domstate', domain.name), 'running')
  t.ok(isGapless(readCounts(domain.serial)), 'nothing missed, nothing twice')
  t.equal(readReport(domain.serial).complaints, '')
}

t.test('a domain that is not there, not running, or has never run', async (t) => {
  t.equal(await codeOf(attach('nobody')), 'MACHINE_UNKNOWN')
  const domain = await daemon.domain('still', { start: false })
  t.equal(await codeOf(attach('still')), 'MACHINE_NOT_RUNNING')
  daemon.virsh('start', '--paused', 'still')
  const machine = await attach('still')
  t.equal(await codeOf(machine.prepare({ directory: scratch(), label: 's' }, soon(5000))), 'MACHINE_NOT_RUNNING')
  await machine.destroy(soon(5000))
  await machine.destroy(soon(5000)).catch((error: SnapswitchError) => t.equal(error.code, 'HYPERVISOR_UNREACHABLE'))
  daemon.virsh('undefine', domain.name)
})

t.test('no libvirtd, or none at that address', async (t) => {
  const nowhere = createLibvirtHypervisor({ uri: `qemu+unix:///system?socket=${daemon.directory}/run/nothing` })
  const error: SnapswitchError = await nowhere.attach('vm0', { libvirt: { domain: 'x' } }, soon(5000)).then(
    () => t.fail('attached') as never,
    (thrown) => thrown,
  )
  t.equal(error.code, 'HYPERVISOR_UNREACHABLE')
  t.match(error.message, /run\/nothing/)
  t.match(error.action, /systemctl start libvirtd/)
})

t.test('libvirtd that does not answer: the deadline holds', async (t) => {
  const domain = await daemon.domain('hung')
  const machine = await attach('hung')
  process.kill(daemon.pid, 'SIGSTOP')
  t.equal(await codeOf(machine.inspect(tooSoon(700))), 'DEADLINE')
  t.equal(await codeOf(hypervisor.attach('vm0', { libvirt: { domain: 'hung' } }, tooSoon(700))), 'DEADLINE')
  process.kill(daemon.pid, 'SIGCONT')
  await until('an answer', () => daemon.virsh('domstate', 'hung') === 'running')
  t.equal((await machine.inspect(soon(10_000))).state, 'running', 'and is used again')
  const descriptors = () => readdirSync(`/proc/${hypervisor.pid}/fd`).length
  const before = descriptors()
  for (let i = 0; i < 3; i++) await (await attach('hung')).close()
  await until('the connections to go', () => descriptors() <= before)
  await machine.destroy(soon(5000))
  daemon.virsh('undefine', domain.name)
})

// As of a plain QEMU: stopped-by-itself.test.ts.
for (const atBest of ['background', 'precopy', 'stopped'] as const)
  t.test(`a domain that its watchdog stops before its cut: ${atBest}`, async (t) => {
    const name = `watched-${atBest}`
    const domain = await daemon.domain(name, { devices: "<watchdog model='ib700' action='pause'/>" })
    const driver = createLibvirtHypervisor({ uri: daemon.uri, atBest })
    const machine = await driver.attach('vm0', { libvirt: { domain: name } }, soon(10_000))
    for (const way of ['cut', 'called off', 'paused and called off']) {
      const store = scratch()
      await machine.prepare({ directory: store, label: 's' }, soon(10_000))
      daemon.virsh('qemu-monitor-command', name, '--hmp', 'o /b 0x443 15')
      await until('its watchdog', () => daemon.virsh('domstate', name) === 'paused')
      if (way !== 'called off') await machine.pause(soon(10_000))
      if (way === 'cut') {
        const capture = machine.capture(soon(30_000))
        t.match(await outcomeOf(capture), { code: 'MACHINE_NOT_RUNNING', message: /watchdog/ })
        await capture.resumed
      } else await machine.abandon()
      await isAsBefore(t, domain, store)
      t.equal(daemon.virsh('domstate', name), 'paused', `${way}: it is let be`)
      daemon.virsh('resume', name)
      await runsOn(t, domain)
    }
    await take(machine, domain.serial, 'next')
    await machine.destroy(soon(5000))
    daemon.virsh('undefine', domain.name)
  })

t.test('a merge that a killed daemon has left under way comes to its end', async (t) => {
  const domain = await daemon.domain('merging')
  const machine = await attach('merging')
  const { seal } = await take(machine, domain.serial)
  const { overlay, layers } = seal.disks[0]!
  const base = layers.at(-1)!.file
  // As the driver begins it. It copies all that there is, and then waits to be told to end.
  daemon.virsh('blockcommit', 'merging', 'vda', '--active', '--base', base)
  t.match((await machine.inspect(soon(10_000))).unsupported, [{ name: 'vda', reason: /copied or merged/ }])
  await machine.checkCollapse('vda', base, soon(10_000))
  const left = await machine.collapse('vda', base, soon(30_000))
  t.ok(left.includes(overlay))
  for (const file of left) rmSync(file)
  t.same(daemon.disks('merging'), { vda: base })
  t.equal(daemon.virsh('blockjob', 'merging', 'vda'), '', 'nothing is left under way')
  await runsOn(t, domain)
  await take(machine, domain.serial, 'next')
  await machine.destroy(soon(5000))
  daemon.virsh('undefine', domain.name)
})

// Other moments, and all that stands around a driver: test/switch/libvirtd-restarted.test.ts.
for (const [signal, moment] of [
  ['SIGTERM', 'paused'],
  ['SIGKILL', 'capturing'],
] as const) {
  t.test(`libvirtd ends by ${signal} when ${moment}, and is started again`, async (t) => {
    const domain = await daemon.domain('restart', { memoryMiB: 256 })
    const machine = await attach('restart')
    const store = scratch()
    await machine.prepare({ directory: store, label: 's' }, soon(10_000))
    const restart = async () => {
      await daemon.stop(signal)
      await daemon.launch()
    }
    await machine.pause(soon(10_000))
    if (moment === 'paused') await restart()
    const outcome = outcomeOf(machine.capture(soon(30_000)))
    if (moment === 'capturing') await restart()
    const sealed = await outcome
    t.comment(sealed instanceof Error ? `${sealed.code}: ${sealed.message}` : 'sealed')
    if (sealed instanceof Error) await isAsBefore(t, domain, store)
    else {
      t.ok(existsSync(sealed.memoryFile))
      t.same(daemon.disks('restart'), { vda: sealed.disks[0]!.overlay }, 'domblklist')
      t.same(daemon.disks('restart', true), { vda: sealed.disks[0]!.overlay }, 'stored configuration')
    }
    await runsOn(t, domain)
    // Not stuck: the next one is taken.
    const next = await take(machine, domain.serial, 'next')
    t.equal(chainOf(next.seal.disks[0]!.overlay).at(-1), domain.disk)
    await runsOn(t, domain)
    await machine.destroy(soon(5000))
    daemon.virsh('undefine', 'restart')
    for (const file of readdirSync(daemon.directory)) {
      if (/^(restart|vm0-)/.test(file)) rmSync(path.join(daemon.directory, file))
    }
  })
}

t.test(
  'QEMU takes no descriptor, as under a security driver: its memory is saved with the guest stopped',
  async (t) => {
    const domain = await daemon.domain('confined')
    const [qemu] = daemon.machines()
    // What it would receive has no room then, and is lost on the way, as a refused one is.
    const pid = String(qemu!.pid)
    const limit = execFileSync('prlimit', ['--pid', pid, '--nofile', '--noheadings', '-o', 'SOFT,HARD'], {
      encoding: 'utf8',
    })
    execFileSync('prlimit', ['--pid', pid, '--nofile=3:'])
    const machine = await attach('confined')
    t.match(await machine.inspect(soon(5000)), {
      captureMode: 'stopped',
      captureModeReason: /may not take a descriptor/,
    })
    execFileSync('prlimit', ['--pid', pid, `--nofile=${limit.trim().split(/\s+/).join(':')}`])
    const { seal } = await take(machine, domain.serial)
    t.notOk(seal.disks[0]!.copied)
    t.ok(await mergeDisk(machine, seal.disks[0]!))
    await runsOn(t, domain)
    await machine.destroy(soon(5000))
    daemon.virsh('undefine', domain.name)
  },
)

t.test('overlays that QEMU has and libvirt does not know of', async (t) => {
  const domain = await daemon.domain('forgot')
  const libvirt = new LibvirtProcess()
  t.teardown(() => libvirt.end())
  const link = await DomainLink.open(libvirt, daemon.uri, 'forgot', soon(10_000))
  const layers = [{ file: domain.disk, format: 'qcow2' as const }]
  for (const isInUse of [false, true]) {
    // What libvirt does in a snapshot, but for writing it down (libvirt-1 is the disk).
    const overlay = await makeOverlay(link, { target: 'vda', layers }, { label: 's', machine: 'forgot' }, soon(5000))
    const file = { driver: 'file', 'node-name': 'libvirt-2-storage', filename: overlay.file }
    await link.execute('blockdev-add', file, soon(5000))
    const format = { driver: 'qcow2', 'node-name': 'libvirt-2-format', file: 'libvirt-2-storage', backing: null }
    await link.execute('blockdev-add', format, soon(5000))
    const nodes = { node: 'libvirt-1-format', overlay: 'libvirt-2-format' }
    if (isInUse) await link.execute('blockdev-snapshot', nodes, soon(5000))
    await runsOn(t, domain)
    await takeBack(link, [overlay], true, soon(10_000))
    await isAsBefore(t, domain, scratch())
    await runsOn(t, domain)
  }
  link.close()
  const machine = await attach('forgot')
  await take(machine, domain.serial)
  await machine.destroy(soon(5000))
  daemon.virsh('undefine', domain.name)
})

t.test('the libvirt process is killed in the middle', async (t) => {
  const domain = await daemon.domain('fault')
  const machine = await attach('fault')
  for (const moment of ['prepared', 'paused', 'capturing', 'resumed'] as const) {
    const store = scratch()
    await machine.prepare({ directory: store, label: 's' }, soon(10_000))
    const kill = () => process.kill(hypervisor.pid!, 'SIGKILL')
    if (moment === 'prepared') kill()
    const paused = await codeOf(machine.pause(soon(10_000)))
    if (paused !== 'none') {
      t.equal(paused, 'HYPERVISOR_UNREACHABLE')
      await machine.abandon()
    } else {
      if (moment === 'paused') kill()
      const capture = machine.capture(soon(30_000))
      const outcome = outcomeOf(capture)
      if (moment === 'resumed') await capture.resumed
      if (moment === 'capturing' || moment === 'resumed') kill()
      const sealed = await outcome
      t.comment(`${moment}: ${sealed instanceof Error ? `${sealed.code}: ${sealed.message}` : 'sealed'}`)
      if (!(sealed instanceof Error)) t.ok(await mergeDisk(machine, sealed.disks[0]!))
      else t.same(readdirSync(store), [], 'no image')
    }
    t.same(daemon.disks('fault'), { vda: domain.disk })
    await runsOn(t, domain)
  }
  await machine.destroy(soon(5000))
  daemon.virsh('undefine', 'fault')
})

t.test('the domain is killed in the middle', async (t) => {
  for (const moment of ['prepared', 'paused', 'resumed'] as const) {
    const domain = await daemon.domain('dies')
    const machine = await attach('dies')
    const store = scratch()
    const [qemu] = daemon.machines()
    await machine.prepare({ directory: store, label: 's' }, soon(10_000))
    if (moment === 'prepared') {
      process.kill(qemu!.pid, 'SIGKILL')
      t.match(await codeOf(machine.pause(soon(5000))), /MACHINE_NOT_RUNNING|HYPERVISOR_REFUSED/)
      await machine.abandon()
    } else {
      await machine.pause(soon(5000))
      if (moment === 'paused') process.kill(qemu!.pid, 'SIGKILL')
      const capture = machine.capture(soon(20_000))
      const outcome = outcomeOf(capture)
      if (moment === 'resumed') {
        await capture.resumed
        process.kill(qemu!.pid, 'SIGKILL')
      }
      const failed = await outcome
      // On a small guest the image may have been complete already.
      if (failed instanceof Error) t.match(failed.code, /MACHINE_NOT_RUNNING|CAPTURE_FAILED|HYPERVISOR_/)
      t.comment(`${moment}: ${failed instanceof Error ? `${failed.code}: ${failed.message}` : 'sealed'}`)
      if (!(failed instanceof Error)) {
        t.same(daemon.disks('dies', true), { vda: failed.disks[0]!.overlay })
        await machine.close()
        daemon.virsh('undefine', 'dies')
        continue
      }
    }
    await until('libvirt to notice', () => daemon.virsh('domstate', 'dies') === 'shut off')
    t.same(daemon.disks('dies', true), { vda: domain.disk }, 'starts from its disk again')
    t.same(readdirSync(store), [])
    t.notOk(readFileSync(domain.serial, 'latin1').includes('E'))
    daemon.virsh('start', 'dies')
    await daemon.runs(domain)
    daemon.virsh('destroy', 'dies')
    daemon.virsh('undefine', 'dies')
    await machine.close()
  }
})

t.test('the image’s disk is full, or is gone', async (t) => {
  const domain = await daemon.domain('full')
  const machine = await attach('full')
  t.equal(await codeOf(machine.prepare({ directory: '/proc/nowhere', label: 's' }, soon(5000))), 'STORE_IO')
  t.same(daemon.disks('full'), { vda: domain.disk })
  await runsOn(t, domain)
  // Memory that is sent ahead fills it before the cut.
  const small = scratch('small')
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=256k', 'none', small])
  t.teardown(() => execFileSync('umount', ['-l', small]))
  await machine.close()
  const ahead = await createLibvirtHypervisor({ uri: daemon.uri, atBest: 'precopy' }).attach(
    'vm0',
    { libvirt: { domain: 'full' } },
    soon(10_000),
  )
  t.equal(await codeOf(ahead.prepare({ directory: small, label: 'full' }, soon(10_000))), 'STORE_FULL')
  t.same(readdirSync(small), [])
  t.same(daemon.disks('full'), { vda: domain.disk })
  t.notMatch(readdirSync(daemon.directory).join(), /\.full/, 'no overlay')
  await runsOn(t, domain)
  await ahead.destroy(soon(5000))
  daemon.virsh('undefine', 'full')
})
