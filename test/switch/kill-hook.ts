// Loaded into a daemon by `node --import`, by tests only.
//
// SNAPSWITCH_TEST_KILL: SIGKILL at the instant that it names: `before` a QMP command or a call to libvirt goes out, or
// `after` it, when something comes back (`before:cont`, `after:snapshot`). What kill -9 does at that instant, it does.
// SNAPSWITCH_TEST_KILL_OTHER: a file that says `before:cont PID`: another process is killed at that instant instead,
// once, and the file removed. SNAPSWITCH_TEST_HALT: a file; when it is there and a machine is about to be stopped, it
// is removed and the daemon halts (SIGSTOP), its gate closed and its part of the snapshot undone, until somebody sends
// SIGCONT. SNAPSWITCH_TEST_NO_BACKGROUND: a QEMU that cannot save memory in the background. SNAPSWITCH_TEST_REFUSE: a
// hypervisor that refuses to resume, so many times.

import { readFileSync, rmSync } from 'node:fs'
import { Socket } from 'node:net'

const ownInstant = process.env.SNAPSWITCH_TEST_KILL
const other = process.env.SNAPSWITCH_TEST_KILL_OTHER
const hasNoBackground = process.env.SNAPSWITCH_TEST_NO_BACKGROUND !== undefined
const haltFile = process.env.SNAPSWITCH_TEST_HALT
let refusals = Number(process.env.SNAPSWITCH_TEST_REFUSE ?? 0)
const { write, emit } = Socket.prototype
/** Where answers come from: the same socket, or, from the process that has libvirt loaded, another pipe. */
const sent = new WeakSet<Socket>()
let called = false

interface Plan {
  readonly when: string
  readonly command: string
  readonly pid: number
}

function plan(): Plan | null {
  let text = ownInstant
  if (other !== undefined) {
    try {
      text = readFileSync(other, 'utf8')
    } catch {
      return null
    }
  }
  const [, when, command, pid] = /^(before|after):(\S+)(?: (\d+))?$/.exec(text ?? '') ?? []
  return when === undefined ? null : { when, command: command!, pid: Number(pid ?? process.pid) }
}

function kill({ pid }: Plan): void {
  process.kill(pid, 'SIGKILL')
  if (other !== undefined) rmSync(other)
  called = false
}

function halt(file: string): void {
  try {
    rmSync(file)
  } catch {
    return
  }
  process.kill(process.pid, 'SIGSTOP')
}

/** Commands to QEMU, straight or inside a call to libvirt, and calls. */
const isNamed = (text: string, command: string) =>
  text.includes(`"execute":"${command}"`) ||
  text.includes(`\\"execute\\":\\"${command}\\"`) ||
  text.includes(`"call":"${command}"`)

Socket.prototype.write = function (this: Socket, ...args: unknown[]): boolean {
  if (hasNoBackground && typeof args[0] === 'string')
    args[0] = args[0].replace(/background-snapshot(\\?",\\?"state\\?":true)/, 'no-such-thing$1')
  if (typeof args[0] === 'string') {
    if (haltFile !== undefined && args[0].includes('"execute":"stop"')) halt(haltFile)
    const planned = /"execute":|"call":/.test(args[0]) ? plan() : null
    if (planned !== null && isNamed(args[0], planned.command)) {
      if (planned.when === 'before') kill(planned)
      else if (args[0].includes('"call":')) called = true
      else sent.add(this)
    }
    if (refusals > 0 && (isNamed(args[0], 'cont') || isNamed(args[0], 'resume'))) {
      refusals--
      args[0] = args[0].replace(/(execute\\?":\\?")cont/, '$1no').replace('"call":"resume"', '"call":"blockPivot"')
    }
  }
  return Reflect.apply(write, this, args) as boolean
} as typeof write

Socket.prototype.emit = function (this: Socket, ...args: unknown[]): boolean {
  if (args[0] === 'data' && (sent.has(this) || (called && String(args[1]).includes('"kind":"result"')))) {
    const planned = plan()
    if (planned !== null) kill(planned)
  }
  return Reflect.apply(emit, this, args) as boolean
} as typeof emit
