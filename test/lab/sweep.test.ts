// A lab whose owner was killed is removed whole by its guardian, or, should that be killed, too, by the next sweep;
// those of living owners and kept ones are not.

import { spawn } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { pathToFileURL } from 'node:url'
import t from 'tap'
import { fileLimit } from '../patience.js'
import { attempt, until } from './command.js'
import { Lab } from './lab.js'
import { listNamespaces } from './namespaces.js'
import { identify, runs } from './processes.js'
import { labDirectory, sweep } from './record.js'

const plan = { network: 'lab0', hosts: ['a', 'b'], machines: [{ name: 'vm1', host: 'a', job: { ip: '10.77.0.1/24' } }] }
const namespacesOf = async (id: string) => (await listNamespaces()).filter((name) => name.includes(`-${id}-`))

const options = { skip: process.getuid?.() === 0 ? false : 'needs root' }
t.setTimeout(fileLimit(60_000))

t.test('a lab that is destroyed leaves nothing, also the second time', options, async (t) => {
  const lab = await Lab.build(plan)
  t.equal((await namespacesOf(lab.id)).length, 2)
  t.ok(existsSync(lab.machine('vm1').outside.qcow2))
  t.notOk((await sweep()).includes(lab.id), 'a sweep leaves the lab of a living owner alone')
  await lab.destroy()
  await lab.destroy()
  t.same(await namespacesOf(lab.id), [])
  t.notOk(existsSync(lab.directory))
})

/** Mounts that a process sees, at and below the labs' directories. */
const labMounts = (pid: number | 'self') =>
  readFileSync(`/proc/${pid}/mounts`, 'utf8').match(/ \/var\/tmp\/snapswitch-lab\S* /g)

t.test('each host has files of its own at the same paths, and no mount is seen outside', options, async (t) => {
  const lab = await Lab.build(plan)
  t.teardown(() => lab.destroy())
  const [a, b] = [lab.host('a'), lab.host('b')]
  t.equal(a.common, b.common)
  const on = (host: typeof a, ...command: string[]) => attempt(host.enter[0]!, [...host.enter.slice(1), ...command])
  writeFileSync(`${a.root}/file`, 'of a')
  writeFileSync(`${b.root}/file`, 'of b')
  for (const host of [a, b]) {
    t.equal((await on(host, 'cat', host.inside('file'))).stdout, `of ${host.name}`)
    t.equal(host.outside(host.inside('file')), `${host.root}/file`)
    t.same((await on(host, 'ls', '-A', lab.directory)).stdout, 'host\n', 'nothing else of the lab is to be seen')
    t.match((await on(host, 'touch', `${lab.directory}/x`)).stderr, /Read-only/)
    t.match((await on(host, 'ls', '/sys/class/net')).stdout, host.name === 'a' ? 'to-b' : 'to-a')
  }
  t.equal((await attempt('cmp', [a.outside(lab.machine('vm1').files.qcow2), `${b.root}/vm/vm1.qcow2`])).code, 1)
  t.same(lab.touchedStrangers(), [])
  t.same(labMounts('self'), null)

  const running = spawn(a.enter[0]!, [...a.enter.slice(1), 'sleep', '300'], { detached: true, stdio: 'ignore' })
  const id = await until('the process', 5000, () => {
    const found = identify(running.pid!)
    return found !== undefined && labMounts(running.pid!)?.length === 2 ? found : undefined
  })
  await lab.powerOff('a')
  t.notOk(runs(id), 'a power cut ends what runs')
  t.equal(readFileSync(`${a.root}/file`, 'utf8'), 'of a', 'and leaves the files')
  t.notMatch((await attempt('ip', ['-n', a.namespace, 'link'])).stdout, /vm1-tap/, 'but no TAP')
  // The kernel tells a moment later.
  const isDark = async () =>
    /NO-CARRIER/.test((await attempt('ip', ['-n', b.namespace, 'link', 'show', 'to-a'])).stdout)
  await until('the carrier to be gone', 5000, async () => ((await isDark()) ? true : undefined))
  await lab.powerOn('a')
  t.equal((await on(a, 'cat', a.inside('file'))).stdout, 'of a')
  t.match((await attempt('ip', ['-n', b.namespace, 'link', 'show', 'to-a'])).stdout, /LOWER_UP/)
  await lab.loseHost('b')
  t.notOk(existsSync(b.root))
})

/** The process that guards a lab. */
function guardianOf(id: string): number {
  const command = (pid: string) => {
    try {
      return readFileSync(`/proc/${pid}/cmdline`, 'utf8')
    } catch {
      return ''
    }
  }
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name))
  return Number(pids.find((pid) => command(pid).includes(`/guardian\0snaplab-${id}-`)))
}

/** A lab with a process in it and one beside it, whose owner is then killed. */
async function orphanedLab(t: { teardown(end: () => void): void }, withGuardian: boolean) {
  const module = pathToFileURL(join(import.meta.dirname, 'lab.js')).href
  const script = `
    import { Lab } from '${module}'
    import { spawn } from 'node:child_process'
    const lab = await Lab.build(${JSON.stringify(plan)})
    const child = spawn('nsenter', [...lab.host('a').entry, 'sleep', '300'], { detached: true, stdio: 'ignore' })
    const beside = spawn('tail', ['-f', lab.machine('vm1').outside.qcow2], { detached: true, stdio: 'ignore' })
    console.log(JSON.stringify({ id: lab.id, pids: [child.pid, beside.pid] }))
    setInterval(() => undefined, 1000)`
  const owner = spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => owner.kill('SIGKILL'))
  const line = await new Promise<string>((resolve) => createInterface(owner.stdout).once('line', resolve))
  const { id, pids } = JSON.parse(line) as { id: string; pids: number[] }
  const guests = pids.map((pid) => identify(pid)!)
  if (!withGuardian) process.kill(guardianOf(id), 'SIGKILL')
  const ended = new Promise((resolve) => owner.once('exit', resolve))
  owner.kill('SIGKILL')
  await ended
  return { id, guests }
}

t.test('what a killed owner has left goes by itself, processes too', options, async (t) => {
  const { id, guests } = await orphanedLab(t, true)
  await until('the end of all', 20_000, () => (guests.some(runs) || existsSync(labDirectory(id)) ? undefined : true))
  t.same(await namespacesOf(id), [])
})

t.test('a sweep removes it when its guardian was killed, too', options, async (t) => {
  const { id, guests } = await orphanedLab(t, false)
  t.ok(guests.every(runs), 'what the owner started has outlived it')
  t.teardown(() => process.kill(guests[1]!.pid, 'SIGKILL'))
  // Somebody else's sweep may have come first.
  t.ok((await sweep()).includes(id) || !existsSync(labDirectory(id)))
  await until('the end of the process', 5_000, () => (runs(guests[0]!) ? undefined : true))
  t.same(await namespacesOf(id), [])
  t.notOk(existsSync(labDirectory(id)))
})
