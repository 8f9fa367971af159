// Loaded into a daemon by `node --import`, by tests only: SIGKILL at the instant that SNAPSWITCH_TEST_KILL names, `before` or
// `after` a QMP command goes out (`before:cont`). What kill -9 does at that instant, it does.

import { Socket } from 'node:net'

const [when, command] = (process.env.SNAPSWITCH_TEST_KILL ?? '').split(':')
const write = Socket.prototype.write
const die = () => process.kill(process.pid, 'SIGKILL')

Socket.prototype.write = function (this: Socket, ...args: unknown[]): boolean {
  const fits = typeof args[0] === 'string' && args[0].includes(`"execute":"${command}"`)
  if (fits && when === 'before') die()
  const written = Reflect.apply(write, this, args) as boolean
  if (fits && when === 'after') die()
  return written
} as typeof write
