// What the driver's tests do with machines over and over: take a snapshot, bring it back, look at the outcome.

import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import type { SnapswitchError } from '../../src/errors/errors.js'
import type {
  FrozenDisk,
  Hypervisor,
  LoadedMachine,
  MachineControl,
  MachineDefinition,
  SealInfo,
} from '../../src/hypervisor/hypervisor.js'
import type { QemuMachine } from '../../src/hypervisor/qemu/machine.js'
import { endWithUs, soon } from './boot-guest.js'

export interface Taken {
  readonly directory: string
  readonly definition: MachineDefinition
  readonly seal: SealInfo
  /** STOP to RESUME by QEMU's own timestamps. */
  readonly downtimeMs: number
  /** What the serial line had said at the cut. */
  readonly said: string
}

const made: string[] = []
process.on('exit', () => {
  for (const directory of made) rmSync(directory, { recursive: true, force: true })
})

/** A new directory; gone with this process. */
export function scratch(name = 'store'): string {
  const directory = mkdtempSync(path.join(tmpdir(), `snapswitch-${name}-`))
  made.push(directory)
  return directory
}

export async function take(
  machine: MachineControl,
  serial: string,
  label = 's1',
  directory = scratch(),
): Promise<Taken> {
  const definition = await machine.definition(soon(2000))
  await machine.prepare({ directory, label }, soon(5000))
  const { pausedAtUs } = await machine.pause(soon(2000))
  const said = readFileSync(serial, 'latin1')
  const capture = machine.capture(soon(20_000))
  const { resumedAtUs } = await capture.resumed
  const seal = await capture.sealed
  return { directory, definition, seal, downtimeMs: (resumedAtUs - pausedAtUs) / 1000, said }
}

/** As `take`, with what its owner does before and after the preparation. Why it failed; null: it did not. */
export async function takeWhile(
  machine: MachineControl,
  { before = async () => {}, after = async () => {} }: { before?(): Promise<unknown>; after?(): Promise<unknown> },
): Promise<SnapswitchError | null> {
  await machine.inspect(soon(5000))
  await machine.definition(soon(5000))
  await before()
  await machine.prepare({ directory: scratch(), label: 'meanwhile' }, soon(5000))
  await after()
  await machine.pause(soon(2000))
  const { resumed, sealed } = machine.capture(soon(20_000))
  await resumed
  return sealed.then(
    () => null,
    (error: SnapswitchError) => error,
  )
}

export async function bringBack(
  hypervisor: Hypervisor,
  taken: Taken,
  directory: string,
  taps: string[] = [],
  files: ReadonlyMap<string, string> = new Map(),
): Promise<LoadedMachine> {
  const { definition, seal } = taken
  const request = { definition, memoryFile: seal.memoryFile, disks: seal.disks, files, taps, directory }
  const loaded = await hypervisor.load(request, soon(20_000))
  endWithUs((loaded.control as QemuMachine).process!.pid)
  return loaded
}

/**
 * Takes a snapshot's disk back: what its deletion does when nothing else stands on it. False: the overlay is not the
 * active image.
 */
export async function mergeDisk(machine: MachineControl, disk: FrozenDisk): Promise<boolean> {
  const [copy, base] = disk.copied === true ? [disk.layers[0]!, disk.layers[1]!] : [null, disk.layers[0]!]
  const live = async () => (await machine.inspect(soon(10_000))).disks.find(({ name }) => name === disk.name)
  if (copy !== null && !(await live())?.layers.some(({ file }) => file === copy.file))
    rmSync(copy.file, { force: true })
  const [top, below] = (await live())?.layers ?? []
  if (top?.file !== disk.overlay || below?.file !== base.file) return false
  for (const file of await machine.collapse(disk.name, base.file, soon(10_000))) rmSync(file)
  return true
}

export const sha256 = (file: string) => createHash('sha256').update(readFileSync(file)).digest('hex')

/** Name, size and digest of every file below a directory: equal before and after, nothing was touched. */
export function fingerprint(files: readonly string[]): string[] {
  return files.map((file) => `${file} ${statSync(file).size} ${sha256(file)}`)
}

export const list = (directory: string) => readdirSync(directory).sort()

/** Whether numbers follow each other without a gap or a repeat. */
export const isGapless = (counts: readonly number[]) =>
  counts.every((count, i) => i === 0 || count === counts[i - 1]! + 1)

export const codeOf = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => 'none',
    (error: SnapswitchError) => error.code ?? String(error),
  )

/** The files of an image's chain, by qemu-img. */
export function chainOf(file: string): string[] {
  const text = execFileSync('qemu-img', ['info', '-U', '--backing-chain', '--output=json', file], { encoding: 'utf8' })
  return (JSON.parse(text) as { filename: string }[]).map(({ filename }) => filename)
}
