// Command lines of machines that could not be started again as they were, or whose guest shares something with the
// world that no snapshot has. Each is refused by name before anything is touched;
// docs/reference/machines.md lists them. Pure.

import { SnapswitchError } from '../../errors/errors.js'
import { type Argument, optionValue, splitArguments } from '../shared/qemu-options.js'

const unsupported = (message: string, action: string) => new SnapswitchError('MACHINE_UNSUPPORTED', message, action)

/** Options that the command line alone does not tell the meaning of, or that take the machine's files away. */
const options: Readonly<Record<string, readonly [string, string]>> = {
  snapshot: ['The machine runs with -snapshot: its disks are temporary files.', 'Start it without -snapshot.'],
  chroot: cannotStartAgain('chroot'),
  'add-fd': cannotStartAgain('add-fd'),
  readconfig: cannotStartAgain('readconfig'),
}

function cannotStartAgain(option: string): readonly [string, string] {
  return [
    `The machine was started with -${option}, so its command line alone cannot start it again.`,
    `Start it without -${option}.`,
  ]
}

/** Devices by their driver's name, and why. */
const devices: readonly (readonly [RegExp, string, string])[] = [
  [
    /^vhost-user-|^vhost-vdpa/,
    'another process is part of it, and its state is in no snapshot',
    'Use a device that QEMU emulates itself.',
  ],
  [/^vhost-vsock/, 'its address on the host can be had once only', 'Take it off the command line.'],
  [/^vhost-scsi/, 'the host’s kernel is part of it, and its state is in no snapshot', 'Use virtio-scsi.'],
  [/^vfio-/, 'its state is in the hardware', 'Use an emulated device.'],
  [/^ivshmem/, 'its memory is shared with others outside the snapshot', 'Take it off the command line.'],
  [
    /^usb-(host|redir)$/,
    'its state is in the hardware behind it',
    'Unplug it (device_del), or take it off the command line.',
  ],
  [
    /^(scsi-generic|scsi-block)$/,
    'it passes the host’s disk through, which cannot be snapshot',
    'Use scsi-hd on an image file.',
  ],
  [
    /^(ccid-card-|u2f-passthru|tpm-.*passthrough)/,
    'its state is in the hardware behind it',
    'Take it off the command line.',
  ],
  [/^nvdimm$|^virtio-pmem/, 'what it stores lies in a file that is no disk image', 'Use a disk.'],
]

/** Throws MACHINE_UNSUPPORTED when a machine with this command line could not be started again. */
export function checkCommandLine(argv: readonly string[]): void {
  for (const argument of splitArguments(argv)) {
    const refusal = options[argument.option] ?? refusalOf(argument)
    if (refusal !== null) throw unsupported(...refusal)
  }
}

const isOn = (text: string | null) => text === 'on' || text === 'true' || text === 'yes'

function refusalOf(argument: Argument): readonly [string, string] | null {
  const value = optionValue(argument)
  switch (argument.option) {
    case 'drive':
      return isOn(value.get('snapshot'))
        ? ['A drive has snapshot=on: its disk is a temporary file.', 'Start it without snapshot=on.']
        : null
    case 'run-with':
      return value.get('chroot') === null ? null : cannotStartAgain('run-with chroot')
    case 'device': {
      const driver = value.get('driver') ?? ''
      const found = devices.find(([pattern]) => pattern.test(driver))
      if (found === undefined) return null
      const id = value.get('id')
      return [`The device ${id === null ? driver : `${id} (${driver})`} cannot be snapshot: ${found[1]}.`, found[2]]
    }
    case 'tpmdev':
      return [
        `The machine has a TPM (-tpmdev ${value.get('type') ?? 'emulator'}): a restored machine would need a TPM emulator of its own, in the state of the cut, which nobody starts.`,
        'Start it without a TPM. libvirt starts swtpm itself: let it run the machine.',
      ]
    case 'netdev':
    case 'nic':
    case 'net': {
      const type = value.get('type') ?? ''
      return /^vhost-(user|vdpa)$/.test(type)
        ? [
            `A NIC is connected by ${type}: another process or device is part of it, and its state is in no snapshot.`,
            'Connect it by a tap (vhost=on is fine).',
          ]
        : null
    }
    case 'chardev':
      return value.get('fd') === null ? null : descriptorOf(`The character device ${value.get('id') ?? ''}`)
    case 'object':
      return refusalOfObject(value)
    default:
      return (argument.value ?? '').includes('/dev/fdset/') ? descriptorOf(`-${argument.option}`) : null
  }
}

function descriptorOf(what: string): readonly [string, string] {
  return [`${what} was given as a descriptor, which cannot be opened again.`, 'Give it by a path.']
}

/** A file that is shared is the memory of every machine that is started with it, also of one that still runs. */
function refusalOfObject(value: ReturnType<typeof optionValue>): readonly [string, string] | null {
  const type = value.get('qom-type')
  const file = value.get('mem-path')
  if (type !== 'memory-backend-file' || file === null || !isOn(value.get('share'))) return null
  if (/^\/dev\/(shm|hugepages[^/]*)\/?$/.test(file)) return null
  return [
    `The memory ${value.get('id') ?? ''} lies in ${file}, shared: whatever opens that file writes into it.`,
    'Use memory-backend-ram or memory-backend-memfd, or share=off.',
  ]
}
