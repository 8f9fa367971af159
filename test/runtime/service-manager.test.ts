// What a service manager hears of a switch: sd_notify(3) on a socket of this test's own.

import { join } from 'node:path'
import t, { type Test } from 'tap'
import { check, libc } from '../../src/linux/libc.js'
import { ServiceManager } from '../../src/runtime/service-manager.js'
import { until } from '../lab/command.js'
import { root, World } from '../switch/world.js'

const [AF_UNIX, DATAGRAM] = [1, 0o2004002]

/** `path` begins with a null byte when it is abstract. */
function listen(t: Test, path: string): () => string[] {
  const fd = check(libc().socket(AF_UNIX, DATAGRAM, 0), 'socket')
  t.teardown(() => libc().close(fd))
  const name = Buffer.from(path)
  const address = Buffer.concat([Buffer.from([AF_UNIX, 0]), name, Buffer.alloc(path.startsWith('\0') ? 0 : 1)])
  check(libc().bind(fd, address, address.length), 'bind')
  const heard: string[] = []
  return () => {
    const buffer = Buffer.alloc(4096)
    for (let length = 0; ; heard.push(buffer.toString('utf8', 0, length))) {
      length = Number(libc().recv(fd, buffer, buffer.length, 0))
      if (length < 0) return heard
    }
  }
}

t.test('a switch says when it is up, well, reads its configuration, and stops', root, async (t) => {
  const world = World.for(t)
  await world.namespace('host')
  await world.endpoint('one', 'host')
  const path = join(world.directory, 'notify')
  const heard = listen(t, path)
  Object.assign(process.env, { NOTIFY_SOCKET: path, WATCHDOG_USEC: '400000' })
  t.teardown(() => {
    for (const name of ['NOTIFY_SOCKET', 'WATCHDOG_USEC']) delete process.env[name]
  })
  const daemon = await world.switch('host', { networks: { lab0: { ports: { one: { device: 'one' } } } } })
  await until('three signs of life', 10_000, () =>
    heard().filter((word) => word === 'WATCHDOG=1').length >= 3 ? true : undefined,
  )
  t.equal(heard()[0], 'READY=1')
  daemon.signal('SIGHUP')
  const state = () =>
    heard()
      .filter((word) => word !== 'WATCHDOG=1')
      .map((word) => word.split('\n')[0])
  await until('ready again', 10_000, () => (state().length >= 3 ? true : undefined))
  t.same(state(), ['READY=1', 'RELOADING=1', 'READY=1'])
  t.equal(await daemon.stop(), 0)
  t.same(state(), ['READY=1', 'RELOADING=1', 'READY=1', 'STOPPING=1'])
})

t.test('where it is told to speak, and to whom the watchdog belongs', async (t) => {
  const name = `ssw-notify-${process.pid}`
  const heard = listen(t, `\0${name}`)
  const environment: NodeJS.ProcessEnv = { NOTIFY_SOCKET: `@${name}`, WATCHDOG_USEC: '1', WATCHDOG_PID: '1', HOME: '/' }
  const manager = new ServiceManager(environment)
  t.same(environment, { HOME: '/' }, 'processes that are started later are not to speak for the daemon')
  t.equal(manager.watchdogMs, null, 'another process is watched')
  manager.ready()
  t.same(heard(), ['READY=1'])
  for (const socket of [undefined, '', '/', 'relative', 'vsock:2:1234', '/nobody/listens', `/${'x'.repeat(200)}`])
    new ServiceManager({ NOTIFY_SOCKET: socket, WATCHDOG_USEC: '1' }).ready()
  t.equal(new ServiceManager({ WATCHDOG_USEC: '1' }).watchdogMs, null, 'nobody to tell')
  t.equal(new ServiceManager({ NOTIFY_SOCKET: '/x', WATCHDOG_USEC: '3000000' }).watchdogMs, 3000)
})
