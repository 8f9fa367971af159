// Devices whose state is not QEMU's alone, and of which QEMU does not always say so: hardware, and processes that write
// to the guest's memory from an address space of their own, where a save in the background does not see it. Pure.

import type { Document, Element } from '@xmldom/xmldom'
import type { UnsupportedDrive } from '../hypervisor.js'
import { attribute, child, devicesOf, targetOf } from './domain-tree.js'

/** Kinds of devices, their names, and why one of them cannot be snapshot; null when it can. */
type Rule = readonly [kind: string, nameOf: (device: Element) => string, why: (device: Element) => string | null]

const inHardware = (what: string) => `its state is in the hardware behind it (${what})`
const inProcess = (what: string) => `another process is part of it (${what})`

const ofHost: { readonly [type: string]: string } = {
  usb: inHardware('USB'),
  pci: inHardware('PCI'),
  mdev: inHardware('a mediated device'),
  scsi: 'it passes the host’s disk through (SCSI)',
  scsi_host: 'the host’s kernel is part of it (vhost-scsi)',
}

/** An emulated TPM is saved with the machine, and libvirt starts its swtpm for it. */
const ofTpms: { readonly [type: string]: string } = {
  passthrough: 'it is the host’s own (passthrough), whose state is in hardware',
  external: 'another process is part of it (external), which nobody starts again in the state of the cut',
}

const rules: readonly Rule[] = [
  ['tpm', () => 'tpm', (tpm) => ofTpms[attribute(child(tpm, 'backend'), 'type') ?? ''] ?? null],
  [
    'interface',
    (nic) => `NIC ${attribute(child(nic, 'mac'), 'address') ?? ''}`,
    (nic) => {
      const type = attribute(nic, 'type') ?? ''
      if (!['vhostuser', 'vdpa', 'hostdev'].includes(type)) return null
      return `another process or hardware is part of it (type ${type})`
    },
  ],
  ['shmem', (shmem) => `shmem ${attribute(shmem, 'name') ?? ''}`, () => 'its memory is shared with others'],
  [
    'filesystem',
    (share) => `filesystem ${attribute(child(share, 'target'), 'dir') ?? ''}`,
    (share) => (attribute(child(share, 'driver'), 'type') === 'virtiofs' ? inProcess('virtiofs') : null),
  ],
  [
    'hostdev',
    (device) => `hostdev ${attribute(child(device, 'alias'), 'name') ?? attribute(device, 'type') ?? ''}`,
    (device) => ofHost[attribute(device, 'type') ?? ''] ?? inHardware(`type ${attribute(device, 'type')}`),
  ],
  [
    'video',
    (video) => `video ${attribute(child(video, 'alias'), 'name') ?? ''}`.trim(),
    (video) => (attribute(child(video, 'driver'), 'name') === 'vhostuser' ? inProcess('vhost-user-gpu') : null),
  ],
  // Those that can be written to are refused as drives; these would pass for media.
  [
    'disk',
    (disk) => `disk ${targetOf(disk) ?? ''}`,
    (disk) => {
      if (child(disk, 'readonly') === null) return null
      const type = attribute(disk, 'type')
      if (type === 'vhostuser') return inProcess('vhost-user')
      return type === 'vhostvdpa' ? inHardware('vhost-vdpa') : null
    },
  ],
]

export function foreignDevices(document: Document): UnsupportedDrive[] {
  return rules.flatMap(([kind, nameOf, why]) =>
    devicesOf(document, kind).flatMap((device): UnsupportedDrive[] => {
      const reason = why(device)
      return reason === null ? [] : [{ name: nameOf(device), reason, isDevice: true }]
    }),
  )
}
