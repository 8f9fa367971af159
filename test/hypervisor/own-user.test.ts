// A QEMU that runs as a user of its own: a restored one has that user's rights, and no others.

import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { besidePath } from '../../src/hypervisor/qemu/beside.js'
import { createQemuHypervisor } from '../../src/hypervisor/qemu/driver.js'
import type { QemuMachine } from '../../src/hypervisor/qemu/machine.js'
import { asUser, ownUser } from '../../src/hypervisor/qemu/own-user.js'
import { takePlace } from '../../src/hypervisor/qemu/take-place.js'
import { userOf } from '../../src/hypervisor/shared/process.js'
import { fileLimit } from '../patience.js'
import { root } from '../switch/world.js'
import { bootGuest, readReport, soon, until } from './boot-guest.js'
import { bringBack, scratch, take } from './machines.js'

t.setTimeout(fileLimit(60_000))

const uid = 45_077
const user = { uid, gid: uid, groups: [uid + 1, uid + 2] }

t.test('whose it is, and whose it becomes', async (t) => {
  const qemu = ['qemu-system-x86_64', '-m', '64']
  t.equal(ownUser(qemu, { uid: 0, gid: 0, groups: [] }), null)
  t.equal(ownUser(qemu, user), user)
  t.equal(ownUser([...qemu, '-runas', 'nobody'], user), null, 'it gives up its rights by itself')
  t.equal(ownUser([...qemu, '-run-with', 'user=nobody'], user), null)
  t.equal(ownUser([...qemu, '-run-with', 'async-teardown=on'], user), user)
  t.same(asUser(undefined), [])
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
