// A QEMU that runs as a user of its own: a restored one has that user's rights, and no others.

import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  chownSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { asSnapswitchError } from '../../src/errors/errors.js'
import { besidePath } from '../../src/hypervisor/qemu/beside.js'
import { createQemuHypervisor } from '../../src/hypervisor/qemu/driver.js'
import type { QemuMachine } from '../../src/hypervisor/qemu/machine.js'
import { checkRunsAsRoot, ownUser, withoutUser } from '../../src/hypervisor/qemu/own-user.js'
import { takePlace } from '../../src/hypervisor/qemu/take-place.js'
import type { QemuDefinition } from '../../src/hypervisor/qemu/types.js'
import { asUser } from '../../src/hypervisor/shared/as-user.js'
import { qemuBinary } from '../../src/hypervisor/shared/probe.js'
import { argumentsOf, userOf } from '../../src/hypervisor/shared/process.js'
import { joinArguments, splitArguments } from '../../src/hypervisor/shared/qemu-options.js'
import { fileLimit } from '../patience.js'
import { root } from '../switch/world.js'
import { bootGuest, readReport, soon, until } from './boot-guest.js'
import { bringBack, scratch, take } from './machines.js'

t.setTimeout(fileLimit(60_000))

const uid = 45_077
const user = { uid, gid: uid, groups: [uid + 1, uid + 2] }

t.test('whose it is', async (t) => {
  t.equal(ownUser('vm0', { uid: 0, gid: 0, groups: [] }, 0), null)
  t.equal(ownUser('vm0', user, uid), user)
  t.equal(ownUser('vm0', user, 0), user, 'root’s before: it has given its rights up')
  // Who has made the socket can leave its pid to a program that is root’s, with a command line of his.
  t.throws(() => ownUser('vm0', { uid: 0, gid: 0, groups: [] }, uid), { code: 'MACHINE_UNSUPPORTED' })
  t.throws(() => ownUser('vm0', { ...user, uid: uid + 1 }, uid), { code: 'MACHINE_UNSUPPORTED' })
  t.same(asUser(undefined), [])
})

t.test('what its command line says of a user', async (t) => {
  const argv = 'qemu -m 64 -runas nobody -run-with user=nobody -run-with async-teardown=on,user=1:1 --runas 0:0 -S'
  const left = withoutUser(splitArguments(argv.split(' ')))
  t.same(joinArguments('qemu', left).join(' '), 'qemu -m 64 -run-with async-teardown=on -S')
})

t.test('what root is not to run', root, async (t) => {
  const directory = scratch('programs')
  const program = path.join(directory, 'qemu-system-x86_64')
  copyFileSync('/bin/true', program)
  chownSync(program, uid, uid)
  const safe = realpathSync('/bin/true')
  const definition = { kind: 'qemu' as const, name: 'vm0', memoryBytes: 0, nics: [], argv: ['qemu', '-m', '64'] }
  const refusal = (more: Partial<QemuDefinition>) => {
    try {
      checkRunsAsRoot({ ...definition, hypervisorVersion: '7.2', ...more })
      return null
    } catch (error) {
      return asSnapswitchError(error).code
    }
  }
  t.equal(refusal({ binary: program }), 'PERMISSION', 'a user’s program, in a record that names no user')
  t.equal(refusal({ argv: [program] }), 'PERMISSION')
  t.equal(refusal({ binary: program, user }), null, 'it runs as that user')
  t.equal(refusal({ binary: program, ofRoot: true }), null, 'root ran it')
  t.equal(refusal({ binary: safe }), null)
  t.equal(refusal({}), null)
  for (const becomes of [
    ['-runas', 'nobody'],
    ['-run-with', 'user=nobody'],
  ])
    t.equal(refusal({ binary: safe, argv: ['qemu', ...becomes] }), 'PERMISSION', 'anybody can say so')
  t.equal(refusal({ binary: safe, argv: ['qemu', '-run-with', 'async-teardown=on'] }), null)
})

t.test('a snapshot, restored twice', root, async (t) => {
  const hypervisor = createQemuHypervisor()
  const guest = await bootGuest({ through: { command: asUser(user), uid } })
  t.teardown(() => guest.end())
  // As the state directory is: others may pass.
  const state = scratch('state')
  chmodSync(state, 0o711)
  let machine = await hypervisor.attach('vm0', { qmp: guest.qmp }, soon(2000))
  for (const nth of [1, 2]) {
    const taken = await take(machine, guest.serial, `s${nth}`)
    t.match(taken.definition, { user })
    const { pid } = (machine as QemuMachine).process!
    await machine.destroy(soon(5000))
    await machine.close()
    const directory = path.join(state, `e${nth}`)
    mkdirSync(directory, { mode: 0o711 })
    machine = (await bringBack(hypervisor, taken, directory)).control
    const restored = (machine as QemuMachine).process!.pid
    t.not(restored, pid)
    t.same(userOf(restored), user)
    t.equal(statSync(path.join(directory, 'disk0.qcow2')).uid, uid)
    const before = readReport(guest.serial)
    await machine.resume(soon(5000))
    await until('the guest to go on', () => readReport(guest.serial).count > before.count + 1)
    t.equal(readReport(guest.serial).complaints, '')
  }
  await machine.destroy(soon(5000))
  await machine.close()
})

t.test('a user who puts another file under the name of a new overlay', root, async (t) => {
  const guest = await bootGuest({ through: { command: asUser(user), uid } })
  t.teardown(() => guest.end())
  const roots = path.join(scratch('roots'), 'file')
  writeFileSync(roots, 'root’s own', { mode: 0o600 })
  const machine = await createQemuHypervisor().attach('vm0', { qmp: guest.qmp }, soon(2000))
  let overlay = ''
  const replacing = setInterval(() => {
    if (overlay === '' || !existsSync(overlay)) return
    clearInterval(replacing)
    rmSync(overlay)
    symlinkSync(roots, overlay)
  }, 1)
  t.teardown(() => clearInterval(replacing))
  const creating = async (file: string) => {
    overlay = file
  }
  await machine.prepare({ directory: scratch('image'), label: 's1', creating }, soon(10_000)).then(
    () => t.comment('QEMU has opened it'),
    (error: Error) => t.comment(error.message),
  )
  await machine.abandon()
  t.equal(readFileSync(roots, 'utf8'), 'root’s own')
  t.match(statSync(roots), { uid: 0, mode: 0o100600 })
  const { count } = readReport(guest.serial)
  await until('the guest to go on', () => readReport(guest.serial).count > count + 1)
  await machine.close()
})

t.test('a machine’s sockets take their names with the rights of its user', root, async (t) => {
  const [state, home, roots] = [scratch('state'), scratch('home'), scratch('roots')]
  for (const directory of [state, home]) {
    chmodSync(directory, 0o711)
    chownSync(directory, uid, uid)
  }
  const near = path.join(home, 'monitor')
  const far = path.join(roots, 'monitor')
  for (const file of [near, far]) {
    const own = besidePath(file, state)
    writeFileSync(own, 'its own')
    chownSync(own, uid, uid)
    const argv = ['qemu', '-monitor', `unix:${file},server=on,wait=off`]
    const definition = {
      kind: 'qemu',
      name: 'vm0',
      argv,
      memoryBytes: 1,
      nics: [],
      hypervisorVersion: '7.2.0',
    } as const
    if (file === near) await takePlace(definition, state, user)
    else await t.rejects(takePlace(definition, state, user), { code: 'STORE_IO' }, 'a directory of root')
  }
  t.equal(readFileSync(near, 'utf8'), 'its own')
  t.same(readdirSync(roots), [])
})

t.test('root’s, which gives its rights up: it never has them again', root, async (t) => {
  const hypervisor = createQemuHypervisor()
  const home = scratch('guest')
  // What it opened as root it must be let open.
  writeFileSync(path.join(home, 'serial'), '')
  chownSync(path.join(home, 'serial'), uid, uid)
  const hasRunas = /^-runas /m.test(execFileSync(qemuBinary(), ['-help'], { encoding: 'utf8' }))
  // QEMU 10 knows the other one only.
  const extra = hasRunas ? ['-runas', `${uid}:${uid}`] : ['-run-with', `user=${uid}:${uid}`]
  const guest = await bootGuest({ directory: home, through: { command: [], uid }, extra })
  t.teardown(() => guest.end())
  const first = await hypervisor.attach('vm0', { qmp: guest.qmp }, soon(2000))
  const taken = await take(first, guest.serial)
  t.match(taken.definition, { user: { uid, gid: uid }, ofRoot: undefined })
  await first.destroy(soon(5000))
  await first.close()
  const directory = scratch('restored')
  chmodSync(directory, 0o711)
  const { control } = await bringBack(hypervisor, taken, directory)
  const { pid } = (control as QemuMachine).process!
  t.equal(userOf(pid).uid, uid)
  t.notOk(argumentsOf(pid).includes(extra[1]!))
  t.equal(statSync(path.join(directory, 'qmp.sock')).uid, uid, 'from its start on')
  await control.destroy(soon(5000))
  await control.close()
})

t.test('a user’s program is not tried as root', root, async (t) => {
  const home = scratch('guest')
  const program = path.join(home, 'qemu-system-x86_64')
  const ran = path.join(home, 'ran')
  writeFileSync(program, `#!/bin/sh\nid -u >${ran}\n`, { mode: 0o755 })
  chownSync(program, uid, uid)
  const hypervisor = createQemuHypervisor()
  const definition = {
    ...{ kind: 'qemu' as const, name: 'vm0', memoryBytes: 0, nics: [], argv: [program], binary: program },
    hypervisorVersion: '7.2',
  }
  const request = { memoryFile: '/dev/null', disks: [], taps: [], rehearsal: true }
  for (const more of [{ user }, {}]) {
    const directory = scratch('rehearsal')
    const loading = hypervisor.load({ ...request, definition: { ...definition, ...more }, directory }, soon(5000))
    await t.rejects(loading, { code: 'PERMISSION' })
    t.notOk(existsSync(ran))
  }
})
