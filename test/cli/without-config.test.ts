// `snapswitch switch` with no configuration at all: the usual places, the host's own name, no network yet.

import { spawn } from 'node:child_process'
import t from 'tap'
import { identify, isAlive, killProcess } from '../../src/hypervisor/shared/process.js'
import { attempt, until } from '../lab/command.js'
import { program } from '../lab/daemon.js'
import { fileLimit, patience } from '../patience.js'
import { root, World } from '../switch/world.js'

t.setTimeout(fileLimit(60_000))

/** Its own /run, /var/lib and name; the daemon becomes the process that is started, or another program. */
function start(world: World, name: string, words: readonly string[] = [process.execPath, program(), 'switch']) {
  const places = 'for d in /etc/snapswitch /var/lib /run; do [ ! -d $d ] || mount -t tmpfs none $d; done'
  const script = `${places}; echo '${name}' >/proc/sys/kernel/hostname; exec "$@"`
  const command = ['unshare', '--mount', '--uts', 'sh', '-ec', script, 'sh', ...words]
  const [enter, ...entry] = world.enter('h')
  return spawn(enter!, [...entry, ...command], { stdio: ['ignore', 'ignore', 'pipe'] })
}

const within = (pid: number, ...words: string[]) =>
  attempt('nsenter', ['--target', String(pid), '--mount', '--net', ...words], 30_000)

t.test('no configuration', root, async (t) => {
  const world = World.for(t)
  await world.namespace('h')
  const child = start(world, 'lab-7.example')
  const identity = identify(child.pid!)!
  t.teardown(() => (isAlive(identity) ? killProcess(identity, performance.now() + patience(5000)) : undefined))
  child.stderr.resume()
  const command = (...args: string[]) => within(child.pid!, process.execPath, program(), ...args)
  const status = await until('both', 30_000, async () => {
    const { code, stdout } = await command('status', '-j')
    const found = code === 0 ? JSON.parse(stdout) : null
    return found?.switch != null && found.coordinator != null ? found : undefined
  })
  t.match(status.switch, { host: 'lab-7.example', networks: [], coordinator: { embedded: true } })
  t.match(status.coordinator, { embedded: true, networks: [] })
  t.match(await command('snapshot', 'list'), { code: 0 })
  t.match(await command('snapshot', 'create', 'lab0'), { code: 1, stderr: /NETWORK_UNKNOWN: the coordinator has no/ })
  process.kill(child.pid!, 'SIGTERM')
  await until('its end', 30_000, () => !isAlive(identity) || undefined)
  t.equal(child.exitCode ?? 0, 0)
})

t.test('a host whose name will not do', root, async (t) => {
  const world = World.for(t)
  await world.namespace('h')
  const child = start(world, '_host')
  let said = ''
  child.stderr.on('data', (data) => {
    said += String(data)
  })
  t.equal(await new Promise((resolve) => child.once('close', resolve)), 1)
  t.match(said, /^error CONFIG_INVALID: .*this host is called "_host".*give `host:`/m)
})

t.test('a daemon that `take` has started ends when the bridge cannot be taken', root, async (t) => {
  const world = World.for(t)
  await world.namespace('h')
  const child = start(world, 'lab-7', ['sleep', '1000'])
  const identity = identify(child.pid!)!
  t.teardown(() => killProcess(identity, performance.now() + patience(5000)))
  await until('its own /run', 30_000, async () => (await within(child.pid!, 'ls', '/run')).stdout === '' || undefined)
  const command = (...args: string[]) => within(child.pid!, process.execPath, program(), ...args)
  const refused = await command('take', 'br9')
  t.match(refused, { code: 1, stdout: '', stderr: /^error DEVICE_MISSING: there is no bridge br9/ })
  t.match(await command('status'), { code: 1, stderr: /SOCKET_UNREACHABLE/ })
  t.match((await within(child.pid!, 'cat', '/run/snapswitch/switch.log')).stdout, /"msg":"stop/)

  // One that does not come up says why.
  await within(child.pid!, 'sh', '-ec', 'mkdir /run/lab; echo "nets: {}" >/run/lab/switch.yaml')
  const broken = await command('take', 'br9', '--socket', '/run/lab/switch.sock')
  t.match(broken, { code: 1, stderr: /^error SOCKET_UNREACHABLE: .* has ended: CONFIG_INVALID: .*nets/ })
  t.match(broken.stderr, /what to do: See: \/run\/lab\/switch\.log/)
})
