// What a service manager (systemd) is told by a daemon that it has started, over the socket that it names in the
// environment: sd_notify(3). Without one nothing is said.

import { libc } from '../linux/libc.js'

const AF_UNIX = 1
const SOCK_DGRAM_CLOEXEC = 0o2000002
const MSG_DONTWAIT = 0x40
const MSG_NOSIGNAL = 0x4000

export class ServiceManager {
  /** How often it must hear that the daemon is well, in milliseconds; null: it does not ask. */
  readonly watchdogMs: number | null
  readonly #address: Uint8Array | null

  /** Takes what is meant for this process out of the environment: processes that it starts are not to speak for it. */
  constructor(environment: NodeJS.ProcessEnv = process.env) {
    const { NOTIFY_SOCKET: socket, WATCHDOG_USEC: usec, WATCHDOG_PID: pid } = environment
    for (const name of ['NOTIFY_SOCKET', 'WATCHDOG_USEC', 'WATCHDOG_PID']) delete environment[name]
    this.#address = socket === undefined ? null : addressOf(socket)
    const isAsked = this.#address !== null && (pid === undefined || Number(pid) === process.pid)
    this.watchdogMs = isAsked && Number(usec) > 0 ? Number(usec) / 1000 : null
  }

  ready(): void {
    this.#tell('READY=1')
  }

  reloading(): void {
    this.#tell(`RELOADING=1\nMONOTONIC_USEC=${process.hrtime.bigint() / 1000n}`)
  }

  stopping(): void {
    this.#tell('STOPPING=1')
  }

  /** The daemon is well. */
  alive(): void {
    this.#tell('WATCHDOG=1')
  }

  #tell(text: string): void {
    const address = this.#address
    if (address === null) return
    const fd = libc().socket(AF_UNIX, SOCK_DGRAM_CLOEXEC, 0)
    if (fd < 0) return
    const bytes = Buffer.from(text)
    // A manager that does not listen costs nothing but the word.
    libc().sendto(fd, bytes, bytes.length, MSG_DONTWAIT | MSG_NOSIGNAL, address, address.length)
    libc().close(fd)
  }
}

/** struct sockaddr_un; null for what is no unix socket. `@` begins the name of an abstract one. */
function addressOf(socket: string): Uint8Array | null {
  if (!/^[/@]./.test(socket)) return null
  const path = Buffer.from(socket.startsWith('@') ? `\0${socket.slice(1)}` : `${socket}\0`)
  const address = new Uint8Array(2 + path.length)
  new DataView(address.buffer).setUint16(0, AF_UNIX, true)
  address.set(path, 2)
  return address
}
