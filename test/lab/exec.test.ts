// Machines that a user's command drives, real ones: exec-qemu.ts drives a QEMU over its monitor, beside a QEMU that
// snapswitch drives itself. A token ring over TCP goes on only if both machines and all between them do, and counts
// what is lost or doubled.

import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import type { Manifest, SwitchStatus } from '../../src/api/schemas.js'
import { fileLimit } from '../patience.js'
import { attempt, until } from './command.js'
import { Lab } from './lab.js'
import { end, identify } from './processes.js'
import { ringBegins, ringGoesOn, ringOfTwo } from './ring.js'

t.setTimeout(fileLimit(400_000))

const plan = ringOfTwo('10.81.0', 10_000_000)
const script = join(dirname(fileURLToPath(import.meta.url)), 'exec-qemu.js')

/** The same command on each host, at one path, as a restore on another host needs it. */
function makeCommand(lab: Lab, name: string): string {
  const host = lab.host(name)
  const file = host.inside('drive-qemu')
  const text = `#!/bin/sh\nunset NODE_OPTIONS\nexec ${process.execPath} ${script} ${host.inside('vm')} "$@"\n`
  writeFileSync(host.outside(file), text, { mode: 0o755 })
  return file
}

t.test('a command drives a machine', { skip: process.getuid?.() === 0 ? false : 'needs root' }, async (t) => {
  const lab = await Lab.build(plan)
  t.teardown(async () => {
    if (!t.passing()) for (const line of lab.lastWords(25)) t.comment(line)
    await lab.destroy()
  })
  const command = makeCommand(lab, 'a')
  makeCommand(lab, 'b')
  const config = lab.switchConfig('a')
  const startA = () => lab.startSwitch('a', { ...config, machines: { one: { exec: { command } } } })
  await startA()
  await lab.startSwitch('b')
  await lab.startCoordinator()
  await lab.startMachines()
  await ringBegins(lab)
  const vm = (host: string, name: string) => lab.host(host).outside(lab.host(host).inside('vm', name))
  const statusOf = async (host: string) => {
    const { machines } = await lab.snapswitchJson<SwitchStatus>(['status'], host)
    return machines.find(({ name }) => name === 'one')
  }
  const memberOf = async (snapshot: string) => {
    const { parts } = await lab.snapswitchJson<Manifest>(['snapshot', 'show', snapshot])
    return parts.flatMap(({ members }) => members).find((member) => member.vm === 'one')!
  }
  const directories = (host: string) => {
    const root = lab.state(host, 'machines', 'one')
    return existsSync(root) ? readdirSync(root) : []
  }

  await t.test('it is saved while it stands still, killed, and brought back', async (t) => {
    t.match(await statusOf('a'), { qmp: null, exec: { command } })
    t.match(await lab.snapswitchJson(['snapshot', 'create', 'lab0', '--name', 's1']), { state: 'complete' })
    const member = await memberOf('s1')
    t.match(member, { captureMode: 'stopped', disks: [], definition: { kind: 'exec', command } })
    t.same(
      member.files?.map(({ role }) => role),
      ['kernel', 'disk'],
    )
    t.match(await lab.snapswitchJson(['snapshot', 'verify', 's1']), { health: { verdict: 'ok' }, restorable: true })
    await lab.killMachines()
    lab.restartConsoles()
    await lab.snapswitchJson(['snapshot', 'restore', 's1'])
    await ringGoesOn(t, lab)
    const directory = lab.host('a').inside('state', 'machines', 'one', directories('a')[0]!)
    t.match(await statusOf('a'), { exec: { command, machine: 'one', directory } })
  })

  await t.test('it goes to another host with its files, over one that runs', async (t) => {
    lab.restartConsoles({ one: 'b' })
    await lab.snapswitchJson(['snapshot', 'restore', 's1', '--replace', '--place', 'one=b'])
    await ringGoesOn(t, lab)
    t.same((await lab.runningMachines()).map(({ name, host }) => `${name} ${host}`).sort(), ['one b', 'two b'])
    await until('what it was on host a to go', 30_000, () => directories('a').length === 0 || undefined)
  })

  await t.test('in the background, and back home', async (t) => {
    writeFileSync(vm('b', 'one.background'), '')
    t.match(await lab.snapswitchJson(['snapshot', 'create', 'lab0', '--name', 's2']), { state: 'complete' })
    const { captureMode, resumedAtUs, sealedAtUs } = await memberOf('s2')
    t.equal(captureMode, 'background')
    t.ok(resumedAtUs < sealedAtUs)
    lab.restartConsoles({ one: 'a' })
    await lab.snapswitchJson(['snapshot', 'restore', 's2', '--replace', '--place', 'one=a'])
    await ringGoesOn(t, lab)
  })

  await t.test('a command that fails, fails the snapshot; machines run on', async (t) => {
    writeFileSync(vm('a', 'one.fail'), '')
    const [program, ...args] = lab.commandLine(['snapshot', 'create', 'lab0', '--name', 'bad'])
    const { code, stderr } = await attempt(program!, args, 60_000)
    t.equal(code, 1)
    t.match(stderr, /as it was told to/)
    rmSync(vm('a', 'one.fail'))
    lab.restartConsoles()
    await ringGoesOn(t, lab)
  })

  await t.test('a daemon is killed in the middle: the next one ends the command and resumes the machine', async (t) => {
    writeFileSync(vm('a', 'one.hang'), '')
    const [program, ...args] = lab.commandLine(['snapshot', 'create', 'lab0', '--name', 'lost'])
    const creating = attempt(program!, args, 120_000)
    const memory = lab.state('a', 'snapshots', 'lab0', 'lost', 'vms', 'one', 'saved', 'memory.img')
    await until('the capture', 60_000, () => existsSync(memory) || undefined)
    const capture = await until('the command', 10_000, () => findCapture(lab.host('a').inside('vm')))
    await end([lab.daemons.get('a')!.id], 0)
    t.ok(identify(capture), 'the command outlives its daemon')
    rmSync(vm('a', 'one.hang'))
    lab.restartConsoles()
    await startA()
    await until('it to be ended', 30_000, () => identify(capture) === undefined || undefined)
    await ringGoesOn(t, lab)
    t.equal((await creating).code, 1)
    t.notOk(existsSync(memory))
  })

  await t.test('with the snapshots go their files', async (t) => {
    await lab.snapswitchJson(['snapshot', 'delete', 's1'])
    await lab.snapswitchJson(['snapshot', 'delete', 's2'])
    const left = ['a', 'b'].flatMap((host) => readdirSync(lab.state(host, 'snapshots', 'lab0')))
    t.same(left, [])
    t.same(directories('a').length, 1, 'what it runs from stays')
    // Off, it has no file open; where its disk is, its address alone tells.
    await lab.killMachines()
    await lab.snapswitchJson(['snapshot', 'prune', '--orphans'])
    const [directory] = directories('a')
    t.ok(existsSync(lab.state('a', 'machines', 'one', directory!, 'disk.qcow2')), 'and of a machine that is off, too')
    t.same(lab.touchedStrangers(), [])
  })
})

/** The capture's process; `home`: what tells this lab's from others'. */
function findCapture(home: string): number | undefined {
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      const words = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0')
      if ([script, home, 'capture'].every((word) => words.includes(word))) return Number(pid)
    } catch {
      // It has ended meanwhile.
    }
  }
  return undefined
}
