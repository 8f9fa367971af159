// One tiny guest under QEMU: its job as kernel words, its devices as QEMU arguments.

import { type ChildProcess, spawn } from 'node:child_process'
import { closeSync, openSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { GuestConsole } from './console.js'
import { type GuestImage, guestImage } from './image.js'
import { identify, type ProcessId } from './processes.js'

/** What the guest does; guest/README.md has the words. */
export interface GuestJob {
  /** Address and prefix of eth0. */
  readonly ip: string
  readonly node?: number
  readonly ring?: readonly string[]
  readonly hops?: number
  readonly hopDelayUs?: number
  readonly journalEvery?: number
  /** `stream@address:port/rate[/count]` */
  readonly send?: readonly string[]
  /** `stream@port` */
  readonly receive?: readonly string[]
  /** `shop@port`, `bank@port/shop:port` or `buyer@bank:port/shop:port` */
  readonly orders?: string
  /** Words of another guest's own, whole: its image reads them. */
  readonly words?: readonly string[]
}

export interface GuestSpec {
  readonly name: string
  /** Where console, control sockets and log go, as its QEMU sees it; exists. */
  readonly directory: string
  /** The same directory as we see it, if it is another path. */
  readonly outside?: string
  readonly mac: string
  /** A `-netdev` argument without its id, such as `tap,ifname=ring1-tap,script=no,downscript=no`. */
  readonly netdev: string
  readonly disk: { readonly file: string; readonly format: 'qcow2' | 'raw' } | null
  readonly job: GuestJob
  /** What comes before the command: how to get onto its host. It becomes the command. */
  readonly through?: readonly string[]
  /** Kernel and initramfs as its QEMU sees them; ours unless said. */
  readonly image?: GuestImage
  /** Guest RAM, MiB. */
  readonly memoryMiB?: number
  /** Further arguments. */
  readonly more?: readonly string[]
}

export interface Guest {
  readonly spec: GuestSpec
  readonly id: ProcessId
  readonly child: ChildProcess
  readonly console: GuestConsole
  readonly qmp: string
  readonly consoleFile: string
  /** Unix socket of a shell inside the guest. */
  readonly shell: string
}

/** The job as words of the kernel command line. */
export function jobWords(job: GuestJob, disk: string | null): string[] {
  const words: [string, string | number | undefined][] = [
    ['ip', job.ip],
    ['node', job.node],
    ['ring', job.ring?.join(',')],
    ['hops', job.hops],
    ['hop_delay_us', job.hopDelayUs],
    ['disk', disk ?? undefined],
    ['journal_every', job.journalEvery],
    ['send', job.send?.join(',') || undefined],
    ['receive', job.receive?.join(',') || undefined],
    ['orders', job.orders],
  ]
  return words.filter(([, value]) => value !== undefined).map(([key, value]) => `lab.${key}=${value}`)
}

// A comma inside a QEMU option value is written twice.
const escaped = (path: string) => path.replaceAll(',', ',,')

/** The whole kernel command line. */
export function kernelWords(job: GuestJob, disk: string | null): string {
  // no_timer_check: an emulated guest whose vCPU waits long for a core takes its timer for broken, and panics.
  const words = ['console=ttyS0', 'quiet', 'loglevel=1', 'panic=-1', 'no_timer_check', 'ipv6.disable=1']
  // A quarter of an emulated boot's processor time goes into what these leave out: the kernel moves itself, tests its
  // ciphers, and patches its locks for a single processor.
  words.push('nokaslr', 'cryptomgr.notests=1', 'noreplace-smp')
  return [...words, ...jobWords(job, disk), ...(job.words ?? [])].join(' ')
}

/**
 * One processor, and room for another: with `-smp 1` alone an emulating QEMU before 8.1 leaves memory barriers out
 * (QEMU's commit c914d46d0a). The guest and its device may then each miss the other's last word about a queue of
 * virtio, and a machine sends nothing any more, by whichever switch.
 */
export const ONE_PROCESSOR = '1,maxcpus=2'

export function guestArguments(spec: GuestSpec, image: GuestImage): string[] {
  const at = (name: string) => escaped(join(spec.directory, name))
  const append = kernelWords(spec.job, spec.disk === null ? null : '/dev/vda')
  const args = ['-name', spec.name, '-machine', `pc,accel=${image.accelerator}`, '-smp', ONE_PROCESSOR]
  args.push('-m', String(spec.memoryMiB ?? 256), '-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot')
  args.push('-kernel', image.kernel, '-initrd', image.initramfs, '-append', append)
  args.push('-chardev', `file,id=console,path=${at(`${spec.name}.console`)},append=on`, '-serial', 'chardev:console')
  args.push(
    '-chardev',
    `socket,id=shell,path=${at(`${spec.name}.shell`)},server=on,wait=off`,
    '-serial',
    'chardev:shell',
  )
  if (spec.disk !== null) {
    args.push('-drive', `file=${escaped(spec.disk.file)},format=${spec.disk.format},if=none,id=disk0`)
    args.push('-device', 'virtio-blk-pci,drive=disk0,id=vda')
  }
  args.push('-netdev', `${spec.netdev.replace(',', ',id=net0,')}`)
  args.push('-device', `virtio-net-pci,netdev=net0,id=eth0,mac=${spec.mac},romfile=`)
  args.push(...(spec.more ?? []))
  args.push('-qmp', `unix:${at(`${spec.name}.qmp`)},server=on,wait=off`)
  return args
}

/** Starts a guest; returns as soon as its process runs. QEMU's own words go to NAME.log in the directory. */
export async function startGuest(spec: GuestSpec): Promise<Guest> {
  const args = guestArguments(spec, spec.image ?? (await guestImage()))
  const command = [...(spec.through ?? []), 'qemu-system-x86_64', ...args]
  const at = (kind: string) => join(spec.outside ?? spec.directory, `${spec.name}.${kind}`)
  const log = at('log')
  const descriptor = openSync(log, 'a')
  const child = spawn(command[0]!, command.slice(1), { stdio: ['ignore', descriptor, descriptor], detached: true })
  closeSync(descriptor)
  await new Promise<void>((resolve, reject) => child.once('spawn', resolve).once('error', reject))
  child.unref()
  const id = identify(child.pid!)
  if (id === undefined) throw new Error(`${spec.name} ended at once: ${readFileSync(log, 'utf8').slice(-500)}`)
  const consoleFile = at('console')
  const sockets = { qmp: at('qmp'), shell: at('shell') }
  return { spec, id, child, console: new GuestConsole(consoleFile), consoleFile, ...sockets }
}
