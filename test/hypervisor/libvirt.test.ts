// The libvirt driver on a real libvirtd and real domains under TCG.

import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import type { MachineControl } from '../../src/hypervisor/hypervisor.js'
import { createLibvirtHypervisor } from '../../src/hypervisor/libvirt/driver.js'
import { decodeHead } from '../../src/hypervisor/libvirt/save-image.js'
import type { LibvirtDefinition } from '../../src/hypervisor/libvirt/types.js'
import { fileLimit } from '../patience.js'
import { readCounts, readReport, soon, until } from './boot-guest.js'
import { LibvirtDaemon, type TestDomain } from './libvirt-daemon.js'
import { codeOf, fingerprint, isGapless, mergeDisk, scratch, sha256, take } from './machines.js'

t.setTimeout(fileLimit(240_000))
t.jobs = 1

const daemon = await LibvirtDaemon.start()
t.teardown(() => daemon.end())
const hypervisor = createLibvirtHypervisor({ uri: daemon.uri })
const ahead = createLibvirtHypervisor({ uri: daemon.uri, atBest: 'precopy' })
const stopping = createLibvirtHypervisor({ uri: daemon.uri, atBest: 'stopped' })
const attach = (name: string, driver = hypervisor) => driver.attach('vm0', { libvirt: { domain: name } }, soon(10_000))

/** libvirt's view, live and stored, is that the disk is on this file, and that there are no snapshots of its own. */
function viewIs(t: Test, domain: TestDomain, file: string, what: string): void {
  t.same(daemon.disks(domain.name), { vda: file }, `domblklist ${what}`)
  t.same(daemon.disks(domain.name, true), { vda: file }, `stored configuration ${what}`)
  t.equal(daemon.virsh('snapshot-list', domain.name), '', `snapshot-list ${what}`)
}

async function end(machine: MachineControl, domain: TestDomain): Promise<void> {
  await machine.destroy(soon(5000))
  daemon.virsh('undefine', domain.name)
}

t.test('a domain, as it is told', async (t) => {
  const cdrom = `<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='${daemon.directory}/cd.iso'/><target dev='sda' bus='ide'/><readonly/></disk>`
  writeFileSync(path.join(daemon.directory, 'cd.iso'), Buffer.alloc(1 << 16))
  const taps = [`ssw${process.pid}a`, `ssw${process.pid}b`]
  for (const tap of taps) {
    execFileSync('ip', ['tuntap', 'add', tap, 'mode', 'tap', 'vnet_hdr'])
    execFileSync('ip', ['link', 'set', tap, 'up'])
  }
  t.teardown(() => {
    for (const tap of taps) execFileSync('ip', ['link', 'del', tap])
  })
  const domain = await daemon.domain('told', { format: 'raw', taps, devices: cdrom })
  const machine = await attach('told')
  const nics = [
    { device: taps[0], mac: '52:54:00:0a:00:01' },
    { device: taps[1], mac: '52:54:00:0a:00:02' },
  ]
  t.match(await machine.inspect(soon(5000)), {
    name: 'vm0',
    state: 'running',
    memoryBytes: 64 << 20,
    disks: [{ name: 'vda', layers: [{ file: domain.disk, format: 'raw' }], bytes: 1 << 20 }],
    nics,
    captureMode: 'background',
    captureModeReason: null,
    hypervisorVersion: /^\d+\.\d+\.\d+$/,
  })
  t.match(await machine.definition(soon(5000)), {
    kind: 'libvirt',
    name: 'vm0',
    domain: 'told',
    persistent: true,
    nics,
  })
  // NICs the other way round, the CD stays where it is.
  const taken = await take(machine, domain.serial)
  await machine.destroy(soon(5000))
  const loaded = await hypervisor.load(
    {
      ...taken,
      memoryFile: taken.seal.memoryFile,
      disks: taken.seal.disks,
      taps: taps.toReversed(),
      directory: scratch(),
    },
    soon(20_000),
  )
  const found = await loaded.control.inspect(soon(5000))
  t.same(
    found.nics.map(({ device }) => device),
    taps.toReversed(),
  )
  t.equal(daemon.disks('told').sda, `${daemon.directory}/cd.iso`)
  t.same(found.disks[0]!.layers.slice(1), taken.seal.disks[0]!.layers)
  t.same(found.disks[0]!.layers.at(-1), { file: domain.disk, format: 'raw' })
  await loaded.control.resume(soon(5000))
  await daemon.runs(domain)
  t.equal(readReport(domain.serial).complaints, '')
  await end(loaded.control, domain)
})

for (const [mode, driver, rounds] of [
  ['background', hypervisor, 2],
  ['precopy', ahead, 2],
  ['stopped', stopping, 1],
] as const) {
  t.test(`${mode}: a snapshot of a running domain, restored, snapshot again; libvirt's view is true`, async (t) => {
    const domain = await daemon.domain(`cut-${mode}`)
    let machine = await attach(domain.name, driver)
    t.equal((await machine.inspect(soon(5000))).captureMode, mode)
    for (let round = 0; round < rounds; round++) {
      const taken = await take(machine, domain.serial, `round${round}`)
      const { seal } = taken
      t.comment(`STOP to RESUME ${taken.downtimeMs} ms, image ${seal.memoryBytes} bytes`)
      t.equal(seal.memoryDigest, sha256(seal.memoryFile), 'digest')
      t.equal(seal.captureMode, mode)
      t.equal(seal.memoryBytes, statSync(seal.memoryFile).size)
      viewIs(t, domain, seal.disks[0]!.overlay, 'after the snapshot')
      await daemon.runs(domain)
      t.ok(isGapless(readCounts(domain.serial)), 'nothing missed, nothing twice')
      t.equal(daemon.virsh('domstate', domain.name), 'running')
      const frozen = fingerprint([seal.memoryFile, ...seal.disks[0]!.layers.map(({ file }) => file)])
      await machine.destroy(soon(5000))
      // What it said after the cut is of another future: the restored one takes up where the cut was.
      rmSync(domain.serial)
      const directory = scratch('run')
      const { definition } = taken
      const loaded = await driver.load(
        { definition, memoryFile: seal.memoryFile, disks: seal.disks, taps: [], directory },
        soon(20_000),
      )
      machine = loaded.control
      t.equal((await machine.inspect(soon(5000))).state, 'paused')
      t.equal(readReport(domain.serial).count, 0, 'paused until told')
      viewIs(t, domain, path.join(directory, 'vda.qcow2'), 'after the restore')
      await machine.resume(soon(5000))
      await daemon.runs(domain)
      t.equal(readReport(domain.serial).complaints, '', 'memory is of one instant and the disk goes with it')
      const joined = path.join(directory, 'joined')
      writeFileSync(joined, taken.said + readFileSync(domain.serial, 'latin1'))
      t.ok(isGapless(readCounts(joined)), 'goes on from the cut, to the letter')
      t.same(fingerprint(frozen.map((line) => line.split(' ')[0]!)), frozen, 'frozen layers and image untouched')
    }
    await end(machine, domain)
  })

  t.test(`${mode}: what was frozen is merged back when the snapshot is deleted`, async (t) => {
    const domain = await daemon.domain(`merge-${mode}`)
    const machine = await attach(domain.name, driver)
    const first = await take(machine, domain.serial, 'a')
    const second = await take(machine, domain.serial, 'b')
    t.equal(await mergeDisk(machine, first.seal.disks[0]!), false, 'not the active overlay')
    t.equal(await mergeDisk(machine, second.seal.disks[0]!), true)
    viewIs(t, domain, first.seal.disks[0]!.overlay, 'after the delete')
    t.notOk(existsSync(second.seal.disks[0]!.overlay), 'overlay gone')
    if (mode === 'background') {
      for (const { seal } of [first, second]) t.notOk(existsSync(seal.disks[0]!.layers[0]!.file), 'copy gone')
    }
    t.equal(await mergeDisk(machine, first.seal.disks[0]!), true)
    viewIs(t, domain, domain.disk, 'after both are deleted')
    await daemon.runs(domain)
    t.ok(isGapless(readCounts(domain.serial)))
    t.equal(readReport(domain.serial).complaints, '')
    await end(machine, domain)
  })

  t.test(`${mode}: a paused domain stays paused; a transient one is transient again`, async (t) => {
    const domain = await daemon.domain(`paused-${mode}`, { persistent: false })
    let machine = await attach(domain.name, driver)
    daemon.virsh('suspend', domain.name)
    const taken = await take(machine, domain.serial)
    t.equal(daemon.virsh('domstate', domain.name), 'paused')
    const count = readReport(domain.serial).count
    t.equal((taken.definition as LibvirtDefinition).persistent, false)
    await machine.resume(soon(5000))
    await until('the guest to run on', () => readReport(domain.serial).count > count)
    t.ok(isGapless(readCounts(domain.serial)))
    await machine.destroy(soon(5000))
    const { definition, seal } = taken
    const request = { definition, memoryFile: seal.memoryFile, disks: seal.disks, taps: [], directory: scratch('run') }
    machine = (await driver.load(request, soon(20_000))).control
    t.match(daemon.virsh('dominfo', domain.name), /Persistent: +no/)
    await machine.resume(soon(5000))
    await daemon.runs(domain)
    await machine.destroy(soon(5000))
    t.notMatch(daemon.virsh('list', '--all'), domain.name)
  })
}

t.test('virsh restore takes the image of a fast capture', async (t) => {
  const domain = await daemon.domain('saved')
  const machine = await attach('saved')
  const taken = await take(machine, domain.serial)
  await machine.destroy(soon(5000))
  const head = decodeHead(readFileSync(taken.seal.memoryFile))
  t.equal(head?.wasRunning, true)
  t.match(head?.cookie, /^<cookie>\s*<cpu .*<\/cpu>\s*<\/cookie>\s*$/s)
  const [disk] = taken.seal.disks
  t.match(daemon.virsh('save-image-dumpxml', taken.seal.memoryFile), `<source file='${disk!.layers[0]!.file}'/>`)
  rmSync(domain.serial)
  // The image names the disk as it was at the cut.
  daemon.virsh('restore', taken.seal.memoryFile)
  t.equal(daemon.virsh('domstate', 'saved'), 'running')
  await daemon.runs(domain)
  const joined = path.join(daemon.directory, 'joined')
  writeFileSync(joined, taken.said + readFileSync(domain.serial, 'latin1'))
  t.ok(isGapless(readCounts(joined)))
  t.equal(readReport(domain.serial).complaints, '')
  t.same(daemon.disks('saved'), { vda: disk!.layers[0]!.file })
  await end(await attach('saved'), domain)
})

t.test('where disks may not be copied, libvirt’s disk snapshot comes into the pause', async (t) => {
  const domain = await daemon.domain('slow')
  const machine = await attach('slow', createLibvirtHypervisor({ uri: daemon.uri, copyDisks: false }))
  const { seal, downtimeMs } = await take(machine, domain.serial)
  t.comment(`STOP to RESUME ${downtimeMs} ms`)
  const [disk] = seal.disks
  t.match(disk, { layers: [{ file: domain.disk }], copied: undefined })
  viewIs(t, domain, disk!.overlay, 'after the snapshot')
  t.equal(await mergeDisk(machine, disk!), true)
  viewIs(t, domain, domain.disk, 'after the delete')
  await daemon.runs(domain)
  t.ok(isGapless(readCounts(domain.serial)))
  t.equal(readReport(domain.serial).complaints, '')
  await end(machine, domain)
})

t.test('settings of the machine are as before, and libvirt’s own jobs work after', async (t) => {
  const domain = await daemon.domain('tidy')
  const monitor = (command: string) => JSON.parse(daemon.virsh('qemu-monitor-command', 'tidy', command)).return
  const settings = () => ({
    capabilities: monitor('{"execute":"query-migrate-capabilities"}'),
    parameters: monitor('{"execute":"query-migrate-parameters"}'),
  })
  const before = settings()
  const machine = await attach('tidy')
  await take(machine, domain.serial)
  t.same(settings(), before)
  const file = path.join(daemon.directory, 'own.save')
  daemon.virsh('save', 'tidy', file)
  daemon.virsh('restore', file)
  await daemon.runs(domain)
  t.ok(isGapless(readCounts(domain.serial)))
  await end(await attach('tidy'), domain)
  await machine.close()
})

t.test('called off before the cut: as if nothing had been', async (t) => {
  const domain = await daemon.domain('off')
  const machine = await attach('off')
  const directory = scratch()
  await machine.prepare({ directory, label: 'x' }, soon(10_000))
  t.equal(await codeOf(machine.prepare({ directory: scratch(), label: 'y' }, soon(1000))), 'SNAPSHOT_BUSY')
  await machine.abandon()
  t.notOk(existsSync(path.join(directory, 'memory.img')))
  t.notOk(existsSync(path.join(daemon.directory, 'off.x.qcow2')))
  viewIs(t, domain, domain.disk, 'after')
  await daemon.runs(domain)
  t.ok(isGapless(readCounts(domain.serial)))
  t.ok((await take(machine, domain.serial)).seal.memoryBytes > 0, 'and the next one is taken')
  await end(machine, domain)
})

t.test('a domain that is there and running is not loaded over', async (t) => {
  const domain = await daemon.domain('twice')
  const machine = await attach('twice')
  const { definition, seal } = await take(machine, domain.serial)
  const directory = scratch()
  const request = { definition, memoryFile: seal.memoryFile, disks: seal.disks, taps: [], directory }
  t.equal(await codeOf(hypervisor.load(request, soon(10_000))), 'MACHINE_RUNNING')
  await daemon.runs(domain)
  await machine.destroy(soon(5000))
  writeFileSync(path.join(directory, 'broken.img'), readFileSync(seal.memoryFile).subarray(0, 8192))
  const broken = { ...request, memoryFile: path.join(directory, 'broken.img') }
  t.equal(await codeOf(hypervisor.load(broken, soon(10_000))), 'RESTORE_FAILED')
  t.equal(daemon.virsh('domstate', 'twice'), 'shut off')
  t.notOk(existsSync(path.join(directory, 'vda.qcow2')), 'its overlay is gone')
  t.same(daemon.disks('twice', true), { vda: seal.disks[0]!.overlay }, 'its configuration is untouched')
  daemon.virsh('undefine', 'twice')
})

t.test('what a killed daemon had loaded is ended, unless it runs', async (t) => {
  const domain = await daemon.domain('loaded')
  const machine = await attach('loaded')
  const { definition, seal } = await take(machine, domain.serial)
  const directory = scratch()
  const request = { definition, memoryFile: seal.memoryFile, disks: seal.disks, taps: [], directory }
  const endLoad = (mayRun: boolean, from = directory) =>
    hypervisor.endLoad({ directory: from, domain: 'loaded', mayRun }, soon(10_000))
  t.equal(await endLoad(false), true)
  await daemon.runs(domain)
  await machine.destroy(soon(5000))
  t.equal(await endLoad(false), true, 'nothing to end')
  for (const mayRun of [false, true]) {
    const { control } = await hypervisor.load(request, soon(20_000))
    t.equal(await endLoad(mayRun, scratch()), true)
    t.equal(daemon.virsh('domstate', 'loaded'), 'paused', 'one that stands on other disks is not meant')
    t.equal(await endLoad(mayRun), true)
    t.equal(daemon.virsh('domstate', 'loaded'), 'shut off')
    await control.close()
    rmSync(path.join(directory, 'vda.qcow2'))
  }
  const { control } = await hypervisor.load(request, soon(20_000))
  await control.resume(soon(5000))
  t.equal(await endLoad(true), false)
  t.equal(daemon.virsh('domstate', 'loaded'), 'running')
  await end(control, domain)
})
