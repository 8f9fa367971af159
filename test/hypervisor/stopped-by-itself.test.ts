// A guest that stops by itself after a snapshot was prepared, before it is paused for its cut: its disk has no room,
// its watchdog stops it, it panics. QEMU must live, nothing may be left, and the guest goes on when it is told to.

import { execFileSync } from 'node:child_process'
import { rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import t, { type Test } from 'tap'
import type { MachineControl } from '../../src/hypervisor/hypervisor.js'
import { createQemuHypervisor } from '../../src/hypervisor/qemu/driver.js'
import { isAlive } from '../../src/hypervisor/shared/process.js'
import { type JsonObject, QmpClient } from '../../src/hypervisor/shared/qmp.js'
import { fileLimit } from '../patience.js'
import { bootGuest, endWithUs, type Guest, makeDisk, readCounts, readReport, sleep, soon, until } from './boot-guest.js'
import { isGapless, list, mergeDisk, scratch, take } from './machines.js'

t.setTimeout(fileLimit(180_000))

const drivers = {
  background: createQemuHypervisor(),
  precopy: createQemuHypervisor({ atBest: 'precopy' }),
  stopped: createQemuHypervisor({ atBest: 'stopped' }),
}

type Tap = Pick<typeof t, 'teardown'>
type User = (command: string, args?: JsonObject) => Promise<unknown>

/** A guest whose disk is the only one on its file system, and the user's own monitor of it. */
async function bootWithUser(t: Tap, extra: readonly string[] = []) {
  const small = scratch('small')
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'none', small])
  t.teardown(() => execFileSync('umount', ['-l', small]))
  const disk = path.join(small, 'disk.qcow2')
  makeDisk(disk, 'qcow2')
  const socket = path.join(small, 'user.sock')
  const drive = () => ['-drive', `file=${disk},format=qcow2,if=virtio,id=disk0`]
  const guest = await bootGuest({ drive, extra: ['-qmp', `unix:${socket},server=on,wait=off`, ...extra] })
  t.teardown(() => guest.end())
  const qmp = await QmpClient.connect(socket, soon(5000))
  t.teardown(() => qmp.close())
  const user: User = (command, args = {}) => qmp.execute(command, args, soon(10_000))
  const status = async () => ((await user('query-status')) as { status: string }).status
  return { small, guest, user, status }
}

type Machine = Awaited<ReturnType<typeof bootWithUser>>

async function comesTo({ status }: Machine, state: string): Promise<void> {
  for (const limit = soon(10_000); (await status()) !== state; await sleep(5))
    if (performance.now() > limit) throw new Error(`it is ${await status()}, not ${state}`)
}

/** How a guest stops; each returns what lets it go on. */
const stops: Readonly<Record<string, (machine: Machine) => Promise<() => void>>> = {
  'io-error': async (machine) => {
    const { small, user } = machine
    // The guest's next write needs room: its cluster is shared from here on.
    await user('stop')
    await user('blockdev-snapshot-internal-sync', { device: 'disk0', name: 'own' })
    const filler = path.join(small, 'filler')
    try {
      writeFileSync(filler, Buffer.alloc(4 << 20))
    } catch {
      // That is the point.
    }
    await user('cont')
    await comesTo(machine, 'io-error')
    return () => rmSync(filler)
  },
  'guest-panicked': async (machine) => {
    await machine.user('human-monitor-command', { 'command-line': 'o /b 0x505 1' })
    await comesTo(machine, 'guest-panicked')
    return () => {}
  },
  watchdog: async (machine) => {
    await machine.user('human-monitor-command', { 'command-line': 'o /b 0x443 15' })
    await comesTo(machine, 'watchdog')
    return () => {}
  },
}

const ways: Readonly<Record<string, (machine: MachineControl) => Promise<string>>> = {
  'before the cut': async (machine) => {
    await machine.pause(soon(5000))
    const capture = machine.capture(soon(20_000))
    const error = await capture.sealed.then(
      () => ({ code: 'none', message: '' }),
      (thrown) => thrown,
    )
    await capture.resumed
    return `${error.code}: ${error.message}`
  },
  'called off': async (machine) => {
    await machine.abandon()
    return ''
  },
  'paused and called off': async (machine) => {
    await machine.pause(soon(5000))
    await machine.abandon()
    return ''
  },
}

async function goesOn(t: Pick<Test, 'equal' | 'ok'>, guest: Guest): Promise<void> {
  const { count } = readReport(guest.serial)
  await until('the guest to go on', () => readReport(guest.serial).count > count + 3)
  t.equal(readReport(guest.serial).complaints, '', 'memory and disk of one piece')
  t.ok(isGapless(readCounts(guest.serial)), 'nothing missed, nothing twice')
}

for (const [how, driver] of Object.entries(drivers))
  t.test(how, async (t) => {
    for (const [state, stop] of Object.entries(stops))
      t.test(state, async (t) => {
        const vm = await bootWithUser(t, [
          '-device',
          'pvpanic,ioport=0x505',
          '-device',
          'ib700',
          '-action',
          'panic=pause,watchdog=pause',
        ])
        const { guest, small, user, status } = vm
        const process = endWithUs(guest.pid)
        const machine = await driver.attach('vm0', { qmp: guest.qmp }, soon(5000))
        for (const [when, act] of Object.entries(ways)) {
          const store = scratch()
          await machine.prepare({ directory: store, label: 's' }, soon(5000))
          const free = await stop(vm)
          const said = await act(machine)
          t.equal(isAlive(process), true, `${when}: QEMU lives`)
          if (when === 'before the cut') t.match(said, /^MACHINE_NOT_RUNNING: .*(io-error|panicked|watchdog)/)
          t.same(list(store), [], 'no image is left')
          // What the undoing has removed may be room enough.
          const still = state === 'io-error' ? /io-error|running/ : /paused|watchdog|panicked/
          t.match(await status(), still, 'it is let be')
          free()
          t.same(list(small), ['disk.qcow2', 'user.sock'], 'no overlay is left')
          await user('cont')
          await goesOn(t, guest)
          if (state === 'io-error')
            await user('blockdev-snapshot-delete-internal-sync', { device: 'disk0', name: 'own' })
        }
        const taken = await take(machine, guest.serial, 'after')
        t.equal(await mergeDisk(machine, taken.seal.disks[0]!), true)
        await machine.close()
      })
  })
