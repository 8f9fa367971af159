// System calls that wait in the kernel for tens of milliseconds, made on libuv's threads: setting up and closing packet
// sockets with rings waits for an RCU grace period each time (packet_set_ring and packet_release in
// net/packet/af_packet.c). Those that wait at the same time wait for the same one, so many together take little longer
// than one; bin/snapswitch sees to enough threads.

import { check, libc, syscallError } from './libc.js'

/** Below what koffi takes at a time (max_async_calls). */
const AT_ONCE = 48

type Asynchronous = { async(...args: unknown[]): void }

let running = 0
const waiting: (() => void)[] = []

async function call(func: unknown, ...args: unknown[]): Promise<number> {
  if (running < AT_ONCE) running++
  else await new Promise<void>((resolve) => waiting.push(resolve))
  try {
    return await new Promise<number>((resolve, reject) => {
      const done = (error: unknown, result: number) => (error ? reject(error) : resolve(result))
      ;(func as Asynchronous).async(...args, done)
    })
  } finally {
    const next = waiting.shift()
    if (next === undefined) running--
    else next()
  }
}

export async function setOptionInBackground(
  fd: number,
  level: number,
  name: number,
  value: Uint8Array,
  what: string,
): Promise<void> {
  const { setsockopt } = libc()
  if ((await call(setsockopt, fd, level, name, value, value.length)) === 0) return
  // errno was another thread's. What the kernel refuses it refuses again, before it waits for anything.
  check(setsockopt(fd, level, name, value, value.length), what)
}

/** The descriptor is nobody's from here on. */
export async function closeInBackground(fd: number): Promise<void> {
  if ((await call(libc().close, fd)) < 0) throw syscallError(`close descriptor ${fd}`)
}
