// How many frames devices have sent and dropped, without waiting for the kernel's network configuration lock (rtnl).
// RTM_GETSTATS takes it, so a read in the middle of a cut stood still for 7 ms while somebody made a namespace. The
// files of sysfs do not (netstat_show in net/core/net-sysfs.c: under RCU). Measured: 7 microseconds a device, at most
// 125 beside programs that make and remove devices.

import { closeSync, constants, openSync, readFileSync, readSync } from 'node:fs'
import { join } from 'node:path'
import type { Link } from './link-message.js'
import { LinkCounterReader } from './stats.js'

const SYSFS = '/sys/class/net'
const NEWLINE = 10
const ZERO = 48

/** What stats.ts says of them holds here too. */
export interface TransmitCount {
  readonly txPackets: number
  readonly txDropped: number
}

interface Files {
  readonly packets: number
  readonly dropped: number
}

export class TransmitCounters {
  readonly #netlink = new LinkCounterReader()
  readonly #files = new Map<number, Files>()
  readonly #text = new Uint8Array(32)

  /**
   * Opens the files of a device that is to be read often; without them, or where /sys is another namespace's, `read`
   * asks by netlink.
   */
  watch({ index, name, mac }: Pick<Link, 'index' | 'name' | 'mac'>): void {
    this.forget(index)
    let directory = -1
    let packets = -1
    try {
      // Held, it is this device's whatever the name comes to mean; so are the files in it, once they are open.
      directory = openSync(join(SYSFS, name), constants.O_RDONLY | constants.O_DIRECTORY)
      const here = `/proc/self/fd/${directory}`
      // A sysfs that was mounted in another network namespace shows that one's devices (sysfs(5)).
      const has = (file: string) => readFileSync(join(here, file), 'latin1').trim()
      if (has('ifindex') !== String(index) || has('address') !== (mac ?? '')) return
      packets = openSync(join(here, 'statistics', 'tx_packets'), 'r')
      this.#files.set(index, { packets, dropped: openSync(join(here, 'statistics', 'tx_dropped'), 'r') })
    } catch {
      if (packets >= 0) closeSync(packets)
    } finally {
      if (directory >= 0) closeSync(directory)
    }
  }

  /** Whether a device's files are open. */
  watches(index: number): boolean {
    return this.#files.has(index)
  }

  forget(index: number): void {
    const files = this.#files.get(index)
    if (files === undefined) return
    this.#files.delete(index)
    closeSync(files.packets)
    closeSync(files.dropped)
  }

  /**
   * @throws SnapswitchError DEVICE_MISSING when the device is gone, DEADLINE when the kernel does not answer in a
   * second
   */
  read(index: number): TransmitCount {
    const files = this.#files.get(index)
    if (files === undefined) return this.#netlink.read(index)
    try {
      return { txPackets: this.#number(files.packets), txDropped: this.#number(files.dropped) }
    } catch {
      // The device is going away; netlink says so in words.
      this.forget(index)
      return this.#netlink.read(index)
    }
  }

  close(): void {
    for (const index of [...this.#files.keys()]) this.forget(index)
    this.#netlink.close()
  }

  #number(file: number): number {
    const text = this.#text
    const length = readSync(file, text, 0, text.length, 0)
    let value = 0
    for (let at = 0; at < length && text[at] !== NEWLINE; at++) value = value * 10 + (text[at] - ZERO)
    return value
  }
}
