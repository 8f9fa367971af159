// What this host offers for saving and running machines, found out by trying. `snapswitch doctor` shows these findings.

import { execFile } from 'node:child_process'
import { closeSync, openSync, readFileSync } from 'node:fs'
import koffi from 'koffi'
import { errno, errnoName, libc } from '../../linux/libc.js'

export interface Finding {
  readonly ok: boolean
  /** What was found; a short phrase. */
  readonly detail: string
  /** What the lack of it costs, and how to get it; null when `ok`. */
  readonly cost: string | null
}

const good = (detail: string): Finding => ({ ok: true, detail, cost: null })
const bad = (detail: string, cost: string): Finding => ({ ok: false, detail, cost })

const emulators = { x64: 'x86_64', arm64: 'aarch64' } as const

/** The QEMU binary for this host's own architecture. */
export function qemuBinary(): string {
  return `qemu-system-${emulators[process.arch as keyof typeof emulators] ?? process.arch}`
}

/** A host that has just started, or is otherwise busy, takes its time. */
const ANSWER_MS = 20_000

/** What the program says; null: it is missing or fails. `slow`: it said nothing in time. */
function output(command: string, args: readonly string[]): Promise<{ text: string | null; slow: boolean }> {
  return new Promise((resolve) => {
    execFile(command, args, { timeout: ANSWER_MS, killSignal: 'SIGKILL' }, (error, stdout) => {
      resolve({ text: error === null ? stdout : null, slow: error?.killed === true })
    })
  })
}

function unanswered(command: string): Finding {
  return bad(
    `${command} does not answer within ${ANSWER_MS / 1000} s`,
    'Nothing is known of it. Try again when the host is less busy.',
  )
}

export interface QemuFinding extends Finding {
  /** As in "7.2.22"; null when there is no QEMU. */
  readonly version: string | null
}

export async function probeQemu(): Promise<QemuFinding> {
  const binary = qemuBinary()
  const { text, slow } = await output(binary, ['--version'])
  const version = /version (\d+\.\d+(?:\.\d+)?)/.exec(text ?? '')?.[1] ?? null
  if (slow) return { ...unanswered(binary), version: null }
  if (version === null) {
    const cost = 'Machines cannot be restored on this host. Install it: `apt-get install qemu-system-x86`.'
    return { ...bad(`${binary} is missing or does not run`, cost), version }
  }
  if (Number.parseInt(version, 10) >= 6) return { ...good(`${binary} ${version}`), version }
  const cost = 'Guests stand still for the last of their memory. QEMU 6.0 or newer saves it in the background.'
  return { ...bad(`${binary} ${version} is older than 6.0`, cost), version }
}

export async function probeQemuImg(): Promise<Finding> {
  const { text, slow } = await output('qemu-img', ['--version'])
  if (slow) return unanswered('qemu-img')
  const version = /version (\S+)/.exec(text ?? '')?.[1]
  if (version !== undefined) return good(`qemu-img ${version}`)
  return bad(
    'qemu-img is missing or does not run',
    'No snapshot can be taken. Install it: `apt-get install qemu-utils`.',
  )
}

// linux/userfaultfd.h
const SYS_USERFAULTFD: Readonly<Record<string, number>> = { x64: 323, arm64: 282 }
const UFFDIO_API = 0xc018aa3f
const UFFD_API = 0xaan
const UFFD_FEATURE_PAGEFAULT_FLAG_WP = 1n
const O_CLOEXEC_NONBLOCK = 0o2004000

/** Whether a program here can have the kernel tell it of writes to its memory: what background saving rests on. */
export function probeUserfaultfd(): Finding {
  const cost = 'Guests stand still for the last of their memory, for some tens of milliseconds and more.'
  const number = SYS_USERFAULTFD[process.arch]
  if (number === undefined) return bad(`unknown on ${process.arch}`, cost)
  const syscall = koffi.load('libc.so.6').func('long syscall(long, long)') as (...numbers: number[]) => number
  const fd = syscall(number, O_CLOEXEC_NONBLOCK)
  if (fd < 0) {
    const how = ' Run as root, or set the sysctl vm.unprivileged_userfaultfd=1, on a kernel with CONFIG_USERFAULTFD.'
    return bad(`userfaultfd is refused: ${errnoName(errno())}`, cost + how)
  }
  try {
    // struct uffdio_api { api, features, ioctls }
    const api = Buffer.alloc(24)
    api.writeBigUInt64LE(UFFD_API, 0)
    if (libc().ioctl(fd, UFFDIO_API, api) !== 0) return bad(`userfaultfd fails: ${errnoName(errno())}`, cost)
    if ((api.readBigUInt64LE(8) & UFFD_FEATURE_PAGEFAULT_FLAG_WP) === 0n) {
      return bad('userfaultfd without write protection', `${cost} Use a kernel of 5.7 or newer.`)
    }
    return good(`userfaultfd with write protection${unprivileged() ? ', for every user' : ', for root'}`)
  } finally {
    libc().close(fd)
  }
}

function unprivileged(): boolean {
  try {
    return readFileSync('/proc/sys/vm/unprivileged_userfaultfd', 'latin1').trim() === '1'
  } catch {
    return false
  }
}

// linux/kvm.h
const KVM_GET_API_VERSION = 0xae00
const KVM_CREATE_VM = 0xae01
const KVM_CREATE_VCPU = 0xae41

const KVM_GET_SUPPORTED_CPUID = 0xc008ae05

/**
 * What every x86-64 processor since 2005 has and this KVM's virtual ones lack; null when nothing is missing. Nested and
 * restricted KVMs come with such processors, and stock kernels do not boot on them.
 */
function missingCpuFeature(fd: number): string | null {
  if (process.arch !== 'x64') return null
  // struct kvm_cpuid2 { nent, padding, entries of 40 bytes: function, index, flags, eax, ebx, ecx, edx, padding[3] }
  const entries = 256
  const table = Buffer.alloc(8 + entries * 40)
  table.writeUInt32LE(entries, 0)
  if (libc().ioctl(fd, KVM_GET_SUPPORTED_CPUID, table) < 0) return null
  for (let i = 0; i < table.readUInt32LE(0); i++) {
    const at = 8 + i * 40
    const [leaf, ecx, edx] = [table.readUInt32LE(at), table.readUInt32LE(at + 20), table.readUInt32LE(at + 24)]
    if (leaf === 1 && (ecx & 1) === 0) return 'SSE3'
    if (leaf === 0x80000001 && (edx & (1 << 29)) === 0) return 'long mode'
  }
  return null
}

/** Whether KVM gives out virtual machines with whole processors. `probeKvmRuns` goes one step further and runs one. */
export function probeKvm(): Finding {
  const cost = 'Guests run in software emulation (TCG), some 5 to 20 times slower. Snapshots work all the same.'
  let fd: number
  try {
    fd = openSync('/dev/kvm', 'r+')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    return bad(code === 'ENOENT' ? '/dev/kvm does not exist' : `/dev/kvm cannot be opened: ${code}`, cost)
  }
  try {
    const version = libc().ioctl(fd, KVM_GET_API_VERSION, null)
    if (version !== 12) return bad(`/dev/kvm speaks version ${version}`, cost)
    const missing = missingCpuFeature(fd)
    if (missing !== null)
      return bad(`KVM’s virtual processors lack ${missing}: stock kernels do not boot on them`, cost)
    const machine = libc().ioctl(fd, KVM_CREATE_VM, null)
    if (machine < 0) return bad(`KVM gives no virtual machine: ${errnoName(errno())}`, cost)
    const cpu = libc().ioctl(machine, KVM_CREATE_VCPU, null)
    const failed = errno()
    libc().close(machine)
    if (cpu < 0) return bad(`KVM gives no virtual CPU: ${errnoName(failed)}`, cost)
    libc().close(cpu)
    return good('KVM gives virtual machines')
  } finally {
    closeSync(fd)
  }
}

/**
 * Whether KVM can run code, by QEMU itself: a machine that runs its firmware for a moment must have come past the reset
 * vector. Takes up to `milliseconds`.
 */
export async function probeKvmRuns(milliseconds = 3000): Promise<Finding> {
  const given = probeKvm()
  if (!given.ok) return given
  const cost = 'Guests run in software emulation (TCG), some 5 to 20 times slower. Snapshots work all the same.'
  // SeaBIOS says hello on its debug port at once; isa-debugcon shows it on standard output.
  const args = ['-machine', 'pc,accel=kvm', '-m', '32', '-nodefaults', '-display', 'none', '-no-reboot']
  args.push('-chardev', 'stdio,id=say', '-device', 'isa-debugcon,iobase=0x402,chardev=say')
  return new Promise((resolve) => {
    let settled = false
    const settle = (finding: Finding) => {
      if (settled) return
      settled = true
      clearTimeout(timer)
      child.kill('SIGKILL')
      resolve(finding)
    }
    const child = execFile(qemuBinary(), args, (error) => {
      const text = error === null ? 'QEMU ended' : (error.message.split('\n')[1] ?? error.message)
      settle(bad(`QEMU cannot use KVM: ${text.slice(0, 200)}`, cost))
    })
    const timer = setTimeout(() => settle(bad('KVM gives machines, but they do not run', cost)), milliseconds)
    child.stdout?.on('data', (chunk) => {
      if (/SeaBIOS/.test(String(chunk))) settle(good('KVM runs machines'))
    })
  })
}
