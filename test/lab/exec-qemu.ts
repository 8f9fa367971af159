// A user's command for the `exec` driver (docs/reference/exec-driver.md) that drives a QEMU over its monitor, with
// nothing of snapswitch in it. Called as `exec-qemu.js HOME ACTION MACHINE`: in HOME lie MACHINE.qmp, the monitor of a
// QEMU that somebody has started, and MACHINE.now, the directory of the load that has taken its place; MACHINE.hang and
// MACHINE.fail plant faults in a capture.

import { spawn } from 'node:child_process'
import {
  copyFileSync,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { createConnection, type Socket } from 'node:net'
import { join } from 'node:path'

const [home, action, machine] = process.argv.slice(2) as [string, string, string]
const { env } = process
const of = (kind: string) => join(home, `${machine}.${kind}`)
const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms))

/** Where the machine came from: the load's directory; null: somebody has started it. */
const loadedIn = (): string | null => (existsSync(of('now')) ? readFileSync(of('now'), 'utf8') : null)
const monitor = () => {
  const directory = loadedIn()
  return directory === null ? of('qmp') : join(directory, 'qmp.sock')
}

class Monitor {
  readonly #socket: Socket
  #text = ''
  #messages: { event?: string; error?: { desc: string }; return?: unknown }[] = []
  #wake: () => void = () => {}

  private constructor(socket: Socket) {
    this.#socket = socket
    socket.on('data', (chunk) => {
      const lines = (this.#text + chunk.toString()).split('\n')
      this.#text = lines.pop()!
      this.#messages.push(...lines.filter((line) => line.trim() !== '').map((line) => JSON.parse(line)))
      this.#wake()
    })
  }

  /** Null: nobody is there. */
  static async open(): Promise<Monitor | null> {
    const socket = createConnection(monitor())
    const there = await new Promise((resolve) =>
      socket.once('connect', () => resolve(true)).once('error', () => resolve(false)),
    )
    if (there === false) return null
    const opened = new Monitor(socket)
    await opened.until((message) => 'QMP' in message)
    await opened.run('qmp_capabilities')
    return opened
  }

  async until(fits: (message: object) => boolean) {
    for (;;) {
      const at = this.#messages.findIndex(fits)
      if (at >= 0) return this.#messages.splice(at, 1)[0]!
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
  }

  async run<T = unknown>(execute: string, args: object = {}): Promise<T> {
    this.#socket.write(`${JSON.stringify({ execute, arguments: args })}\n`)
    const answer = await this.until((message) => 'return' in message || 'error' in message)
    if (answer.error !== undefined) throw new Error(`${execute}: ${answer.error.desc}`)
    return answer.return as T
  }

  end(): void {
    this.#socket.destroy()
  }
}

const argumentsOf = (pid: number | string) => readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').slice(0, -1)

function pidOf(): number | null {
  const wanted = `unix:${monitor()},server=on,wait=off`
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      // A lab's hosts have the same names for their own files.
      const isHere = readlinkSync(`/proc/${pid}/ns/mnt`) === readlinkSync('/proc/self/ns/mnt')
      if (isHere && argumentsOf(pid).includes(wanted) && argumentsOf(pid)[0]!.includes('qemu')) return Number(pid)
    } catch {
      // It has ended meanwhile.
    }
  }
  return null
}

const optionOf = (words: readonly string[], option: string) => words[words.indexOf(option) + 1]!

async function inspect(): Promise<object> {
  const qmp = await Monitor.open()
  const pid = pidOf()
  if (qmp === null || pid === null) return { state: 'off' }
  const { status } = await qmp.run<{ status: string }>('query-status')
  const memory = await qmp.run<{ 'base-memory': number }>('query-memory-size-summary')
  const { package: version } = await qmp.run<{ package: string }>('query-version')
  const words = argumentsOf(pid)
  const states: Record<string, string> = { running: 'running', paused: 'paused', postmigrate: 'paused' }
  return {
    state: states[status] ?? 'other',
    detail: status,
    incarnation: String(pid),
    memoryBytes: memory['base-memory'],
    nics: [
      {
        device: /ifname=([^,]+)/.exec(optionOf(words, '-netdev'))![1],
        mac: /mac=([^,]+)/.exec(words.find((word) => word.includes('mac='))!)![1],
      },
    ],
    version,
    captureMode: existsSync(of('background')) ? 'background' : 'stopped',
    details: JSON.stringify(words),
    files: [{ role: 'kernel', path: optionOf(words, '-kernel') }],
    directory: loadedIn(),
  }
}

async function there(): Promise<Monitor> {
  const qmp = await Monitor.open()
  if (qmp === null) throw new Error(`${machine} is off`)
  return qmp
}

async function saved(qmp: Monitor): Promise<void> {
  for (;;) {
    const { status, 'error-desc': reason } = await qmp.run<{ status?: string; 'error-desc'?: string }>('query-migrate')
    if (status === 'completed') return
    if (status === 'failed' || status === 'cancelled') throw new Error(reason ?? status)
    await sleep(20)
  }
}

/** Up to 8.2 QEMU lets the guest run by itself. Later it stays paused, and may run when the first page is saved. */
async function runOn(qmp: Monitor): Promise<void> {
  const { qemu } = await qmp.run<{ qemu: { major: number } }>('query-version')
  if (qemu.major < 9) return
  for (;;) {
    const { status, ram } = await qmp.run<{ status?: string; ram?: { normal: number; duplicate: number } }>(
      'query-migrate',
    )
    if ((ram !== undefined && ram.normal + ram.duplicate > 0) || status === 'completed' || status === 'failed') break
    await sleep(1)
  }
  await qmp.run('cont')
}

const diskOf = (words: readonly string[]) => /file=([^,]+)/.exec(optionOf(words, '-drive'))![1]!

async function capture(): Promise<object> {
  const qmp = await there()
  writeFileSync(env.SNAPSWITCH_MEMORY!, '')
  if (existsSync(of('hang'))) for (;;) await sleep(1000)
  if (existsSync(of('fail'))) throw new Error('as it was told to')
  // The guest stands still, and QEMU has flushed its disk.
  const disk = join(env.SNAPSWITCH_DIRECTORY!, 'disk.qcow2')
  copyFileSync(diskOf(argumentsOf(pidOf()!)), disk)
  const background = env.SNAPSWITCH_CAPTURE_MODE === 'background'
  const capabilities = [{ capability: 'background-snapshot', state: background }]
  await qmp.run('migrate-set-capabilities', { capabilities })
  await qmp.run('migrate', { uri: `exec:cat > '${env.SNAPSWITCH_MEMORY}'` })
  if (background) {
    await runOn(qmp)
    await qmp.until((message) => (message as { event?: string }).event === 'RESUME')
    console.log('resumed')
  }
  await saved(qmp)
  return { files: [{ role: 'disk', path: disk }] }
}

async function load(): Promise<object> {
  const directory = env.SNAPSWITCH_DIRECTORY!
  const files = new Map(env.SNAPSWITCH_FILES!.split('\n').map((line) => line.split('\t') as [string, string]))
  const disk = join(directory, 'disk.qcow2')
  copyFileSync(files.get('disk')!, disk)
  writeFileSync(of('now'), directory)
  const before = JSON.parse(env.SNAPSWITCH_DETAILS!) as string[]
  const words = before.map((word, at) => {
    if (before[at - 1] === '-drive') return word.replace(/file=[^,]+/, `file=${disk}`)
    if (before[at - 1] === '-netdev')
      return word.replace(/ifname=[^,]+/, `ifname=${env.SNAPSWITCH_TAPS!.split('\n')[0]}`)
    if (before[at - 1] === '-kernel') return files.get('kernel')!
    return before[at - 1] === '-qmp' ? `unix:${monitor()},server=on,wait=off` : word
  })
  const isOurs = (word: string, at: number) => word !== '-S' && word !== '-incoming' && words[at - 1] !== '-incoming'
  const all = [...words.filter(isOurs), '-S', '-incoming', `exec:cat '${env.SNAPSWITCH_MEMORY}'`]
  const log = openSync(join(directory, 'qemu.log'), 'a')
  const child = spawn(all[0]!, all.slice(1), { detached: true, stdio: ['ignore', log, log] })
  child.unref()
  const ended = new Promise<never>((_, reject) =>
    child.once('exit', () => reject(new Error(readFileSync(join(directory, 'qemu.log'), 'utf8').slice(-500)))),
  )
  const loaded = async () => {
    let qmp = await Monitor.open()
    for (; qmp === null; qmp = await Monitor.open()) await sleep(20)
    for (;;) {
      const { status } = await qmp.run<{ status: string }>('query-status')
      if (status !== 'inmigrate') return
      await sleep(20)
    }
  }
  await Promise.race([loaded(), ended])
  return {}
}

async function destroy(): Promise<object> {
  const pid = pidOf()
  if (pid !== null) process.kill(pid, 'SIGKILL')
  while (pidOf() !== null) await sleep(10)
  rmSync(of('now'), { force: true })
  return {}
}

const actions: Record<string, () => Promise<object>> = {
  inspect,
  capture,
  load,
  destroy,
  pause: async () => (await there()).run<object>('stop'),
  resume: async () => (await there()).run<object>('cont'),
}

if (home !== undefined) {
  actions[action]!().then(
    (answer) => {
      process.stdout.write(JSON.stringify(answer), () => process.exit(0))
    },
    (error: Error) => {
      process.stderr.write(`${error.message}\n`, () => process.exit(1))
    },
  )
}
