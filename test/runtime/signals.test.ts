// Every signal to real daemons: they go on, or they stop and put back what they have changed. Nothing listens, nothing
// is left.

import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { NO_INSPECTOR } from '../../src/runtime/engine.js'
import { signalsOf } from '../../src/runtime/reactions.js'
import { until } from '../lab/command.js'
import { program } from '../lab/daemon.js'
import { identify } from '../lab/processes.js'
import { repositoryRoot } from '../lab/repository.js'
import { root, World } from '../switch/world.js'

const REALTIME = [34, 35, 50, 64]
/** SIGPIPE and SIGXFSZ are Node's to ignore; the others do nothing by themselves. */
const HARMLESS = ['SIGPIPE', 'SIGXFSZ', 'SIGCHLD', 'SIGCONT', 'SIGURG', 'SIGWINCH'] as const
const GOES_ON = [...signalsOf('log'), ...signalsOf('reload'), ...signalsOf('ignore'), ...HARMLESS, ...REALTIME]

const lab = { lab0: { ports: { one: { device: 'one' }, two: { device: 'two' } } } }

async function twoPorts(t: { teardown(end: () => Promise<void>): void }): Promise<World> {
  const world = World.for(t)
  await world.namespace('host', { ipv6: true })
  for (const port of ['one', 'two']) await world.endpoint(port, 'host', { ipv6: true })
  return world
}

/** What a switch changes on the devices of its ports. */
async function devices(world: World): Promise<unknown> {
  const look = async (device: string) => ({
    hooks: (await world.in('host', 'tc', 'qdisc', 'show', 'dev', device)).includes('clsact'),
    ipv6: await world.in('host', 'cat', `/proc/sys/net/ipv6/conf/${device}/disable_ipv6`),
  })
  return [await look('one'), await look('two')]
}

const listening = (world: World) => world.in('host', 'ss', '-H', '-ltn')

t.test('a switch goes on, or stops in order', root, async (t) => {
  const world = await twoPorts(t)
  const untouched = await devices(world)
  const daemon = await world.switch('host', { networks: lab })
  const touched = await devices(world)
  t.notSame(touched, untouched, 'the test sees what a switch changes')
  for (const signal of GOES_ON) {
    daemon.signal(signal)
    if ((signalsOf('log') as (string | number)[]).includes(signal)) {
      await until(`a word on ${signal}`, 10_000, () =>
        daemon.said().includes(`${signal} is ignored`) ? true : undefined,
      )
    }
    t.equal((await daemon.port('one')).up, true, `it answers after ${signal}`)
  }
  t.equal(await listening(world), '', 'and nothing listens')
  await until('the configuration was read again', 10_000, () =>
    daemon.said().includes('the configuration was read again') ? true : undefined,
  )
  t.same(await devices(world), touched, 'the ports are as they were')

  for (const signal of signalsOf('stop')) {
    if (!daemon.running) await daemon.start()
    daemon.signal(signal)
    // Once more, and others, while it stops: they do not end it half-way.
    for (const another of [signal, 'SIGTERM', 'SIGINT', 'SIGHUP', 'SIGUSR1'] as const) daemon.signal(another)
    t.equal(await daemon.ended(), 0, `${signal} stops it`)
    t.same(await devices(world), untouched, 'all is put back')
    t.notOk(existsSync(world.socket('host')), 'the socket is gone')
  }
})

t.test('SIGUSR1 before any code of ours opens no inspector', root, async (t) => {
  const world = await twoPorts(t)
  const config = world.configFile('host', { networks: lab })
  const [enter, ...entry] = world.enter('host')
  const child = spawn(enter!, [...entry, program(), 'switch', '--config', config], {
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  t.teardown(() => ended(child))
  let said = ''
  child.stderr.on('data', (data: Buffer) => {
    said += data.toString()
  })
  // From here on Node has its own handler, and none of ours is there yet.
  await until('Node takes SIGUSR1', 10_000, () => (catches(child.pid!, 10) ? true : undefined), 0)
  child.kill('SIGUSR1')
  await until('the switch is up', 20_000, () => (/switch is up/.test(said) ? true : undefined))
  t.equal(await listening(world), '')
  t.notMatch(said, /Debugger listening/)
})

/** Whether a process has a handler for a signal: SigCgt of proc(5). */
function catches(pid: number, signal: number): boolean {
  const status = readFileSync(`/proc/${pid}/status`, 'latin1')
  return (BigInt(`0x${/^SigCgt:\s*(\w+)$/m.exec(status)?.[1] ?? '0'}`) & (1n << BigInt(signal - 1))) !== 0n
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const closed = new Promise((resolve) => child.once('close', resolve))
  child.kill('SIGTERM')
  await closed
}

t.test('a coordinator goes on, or stops in order', root, async (t) => {
  const world = World.for(t)
  await world.namespace('host')
  const socket = join(world.directory, 'coordinator.sock')
  const config = join(world.directory, 'lab.yaml')
  const hosts = { a: { socket: 'nobody.sock' } }
  writeFileSync(config, JSON.stringify({ socket, store: 'store', networks: { lab0: { hosts } } }))
  for (const stop of signalsOf('stop')) {
    const running = await world.start('host', program(), 'coordinator', '--config', config)
    await until('it listens', 20_000, () => (running.stderr.includes('listening') ? true : undefined))
    for (const signal of stop === 'SIGTERM' ? GOES_ON : (['SIGHUP'] as const)) process.kill(running.child.pid!, signal)
    await until('a word on SIGHUP', 10_000, () => (running.stderr.includes('SIGHUP is ignored') ? true : undefined))
    t.match((await world.try('host', program(), 'status', '--socket', socket)).stdout, /lab0/, 'it answers')
    t.equal(await listening(world), '')
    const closed = new Promise((resolve) => running.child.once('close', resolve))
    for (const signal of [stop, stop, 'SIGINT'] as const) running.child.kill(signal)
    await closed
    t.same([running.child.exitCode, running.child.signalCode], [0, null], `${stop} stops it`)
    t.notOk(existsSync(socket))
  }
})

t.test('an error that nobody catches stops a switch in order, too', root, async (t) => {
  const world = await twoPorts(t)
  const untouched = await devices(world)
  const hook = join(world.directory, 'hook.mjs')
  writeFileSync(
    hook,
    "process.on('SIGWINCH', () => { throw new Error('planted') })\nprocess.on('SIGURG', () => { void Promise.reject(new Error('planted')) })\n",
  )
  for (const signal of ['SIGWINCH', 'SIGURG'] as const) {
    const daemon = await world.switch('host', { networks: lab }, ['--import', hook])
    daemon.signal(signal)
    t.equal(await daemon.ended(), 1)
    t.match(daemon.said(), /a defect, the daemon stops: planted/)
    t.same(await devices(world), untouched)
  }
})

/** Starts both, with an environment that asks for an inspector, and says who they are. */
const starter = `
const [{ ImageWriter }, { LibvirtProcess }] = await Promise.all(process.argv.slice(1).map((file) => import(file)))
Object.assign(process.env, { NODE_OPTIONS: '--inspect=127.0.0.1:9229', UV_THREADPOOL_SIZE: '9' })
const writer = new ImageWriter().start()
const libvirt = new LibvirtProcess()
libvirt.call({ lane: 1, uri: 'test:///default', watch: null, call: 'close', args: {} }, performance.now() + 1).catch(() => {})
console.log([writer.pid, libvirt.pid].join(' '))
process.stdin.resume().on('end', () => process.exit())`

t.test('processes that a daemon starts leave signals to it, and open no inspector', root, async (t) => {
  const files = ['shared/image-writer.js', 'libvirt/process-handle.js'].map((file) =>
    join(repositoryRoot(), 'dist', 'src', 'hypervisor', file),
  )
  // Without what the test runner has Node load.
  const plain = ['-u', 'NODE_OPTIONS', process.execPath, '--input-type=module', '-e', starter, ...files]
  const parent = spawn('env', plain, { stdio: ['pipe', 'pipe', 'inherit'] })
  t.teardown(async () => {
    const closed = new Promise((resolve) => parent.once('close', resolve))
    parent.stdin.end()
    await closed
  })
  const pids = await new Promise<string>((resolve) => parent.stdout.once('data', (data) => resolve(String(data))))
  for (const pid of pids.trim().split(' ').map(Number)) {
    await until('signals are taken', 10_000, () => (catches(pid, 1) ? true : undefined))
    for (const signal of [...signalsOf('log'), ...signalsOf('reload'), ...signalsOf('stop')]) process.kill(pid, signal)
    const environment = readFileSync(`/proc/${pid}/environ`, 'latin1').split('\0')
    const named = environment.map((entry) => entry.split('=')[0]).filter((name) => /^(NODE|UV)_/.test(name))
    t.same(
      named.filter((name) => name !== 'UV_THREADPOOL_SIZE' && !name.startsWith('NODE_CHANNEL')),
      [],
    )
    t.ok(readFileSync(`/proc/${pid}/cmdline`, 'latin1').includes(NO_INSPECTOR))
    t.equal(inspectors(pid), 0, 'nothing listens where the inspector would')
    t.ok(identify(pid), 'it goes on')
  }
})

/** Listening sockets on 127.0.0.1:9229, where a process has its network. */
function inspectors(pid: number): number {
  return readFileSync(`/proc/${pid}/net/tcp`, 'latin1')
    .split('\n')
    .filter((line) => / 0100007F:2405 \S+ 0A /.test(line)).length
}
