// Per-device kernel settings under /proc/sys/net, read and written as files. Which network namespace they belong to is
// decided by the calling thread, as for sockets: hence the synchronous calls.

import { closeSync, constants, openSync, readSync, writeSync } from 'node:fs'
import { SnapswitchError } from '../errors/errors.js'

/** Renames in a row that are put up with. */
const ATTEMPTS = 16
/** Directories that stand for all devices, and for those to come; no device with such a name has one of its own. */
const NO_DEVICES = ['all', 'default']

/**
 * A setting of one device, whatever it is called: these files are found by name alone, and a name may be another
 * device's by now. `nameOf` says what the device is called at the moment; null when it is gone.
 */
export class DeviceSysctl {
  readonly #family: 'ipv4' | 'ipv6'
  readonly #setting: string
  readonly #nameOf: () => string | null

  constructor(family: 'ipv4' | 'ipv6', setting: string, nameOf: () => string | null) {
    this.#family = family
    this.#setting = setting
    this.#nameOf = nameOf
  }

  /** null when the device or the setting is not there. @throws SnapswitchError PERMISSION or SYSCALL */
  read(): string | null {
    return this.#use(constants.O_RDONLY, 'read', (file) => {
      const text = new Uint8Array(64)
      return new TextDecoder().decode(text.subarray(0, readSync(file, text, 0, text.length, 0))).trimEnd()
    })
  }

  /** False when the device or the setting is not there. @throws SnapswitchError PERMISSION or SYSCALL */
  write(value: string): boolean {
    return this.#use(constants.O_WRONLY, 'write', (file) => writeSync(file, value) > 0) ?? false
  }

  /**
   * The kernel takes a device's files away and makes new ones when it is renamed (addrconf_notify in
   * net/ipv6/addrconf.c). So a file that was opened while the device had the name, as the name before and after tells,
   * is its own or is dead: it never becomes another device's.
   */
  #use<T>(flags: number, what: string, act: (file: number) => T): T | null {
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const name = this.#nameOf()
      if (name === null || NO_DEVICES.includes(name)) return null
      const path = `${this.#family}/conf/${name}/${this.#setting}`
      let file: number | null = null
      try {
        file = openSync(`/proc/sys/net/${path}`, flags)
        if (this.#nameOf() === name) return act(file)
      } catch (thrown) {
        if (thrown instanceof SnapswitchError) throw thrown
        if (!isMissing(thrown)) throw failed(`${what} net.${path}`, thrown)
        if (this.#nameOf() === name) return null
      } finally {
        if (file !== null) closeSync(file)
      }
    }
    throw new SnapswitchError(
      'SYSCALL',
      `${what} ${this.#setting}: the device is renamed again and again`,
      'See what renames it, and try again.',
    )
  }
}

function isMissing(thrown: unknown): boolean {
  return (thrown as NodeJS.ErrnoException)?.code === 'ENOENT'
}

function failed(what: string, thrown: unknown): SnapswitchError {
  const name = (thrown as NodeJS.ErrnoException)?.code ?? 'unknown error'
  if (name === 'EACCES' || name === 'EPERM' || name === 'EROFS') {
    return new SnapswitchError(
      'PERMISSION',
      `${what}: ${name}`,
      'Run as root, where /proc/sys is writable; in a container, mount it read-write.',
      thrown,
    )
  }
  return new SnapswitchError('SYSCALL', `${what}: ${name}`, 'See the daemon’s log.', thrown)
}
