// Which processes have TAPs open: the kernel shows an attached tun descriptor's device as `iff:` in
// /proc/PID/fdinfo/FD (tun_chr_show_fdinfo in drivers/net/tun.c). It is a name only, and may be that of a device in
// another network namespace: the descriptor itself tells which (TUNGETDEVNETNS, Linux 5.2).

import { readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs'
import { setImmediate as turn } from 'node:timers/promises'
import { borrowDescriptors } from './borrowed-descriptor.js'
import { tapNamespace } from './tap.js'

export interface TapHolder {
  readonly pid: number
  /** As the process numbers it. */
  readonly descriptor: number
  /** The device's name, in the namespace that it is in. */
  readonly device: string
}

export interface TapHolders {
  readonly holders: readonly TapHolder[]
  /** Processes that could not be looked into. */
  readonly hidden: readonly number[]
  /** There was no time to look at all of them. */
  readonly late: boolean
}

/** Whoever has a TAP open is one of these, as a rule: they are looked at first. */
const LIKELY = /qemu|kvm|virt|VBox|VirtualBox|firecracker|hypervisor|crosvm/i
/** Others of the daemon's thread work in between. */
const SLICE_MS = 3

/**
 * Who holds the devices of these names in the network namespace of the calling thread. Ends as soon as each has a
 * holder, so those of a device that likely ones hold are all told, others perhaps not.
 */
export async function findTapHolders(
  names: ReadonlySet<string>,
  deadline: number,
  proc = '/proc',
): Promise<TapHolders> {
  const found: TapHolder[] = []
  const hidden: number[] = []
  const own = namespaceHere()
  const missing = new Set(names)
  let began = performance.now()
  const pause = async () => {
    if (performance.now() - began < SLICE_MS) return
    await turn()
    began = performance.now()
  }
  const look = (pid: string) => {
    for (const holder of tapsOf(pid, names, hidden, proc)) {
      if (!isHere(holder, own)) continue
      found.push(holder)
      missing.delete(holder.device)
    }
  }
  const others: string[] = []
  for (const pid of readdirSync(proc)) {
    if (!isPid(pid)) continue
    if (LIKELY.test(programOf(pid, proc))) look(pid)
    else others.push(pid)
    await pause()
    if (performance.now() >= deadline) return { holders: found, hidden, late: true }
  }
  for (const pid of others) {
    if (missing.size === 0) break
    look(pid)
    await pause()
    if (performance.now() >= deadline) return { holders: found, hidden, late: true }
  }
  return { holders: found, hidden, late: false }
}

const isPid = (name: string) => name.charCodeAt(0) >= 0x31 && name.charCodeAt(0) <= 0x39

function programOf(pid: string, proc: string): string {
  try {
    return readFileSync(`${proc}/${pid}/comm`, 'latin1')
  } catch {
    return ''
  }
}

function tapsOf(pid: string, names: ReadonlySet<string>, hidden: number[], proc: string): TapHolder[] {
  let descriptors: string[]
  try {
    descriptors = readdirSync(`${proc}/${pid}/fd`)
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code === 'EACCES') hidden.push(Number(pid))
    return []
  }
  return descriptors.flatMap((descriptor) => {
    try {
      // Whatever directory the process sees it in: jails have device files of their own.
      if (!readlinkSync(`${proc}/${pid}/fd/${descriptor}`).endsWith('/tun')) return []
    } catch {
      return []
    }
    const device = deviceBehind(pid, descriptor, proc)
    return device !== null && names.has(device) ? [{ pid: Number(pid), descriptor: Number(descriptor), device }] : []
  })
}

function deviceBehind(pid: string, descriptor: string, proc: string): string | null {
  try {
    return /^iff:\s+(\S+)/m.exec(readFileSync(`${proc}/${pid}/fdinfo/${descriptor}`, 'utf8'))?.[1] ?? null
  } catch {
    return null
  }
}

const namespaceHere = () => statSync('/proc/thread-self/ns/net').ino

function isHere({ pid, descriptor }: TapHolder, own: number): boolean {
  const [told] = borrowDescriptors(pid, [descriptor], tapNamespace)
  if (told !== undefined && told !== null) return told === own
  // Not permitted, or an old kernel: a device is as a rule where its holder is.
  try {
    return statSync(`/proc/${pid}/ns/net`).ino === own
  } catch {
    return false
  }
}
