// A QEMU's network devices on taps: where its command line names them, and what its monitor says of them. Pure.

import type { Nic } from '../hypervisor.js'
import { type Argument, OptionValue, optionValue, splitArguments } from '../shared/qemu-options.js'
import { checkCount } from '../shared/qmp-messages.js'

/** A place in the command line that connects a NIC to a tap. */
export interface TapArgument {
  /** Index in argv of the value that names the tap. */
  readonly index: number
  /** The tap by name, or null when it was passed as a descriptor or made by a helper. */
  readonly ifname: string | null
  /** The descriptor QEMU was given, or null. */
  readonly fd: number | null
  /** The netdev's id, or null where QEMU chooses one. */
  readonly netdev: string | null
  readonly mac: string | null
  readonly vhost: boolean
}

/** A NIC has a line, and each queue of its tap. */
const MOST_LINES = 4096
const LONGEST_ANSWER = 1 << 20

const tapTypes = new Set(['tap', 'bridge'])

const asMac = (text: string | null): string | null =>
  text !== null && /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i.test(text) ? text.toLowerCase() : null

/** All taps of a command line, in its order. */
export function tapArguments(argv: readonly string[]): TapArgument[] {
  const split = splitArguments(argv)
  const values = split.map((argument) => ({ argument, value: optionValue(argument) }))
  const macs = macsByNetdev(values.filter(({ argument }) => argument.option === 'device').map(({ value }) => value))
  const oldNics = values.filter(({ argument, value }) => argument.option === 'net' && value.get('type') === 'nic')
  const taps: TapArgument[] = []
  for (const { argument, value } of values) {
    if (!['netdev', 'nic', 'net'].includes(argument.option) || !tapTypes.has(value.get('type') ?? '')) continue
    const netdev = value.get('id')
    let mac: string | null = null
    if (argument.option === 'nic') mac = value.get('mac')
    else if (argument.option === 'netdev') {
      mac = netdev === null ? null : (macs.get(netdev) ?? null)
    } else if (oldNics.length === 1) mac = oldNics[0]!.value.get('macaddr')
    const fd = value.get('fd') ?? value.get('fds')?.split(':')[0] ?? null
    const vhost = value.get('vhost')
    taps.push({
      index: argument.index,
      ifname: value.get('ifname'),
      fd: fd !== null && /^\d+$/.test(fd) ? Number(fd) : null,
      netdev,
      mac: asMac(mac),
      vhost: vhost === 'on' || vhost === 'true' || vhost === 'yes',
    })
  }
  return taps
}

/** The first of each netdev counts. */
function macsByNetdev(devices: readonly OptionValue[]): Map<string, string | null> {
  const macs = new Map<string, string | null>()
  for (const device of devices) {
    const netdev = device.get('netdev')
    if (netdev !== null && !macs.has(netdev)) macs.set(netdev, device.get('mac'))
  }
  return macs
}

/** A tap for a NIC: by name, or open already, one descriptor a queue. */
export type TapPlace = string | { readonly descriptors: readonly number[] }

/** What whoever opens the machine's taps must know, in the order of its command line. */
export function tapNeeds(argv: readonly string[]): { readonly queues: number; readonly vnetHeader: boolean }[] {
  const split = splitArguments(argv)
  return tapArguments(argv).map(({ index }) => {
    const value = optionValue(split.find((argument) => argument.index === index)!)
    return { queues: queuesOf(value), vnetHeader: value.get('vnet_hdr') !== 'off' }
  })
}

function queuesOf(value: OptionValue): number {
  const queues = Number(value.get('queues') ?? '1')
  return value.get('fds')?.split(':').length ?? (Number.isInteger(queues) && queues > 0 ? queues : 1)
}

/** Puts another tap in the place of the one that an argument names. It exists already and needs no script. */
export function withTap(argument: Argument, tap: TapPlace): Argument {
  const value = optionValue(argument)
  const queues = queuesOf(value)
  for (const key of ['fd', 'fds', 'vhostfd', 'vhostfds', 'br', 'helper', 'script', 'downscript']) value.remove(key)
  value.set('type', 'tap')
  if (typeof tap !== 'string') {
    // Whoever has opened it has settled all of these.
    for (const key of ['ifname', 'queues', 'vnet_hdr']) value.remove(key)
    const { descriptors } = tap
    if (descriptors.length === 1) value.set('fd', String(descriptors[0]))
    else value.set('fds', descriptors.join(':'))
    return { ...argument, value: value.toString() }
  }
  value.set('ifname', tap)
  value.set('script', 'no')
  value.set('downscript', 'no')
  if (queues > 1) value.set('queues', queues)
  return { ...argument, value: value.toString() }
}

/** What `info network` says about one backend and the NIC before it. */
export interface NetworkClient {
  readonly netdev: string
  readonly type: string
  readonly ifname: string | null
  readonly fd: number | null
  readonly mac: string | null
}

/**
 * Reads the answer of HMP's `info network`. A NIC's line is followed by its peer's, indented with a backslash:
 * `virtio-net-pci.0: index=0,type=nic,model=virtio-net-pci,macaddr=52:...` / ` \ net0:
 * index=0,type=tap,ifname=tap0,...`. Throws HYPERVISOR_PROTOCOL for more than a machine can have: whoever answers may
 * be anybody.
 */
export function parseInfoNetwork(text: string): NetworkClient[] {
  const clients: NetworkClient[] = []
  let mac: string | null = null
  checkCount('characters of `info network`', text.length, LONGEST_ANSWER)
  const lines = text.split(/\r?\n/, MOST_LINES + 1)
  checkCount('network clients', lines.length, MOST_LINES)
  for (const line of lines) {
    // Each run of blanks is matched in one way only.
    const match = /^\s*(?:\\\s*)?(?:hub\d+port\d+: )?([^\s:]+): (index=\d+,type=.*)$/.exec(line)
    if (match === null) continue
    const value = new OptionValue(match[2]!, null)
    if (value.get('type') === 'nic') {
      mac = asMac(value.get('macaddr'))
      continue
    }
    const fd = value.get('fd')
    clients.push({
      netdev: match[1]!,
      type: value.get('type') ?? '',
      ifname: value.get('ifname'),
      fd: fd !== null && /^\d+$/.test(fd) ? Number(fd) : null,
      mac,
    })
    mac = null
  }
  return clients
}

/**
 * The machine's NICs on taps, in command-line order. `tapBehind` tells which tap a descriptor leads to.
 * `added` lists taps that the machine has and its command line does not: plugged in later.
 */
export function listNics(
  argv: readonly string[],
  clients: readonly NetworkClient[],
  tapBehind: (fd: number) => string | null,
): { nics: Nic[]; added: string[] } {
  const left = clients
    .filter(({ type }) => type === 'tap')
    .map((client) => ({
      ...client,
      device: client.ifname ?? (client.fd === null ? null : tapBehind(client.fd)),
    }))
  const nics: Nic[] = []
  for (const tap of tapArguments(argv)) {
    const device = tap.ifname ?? (tap.fd === null ? null : tapBehind(tap.fd))
    const at = left.findIndex(
      (client) =>
        (device !== null && client.device === device) || (tap.netdev !== null && client.netdev === tap.netdev),
    )
    const client = at < 0 ? left.find(() => device === null) : left[at]
    if (client !== undefined) left.splice(left.indexOf(client), 1)
    // One line a queue.
    for (const queue of left.filter(({ netdev }) => netdev === client?.netdev)) left.splice(left.indexOf(queue), 1)
    const name = device ?? client?.device ?? null
    // Without a name and a descriptor the kernel has named it (qemu-bridge-helper, QEMU’s own): tap0, tap1, …
    const isMadeUp = tap.ifname === null && tap.fd === null
    if (name !== null) nics.push({ device: name, mac: client?.mac ?? tap.mac, ...(isMadeUp ? { isMadeUp } : {}) })
  }
  const added = left.flatMap(({ device }) => (device === null ? [] : [device]))
  for (const client of left) if (client.device !== null) nics.push({ device: client.device, mac: client.mac })
  return { nics, added }
}
