// The command line that makes the machine as it is now: what was unplugged since it was started is left out, what was
// plugged in is added, as -device has it, where it sits. What cannot be told from the running machine is refused. Pure.

import { SnapswitchError } from '../../errors/errors.js'
import type { LiveDisk } from '../shared/block-drives.js'
import { type Argument, joinArguments, OptionValue, optionValue, splitArguments } from '../shared/qemu-options.js'
import { canRebuildObject, type Inventory, type LiveDevice, type Value } from './inventory.js'
import type { NetworkClient } from './nics.js'

export interface Running {
  readonly inventory: Inventory
  readonly network: readonly NetworkClient[]
  /** Disks that no argument names. */
  readonly addedDisks: readonly LiveDisk[]
  /** Names of all drives and block nodes. */
  readonly blockNames: ReadonlySet<string>
  /** The tap that a network backend leads to; null when it cannot be told. */
  readonly tapOf: (client: NetworkClient) => string | null
}

function refuse(machine: string, what: string, action?: string): SnapswitchError {
  return new SnapswitchError(
    'MACHINE_UNSUPPORTED',
    `${machine} is not what its command line says, and cannot be started again as it is: ${what}`,
    action ?? 'Unplug or plug back the device, or restart the machine with it on its command line.',
  )
}

const textOf = (value: Value): string => (value === true ? 'on' : value === false ? 'off' : String(value))

const idOf = (argument: Argument): string | null => optionValue(argument).get('id')

const isDevice = ({ option }: Argument) => option === 'device'

/** -drive if=virtio becomes a device without a name behind those of -device; -virtfs and -watchdog do, too. */
const makesDevice = (argument: Argument): boolean =>
  (argument.option === 'drive' && optionValue(argument).get('if') === 'virtio') ||
  argument.option === 'virtfs' ||
  argument.option === 'watchdog'

/** Throws MACHINE_UNSUPPORTED, or returns the command line of the machine as it is. */
export function rebuildCommandLine(machine: string, argv: readonly string[], running: Running): string[] {
  const { inventory } = running
  const split = splitArguments(argv)
  const cold = inventory.devices.filter(({ hotplugged }) => !hotplugged)
  const plugged = inventory.devices.filter(({ hotplugged }) => hotplugged)
  const gone = goneDevices(machine, split, cold)
  checkProcessors(machine, inventory, plugged)
  if (gone.size === 0 && plugged.length === 0) {
    const [lost] = running.addedDisks
    if (lost !== undefined) throw refuse(machine, `its command line does not name the drive ${lost.name}`)
    return [...argv]
  }
  const kept = gone.size === 0 ? split : withoutGone(machine, split, gone, running)
  return joinArguments(argv[0]!, [...kept, ...addedArguments(machine, kept, plugged, running)])
}

/** Arguments of devices that the machine does not have any more, or has again by plugging them in. */
function goneDevices(machine: string, split: readonly Argument[], cold: readonly LiveDevice[]): Set<Argument> {
  const named = new Set(cold.flatMap(({ id }) => (id === null ? [] : [id])))
  const gone = new Set(
    split.filter((argument) => isDevice(argument) && idOf(argument) !== null && !named.has(idOf(argument)!)),
  )
  const anonymous = split.filter((argument) => isDevice(argument) && idOf(argument) === null).length
  const expected = anonymous + split.filter(makesDevice).length
  const there = cold.filter(({ id }) => id === null).length
  if (there < expected) {
    throw refuse(
      machine,
      `${expected - there} of its devices without an id was unplugged, and which one cannot be told`,
      'Restart the machine without that device on its command line; devices with an id= may be unplugged.',
    )
  }
  return gone
}

function checkProcessors(machine: string, { cpus }: Inventory, plugged: readonly LiveDevice[]): void {
  if (cpus === null) return
  const added = plugged.filter(({ driver }) => driver.endsWith('-cpu')).length
  if (cpus.now < cpus.initial + added)
    throw refuse(
      machine,
      'a processor that it was started with was unplugged',
      'Plug it back in, or restart the machine with fewer.',
    )
}

/** What -drive, -blockdev, -netdev and so on are named that an argument refers to. */
const referring = ['drive', 'netdev', 'chardev', 'rng', 'memdev', 'iothread', 'tpmdev', 'fsdev', 'bus'] as const

function withoutGone(
  machine: string,
  split: readonly Argument[],
  gone: ReadonlySet<Argument>,
  running: Running,
): Argument[] {
  if (split.some(makesDevice)) {
    throw refuse(
      machine,
      `${[...gone].map((argument) => idOf(argument)).join(', ')} was unplugged, and a drive with if=virtio would take its place`,
      'Plug it back in, or restart the machine without it.',
    )
  }
  const kept = split.filter((argument) => !gone.has(argument))
  const usedBy = (list: readonly Argument[]) =>
    new Set(
      list.filter(isDevice).flatMap((argument) => referring.flatMap((key) => optionValue(argument).get(key) ?? [])),
    )
  const used = usedBy(kept)
  const freed = [...usedBy([...gone])].filter((name) => !used.has(name))
  const { inventory, network, blockNames } = running
  const live = new Set(inventory.objects.map(({ id }) => id))
  const backends = new Set(network.map(({ netdev }) => netdev))
  const stays = (argument: Argument): boolean => {
    const id = idOf(argument)
    switch (argument.option) {
      case 'drive':
        return id === null || !freed.includes(id) || blockNames.has(id)
      case 'blockdev':
        return !freed.includes(optionValue(argument).get('node-name') ?? '')
      case 'netdev':
        return id === null || backends.has(id)
      case 'object':
        return id === null || live.has(id)
      case 'chardev':
        return id === null || inventory.chardevs.has(id)
      default:
        return true
    }
  }
  return pinned(withoutLooseNodes(kept.filter(stays), split), running.inventory)
}

/** Block nodes below a format node that went go with it. */
function withoutLooseNodes(kept: readonly Argument[], before: readonly Argument[]): Argument[] {
  const below = (list: readonly Argument[]) =>
    new Set(
      list
        .filter(({ option }) => option === 'blockdev')
        .flatMap((argument) => ['file', 'backing', 'data-file'].flatMap((key) => optionValue(argument).get(key) ?? [])),
    )
  const was = below(before)
  const is = below(kept)
  return kept.filter((argument) => {
    const node = argument.option === 'blockdev' ? optionValue(argument).get('node-name') : null
    return node === null || !was.has(node) || is.has(node)
  })
}

/** Where a device is gone, the others would move up: each is told where it sits. */
function pinned(split: readonly Argument[], { devices }: Inventory): Argument[] {
  const anonymous = devices
    .filter(({ id, hotplugged }) => id === null && !hotplugged)
    .sort((a, b) => numberOf(a.path) - numberOf(b.path))
  return split.map((argument) => {
    if (!isDevice(argument)) return argument
    const id = idOf(argument)
    const device = id === null ? anonymous.shift() : devices.find((one) => one.id === id)
    if (device === undefined || device.bus === null) return argument
    const value = optionValue(argument)
    for (const [key, place] of Object.entries(device.place)) {
      if (value.get(key) === null && place !== '') value.set(key, place)
    }
    if (value.get('bus') === null) value.set('bus', busName(device.bus))
    return { ...argument, value: value.toString() }
  })
}

const numberOf = (path: string) => Number(/\[(\d+)\]$/.exec(path)?.[1] ?? 0)
const busName = (path: string) => path.slice(path.lastIndexOf('/') + 1)

const made = (option: string, value: string): Argument => ({ option, value, index: 0 })

function addedArguments(
  machine: string,
  kept: readonly Argument[],
  plugged: readonly LiveDevice[],
  running: Running,
): Argument[] {
  const backends: Argument[] = []
  const devices: Argument[] = []
  const known = new Set(kept.flatMap((argument) => [idOf(argument), optionValue(argument).get('node-name')]))
  for (const device of byDepth(plugged)) {
    const name = device.id ?? device.driver
    const value = new OptionValue(device.driver, 'driver')
    if (device.id !== null) value.set('id', device.id)
    if (device.bus !== null) value.set('bus', busName(device.bus))
    for (const [key, property] of Object.entries(device.properties)) {
      const text = textOf(property)
      const object = /^\/objects\/([^/]+)$/.exec(text)?.[1]
      if (object !== undefined) {
        if (!known.has(object)) backends.push(objectArgument(machine, name, object, running.inventory))
        known.add(object)
        value.set(key, object)
      } else if (text.startsWith('/machine/')) {
        // A link to another device: by its id, or the machine's own.
        const other = /^\/machine\/peripheral\/([^/]+)$/.exec(text)?.[1]
        if (other !== undefined) value.set(key, other)
      } else {
        if (key === 'netdev' && !known.has(text)) backends.push(netdevArgument(machine, name, text, running))
        if (key === 'drive' && !known.has(text)) backends.push(driveArgument(machine, name, text, running))
        if ((key === 'chardev' || key === 'tpmdev' || key === 'fsdev') && !known.has(text))
          throw refuse(machine, `${name} was plugged in with a ${key}, ${text}, whose settings QEMU does not tell`)
        known.add(key === 'netdev' || key === 'drive' ? text : null)
        value.set(key, text)
      }
    }
    if (/^(vhost-user|vfio|usb-host|usb-redir|virtio-9p|ivshmem|ccid-)/.test(device.driver))
      throw refuse(machine, `${name} (${device.driver}) was plugged in, and what stands behind it cannot be saved`)
    devices.push(made('device', value.toString()))
  }
  return [...backends, ...devices]
}

/** A device that sits on another plugged one comes after it. */
function byDepth(devices: readonly LiveDevice[]): LiveDevice[] {
  const left = [...devices]
  const sorted: LiveDevice[] = []
  while (left.length > 0) {
    const ready = left.filter(({ bus }) => !left.some(({ path }) => bus?.startsWith(`${path}/`) === true))
    if (ready.length === 0) return [...sorted, ...left]
    for (const device of ready) left.splice(left.indexOf(device), 1)
    sorted.push(...ready)
  }
  return sorted
}

function objectArgument(machine: string, device: string, id: string, { objects }: Inventory): Argument {
  const object = objects.find((one) => one.id === id)
  if (object === undefined || !canRebuildObject(object.type))
    throw refuse(
      machine,
      `${device} was plugged in with the object ${id} (${object?.type ?? 'gone'}), whose settings QEMU does not tell`,
    )
  const value = new OptionValue(object.type, 'qom-type')
  value.set('id', id)
  for (const [key, property] of Object.entries(object.properties)) if (property !== '') value.set(key, property)
  return made('object', value.toString())
}

function netdevArgument(machine: string, device: string, netdev: string, { network, tapOf }: Running): Argument {
  const clients = network.filter((client) => client.netdev === netdev)
  const [client] = clients
  const tap = client?.type === 'tap' ? tapOf(client) : null
  if (tap === null)
    throw refuse(
      machine,
      `${device} was plugged in with the network backend ${netdev} (${client?.type ?? 'gone'}), which is no tap`,
    )
  const value = new OptionValue('tap', 'type')
  value.set('id', netdev)
  value.set('ifname', tap)
  value.set('script', 'no')
  value.set('downscript', 'no')
  if (clients.length > 1) value.set('queues', clients.length)
  return made('netdev', value.toString())
}

function driveArgument(machine: string, device: string, node: string, { addedDisks }: Running): Argument {
  const disk = addedDisks.find((one) => one.node === node || one.name === node)
  const [top] = disk?.layers ?? []
  if (disk === undefined || top === undefined)
    throw refuse(machine, `${device} was plugged in with the drive ${node}, which is no disk that can be snapshot`)
  const tree = {
    driver: top.format,
    'node-name': node,
    discard: 'unmap',
    'detect-zeroes': disk.detectZeroes,
    cache: { direct: disk.cache.direct, 'no-flush': disk.cache.noFlush },
    file: { driver: 'file', filename: top.file },
  }
  return made('blockdev', JSON.stringify(tree))
}
