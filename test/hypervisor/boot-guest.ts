// Boots the guest of boot-guest.s under TCG, and reads what it says. A test directory of its own per guest; ends with
// it.

import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { chownSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { identify, isAlive, killProcess, type ProcessIdentity } from '../../src/hypervisor/shared/process.js'
import { isAhead, threadsOf } from '../../src/linux/priority.js'
import { patience } from '../patience.js'

/** boot-guest.s, assembled; zeros up to the signature left out. */
const code =
  'fa31c08ed88ed0bc007c8816d37cb800208ec0fcfb66a1e07c66a30080e87200c706d87c0080b443e87400f4f466a1008031' +
  'ffb9004066f3af7405b04de88400c706d87c0082b442e8540066a10082663b0600807405b044e8690066ff060080e82f00c7' +
  '06d87c0080b443e83100668b1e0080b9080066c1c30488d8240f04303c3976020427e83b00e2ebb00ae83400eb9966a10080' +
  '31ffb9004066f3abc3668b0e00806683e13f664166890edc7c30c08a16d37cbed47c06cd13077305b045e80100c350bafd03' +
  'eca82074fb58baf803eec300100001'

export function bootSector(): Buffer {
  const sector = Buffer.alloc(512)
  Buffer.from(code, 'hex').copy(sector)
  sector.writeUInt16LE(0xaa55, 510)
  return sector
}

const started: ProcessIdentity[] = []
process.on('exit', () => {
  for (const identity of started) if (isAlive(identity)) process.kill(identity.pid, 'SIGKILL')
})

/** Has a machine ended with this process, also when a test fails in the middle. */
export function endWithUs(pid: number): ProcessIdentity {
  const identity = identify(pid)!
  started.push(identity)
  return identity
}

export interface GuestOptions {
  readonly memoryMiB?: number
  readonly format?: 'qcow2' | 'raw'
  /** Replaces the usual `-drive`. */
  readonly drive?: (disk: string) => readonly string[]
  readonly extra?: readonly string[]
  readonly directory?: string
  /** Command that starts QEMU as another user, who gets directory and disk. */
  readonly through?: { readonly command: readonly string[]; readonly uid: number }
  /** Wait for its first words; false for one that does not run. */
  readonly awaitBoot?: boolean
}

export interface Guest {
  readonly directory: string
  readonly disk: string
  readonly qmp: string
  readonly serial: string
  readonly pid: number
  end(): Promise<void>
}

export const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms))
export const soon = (ms: number) => performance.now() + patience(ms)
/** A deadline that is there to be missed. */
export const tooSoon = (ms: number) => performance.now() + ms

export async function until<T>(what: string, probe: () => T | null | undefined | false, ms = 10_000): Promise<T> {
  const began = performance.now()
  for (;;) {
    const value = probe()
    if (value !== null && value !== undefined && value !== false) return value
    if (performance.now() > began + patience(ms)) throw new Error(`waited ${patience(ms)} ms for ${what}`)
    await sleep(5)
  }
}

export interface Report {
  /** The last count said. */
  readonly count: number
  /** Every letter of complaint: M torn memory, D disk and memory disagree, E disk error. */
  readonly complaints: string
}

/** None of a hypervisor's threads is ahead of what else runs here. */
export const isAtOwnPace = (pid: number) => !threadsOf(pid).some(isAhead)

/** What a guest's serial line says, from byte `start` on. */
export function readReport(serial: string, start = 0): Report {
  const text = existsSync(serial) ? readFileSync(serial, 'latin1').slice(start) : ''
  const counts = text.match(/[0-9a-f]{8}(?=\n)/g) ?? []
  return { count: Number.parseInt(counts.at(-1) ?? '0', 16), complaints: text.replace(/[^MDE]/g, '') }
}

/** The counts a serial line shows, in order. */
export function readCounts(serial: string): number[] {
  return (readFileSync(serial, 'latin1').match(/[0-9a-f]{8}(?=\n)/g) ?? []).map((word) => Number.parseInt(word, 16))
}

export function makeDisk(file: string, format: 'qcow2' | 'raw'): void {
  const raw = `${file}.tmp`
  writeFileSync(raw, Buffer.concat([bootSector(), Buffer.alloc((1 << 20) - 512)]))
  execFileSync('qemu-img', ['convert', '-f', 'raw', '-O', format, raw, file])
  rmSync(raw)
}

/** Between bind and listen the socket's file is there, and refuses connections. The flag is __SO_ACCEPTCON. */
function listens(socket: string): boolean {
  const lines = readFileSync('/proc/net/unix', 'utf8').split('\n')
  return lines.some((line) => line.endsWith(` ${socket}`) && line.split(' ')[3] === '00010000')
}

export async function bootGuest(options: GuestOptions = {}): Promise<Guest> {
  const directory = options.directory ?? mkdtempSync(path.join(tmpdir(), 'snapswitch-guest-'))
  const format = options.format ?? 'qcow2'
  const disk = path.join(directory, format === 'qcow2' ? 'disk.qcow2' : 'disk.img')
  const qmp = path.join(directory, 'qmp.sock')
  const serial = path.join(directory, 'serial')
  makeDisk(disk, format)
  const drive = options.drive?.(disk) ?? ['-drive', `file=${disk},format=${format},if=virtio,id=disk0`]
  const args = ['-machine', 'pc,accel=tcg', '-m', String(options.memoryMiB ?? 64), '-nodefaults', '-display', 'none']
  args.push('-chardev', `file,id=console,path=${serial},append=on`, '-serial', 'chardev:console')
  args.push('-qmp', `unix:${qmp},server=on,wait=off`, ...drive, ...(options.extra ?? []))
  const { through } = options
  for (const file of through === undefined ? [] : [directory, disk]) chownSync(file, through!.uid, through!.uid)
  const [command, ...words] = [...(through?.command ?? []), 'qemu-system-x86_64', ...args]
  const child: ChildProcess = spawn(command!, words, { cwd: directory, stdio: ['ignore', 'ignore', 'pipe'] })
  let stderr = ''
  child.stderr!.on('data', (chunk) => {
    stderr += String(chunk)
  })
  const identity = endWithUs(child.pid!)
  const end = async () => {
    await killProcess(identity, soon(5000))
    if (options.directory === undefined) rmSync(directory, { recursive: true, force: true })
  }
  try {
    await until('the guest', () => {
      if (child.exitCode !== null) throw new Error(`QEMU ended: ${stderr}`)
      return listens(qmp) && (options.awaitBoot === false || readReport(serial).count >= 2)
    })
  } catch (error) {
    await end()
    throw error
  }
  return { directory, disk, qmp, serial, pid: child.pid!, end }
}
