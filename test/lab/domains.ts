// A lab's machines as domains of libvirt: a libvirtd of the lab's own on each host that has any.

import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { LibvirtDaemon } from '../hypervisor/libvirt-daemon.js'
import { kernelWords } from './guest.js'
import type { Lab } from './lab.js'

/** Starts a host's libvirtd, on that host. What is left of it goes with the lab. */
export function startLibvirt(lab: Lab, name: string): Promise<LibvirtDaemon> {
  const host = lab.host(name)
  const directory = host.inside('libvirt')
  mkdirSync(host.outside(directory))
  return LibvirtDaemon.start('root', host, directory)
}

/** The host's switch configuration with these machines as domains of the same name. */
export function withDomains(
  config: Record<string, unknown>,
  names: readonly string[],
  { uriOnHost: uri }: LibvirtDaemon,
): Record<string, unknown> {
  const domains = Object.fromEntries(names.map((domain) => [domain, { libvirt: { domain } }]))
  return { ...config, machines: { ...(config.machines as object), ...domains }, libvirt: { uri } }
}

interface DomainStart {
  /** Libvirt makes a TAP, and puts it into this bridge or network of its own. Left out: the machine's own TAP. */
  readonly into?: { readonly bridge: string } | { readonly network: string }
  readonly queues?: number
  readonly timeoutMs?: number
}

/** Starts a machine as a domain and waits until its job begins. */
export async function startDomain(
  daemon: LibvirtDaemon,
  lab: Lab,
  name: string,
  { into, queues = 1, timeoutMs = 60_000 }: DomainStart = {},
): Promise<void> {
  const machine = lab.machine(name)
  machine.startsOn(lab.host(machine.plan.host))
  const image = await lab.images()
  const file = join(daemon.directory, `${name}.xml`)
  const own = `<mac address='${machine.mac}'/><model type='virtio'/><driver queues='${queues}'/>`
  const nic =
    into === undefined
      ? `<interface type='ethernet'>${own}<target dev='${machine.tap}' managed='no'/></interface>`
      : Object.entries(into).map(
          ([kind, name]) => `<interface type='${kind}'>${own}<source ${kind}='${name}'/></interface>`,
        )[0]
  writeFileSync(
    file,
    `<domain type='${image.accelerator === 'kvm' ? 'kvm' : 'qemu'}'><name>${name}</name>
<memory unit='MiB'>${lab.plan.memoryMiB ?? 256}</memory><vcpu current='1'>2</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type><kernel>${image.kernel}</kernel><initrd>${image.initramfs}</initrd>
<cmdline>${kernelWords(machine.plan.job, '/dev/vda')}</cmdline></os><features><acpi/></features>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='${machine.files.qcow2}'/><target dev='vda' bus='virtio'/></disk>
${nic}
<serial type='file'><source path='${machine.files.console}' append='on'/><target port='0'/></serial>
<serial type='unix'><source mode='bind' path='${machine.files.shell}'/><target port='1'/></serial>
<memballoon model='none'/></devices></domain>\n`,
  )
  daemon.virsh('define', file)
  daemon.virsh('start', name)
  await machine.console.started(timeoutMs)
}
