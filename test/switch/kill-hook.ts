// Loaded into a daemon by `node --import`, by tests only: SIGKILL at the instant that SNAPSWITCH_TEST_KILL names: `before` a
// QMP command goes out, or `after` it, when something comes back (`before:cont`). What kill -9 does at that instant, it does.

import { Socket } from 'node:net'

const [when, command] = (process.env.SNAPSWITCH_TEST_KILL ?? '').split(':')
const { write, emit } = Socket.prototype
const sent = new WeakSet<Socket>()
const die = () => process.kill(process.pid, 'SIGKILL')

Socket.prototype.write = function (this: Socket, ...args: unknown[]): boolean {
  if (typeof args[0] === 'string' && args[0].includes(`"execute":"${command}"`)) {
    if (when === 'before') die()
    sent.add(this)
  }
  return Reflect.apply(write, this, args) as boolean
} as typeof write

Socket.prototype.emit = function (this: Socket, ...args: unknown[]): boolean {
  if (args[0] === 'data' && sent.has(this)) die()
  return Reflect.apply(emit, this, args) as boolean
} as typeof emit
