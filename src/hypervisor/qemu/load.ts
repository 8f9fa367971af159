// Starts a QEMU from a saved machine: detached, over fresh overlays, and waits until its memory is loaded and it is
// paused.

import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { rm, symlink } from 'node:fs/promises'
import { setPriority } from 'node:os'
import path from 'node:path'
import { asSnapswitchError, SnapswitchError } from '../../errors/errors.js'
import { openPlainSync, UnfitFile } from '../../files/plain.js'
import { spareNot } from '../../linux/memory.js'
import { ordinaryPriority } from '../../linux/priority.js'
import { withMemoryInDumps } from '../../runtime/core-dumps.js'
import type { Deadline, LoadedMachine, LoadRequest, StartedLoad } from '../hypervisor.js'
import { asUser } from '../shared/as-user.js'
import { by, deadlinePassed, pauseFor, remaining, within } from '../shared/deadline.js'
import { closeDescriptor, longestSocketPath } from '../shared/descriptors.js'
import { makeFreshDisks } from '../shared/fresh-disks.js'
import { findProcesses, identify, killProcess } from '../shared/process.js'
import { migrationEnd } from '../shared/qemu-migration.js'
import { applyLoadSettings } from '../shared/qemu-migration-settings.js'
import { QmpClient } from '../shared/qmp.js'
import { isObject } from '../shared/qmp-messages.js'
import { besidePath, listeningPaths, namePath } from './beside.js'
import { commandLineFor } from './command-line.js'
import { type DriverSettings, QemuMachine } from './machine.js'
import { MachineLog } from './machine-log.js'
import type { TapPlace } from './nics.js'
import { checkRunsAsRoot, giveTo, triedAsRoot } from './own-user.js'
import { takePlace } from './take-place.js'
import type { QemuDefinition, QemuSpec } from './types.js'

const socketName = 'qmp.sock'
/** A network namespace of its own (util-linux), where QEMU makes the taps that it is given the names of. */
const ownNetwork = ['unshare', '--net', '--']
/** What runs goes first. */
const rehearsalNice = 10
const firstDescriptor = 3
const descriptorName = 'snapswitch-image'

const loadFailed = (name: string, reason: string, cause?: unknown) =>
  new SnapswitchError(
    'RESTORE_FAILED',
    `${name} could not be loaded: ${reason}`,
    'Use the same QEMU version and the same machine on both hosts; QEMU’s own words above say what does not fit.',
    cause,
  )

export async function loadMachine(
  request: LoadRequest<QemuDefinition>,
  settings: DriverSettings,
  deadline: Deadline,
): Promise<LoadedMachine<QemuSpec>> {
  const { definition, directory } = request
  const qmpPath = path.join(directory, socketName)
  if (Buffer.byteLength(qmpPath) > longestSocketPath) {
    throw new SnapswitchError(
      'NAME_INVALID',
      `${qmpPath} is longer than the ${longestSocketPath} bytes a socket path can have`,
      'Use a shorter directory, network or machine name.',
    )
  }
  const made = [qmpPath]
  const { user } = definition
  checkRunsAsRoot(definition)
  // A throw-away machine makes its taps, which takes root.
  if (request.rehearsal === true && user !== undefined) throw triedAsRoot(definition.name)
  let child: ChildProcess | null = null
  let log: MachineLog | null = null
  try {
    const disks = await makeFreshDisks(request, made, deadline)
    log = new MachineLog(directory)
    made.push(log.file)
    const { media, files } = request
    const beside = request.beside === true
    const next = {
      ...{ taps: tapPlaces(request), disks, qmp: qmpPath, directory, exists: existsSync, beside },
      ...(media !== undefined && { media }),
      ...(files !== undefined && { files }),
      ...(request.rehearsal === true && { rehearsal: true }),
    }
    if (beside && request.rehearsal !== true) {
      for (const { given } of listeningPaths(definition)) {
        const name = namePath(besidePath(given, directory))
        await symlink(given, name)
        made.push(name)
      }
    }
    const argv = commandLineFor(definition, next)
    // The directory last: from then on its names are the user's.
    await giveTo(user, [...disks.map(({ overlay }) => overlay), directory])
    child = start(
      [...(request.rehearsal === true ? ownNetwork : asUser(user)), ...argv],
      request.rehearsal === true ? directory : definition.directory,
      directory,
      [log.fd, log.fd, ...(request.descriptors ?? []).flat()],
    )
    if (child.pid !== undefined) spareNot(child.pid, request.rehearsal === true ? 'first' : 'ordinary')
    if (request.rehearsal === true && child.pid !== undefined) setPriority(child.pid, rehearsalNice)
    const ended = endOf(child, definition.name, log)
    await Promise.race([loadMemory(request, qmpPath, deadline), ended])
    ordinaryPriority(child.pid!)
    const control = await Promise.race([QemuMachine.attach(definition.name, qmpPath, settings, deadline), ended])
    child.unref()
    const loaded = { control, spec: { qmp: qmpPath } }
    return beside ? { ...loaded, takePlace: () => takePlace(definition, directory, user) } : loaded
  } catch (error) {
    // The log goes with the rest: read it first.
    const said = log?.tail() ?? ''
    await end(child)
    for (const file of made) await rm(file, { force: true }).catch(() => {})
    const known = asSnapswitchError(error)
    const lost = known.code === 'HYPERVISOR_UNREACHABLE' || known.code === 'HYPERVISOR_REFUSED'
    throw lost ? loadFailed(definition.name, said === '' ? known.message : said, known) : known
  } finally {
    log?.close()
  }
}

/** Descriptors as the started process sees them: they follow its standard ones. */
function tapPlaces({ taps, descriptors }: LoadRequest): TapPlace[] {
  let next = firstDescriptor
  return taps.map((tap, nth) => {
    const opened = descriptors?.[nth] ?? []
    return opened.length === 0 ? tap : { descriptors: opened.map(() => next++) }
  })
}

/** Its socket tells a machine that was started here from any other: the directory was made for this load. */
export async function endLoad({ directory, mayRun }: StartedLoad, deadline: Deadline): Promise<boolean> {
  const qmpPath = path.join(directory, socketName)
  const address = `unix:${qmpPath.replaceAll(',', ',,')},server=on,wait=off`
  let ended = true
  for (const process of findProcesses((argv) => argv.some((word, at) => word === '-qmp' && argv[at + 1] === address))) {
    if (mayRun && (await maybeRuns(qmpPath, within(2000, deadline)))) ended = false
    else await killProcess(process, deadline)
  }
  return ended
}

async function maybeRuns(qmpPath: string, deadline: Deadline): Promise<boolean> {
  try {
    const qmp = await QmpClient.connect(qmpPath, deadline)
    try {
      const status = await qmp.execute('query-status', {}, deadline)
      return !isObject(status) || status.running !== false
    } finally {
      qmp.close()
    }
  } catch {
    return true
  }
}

/** In its own session, with no terminal: it outlives the daemon. `descriptors`: what it says, and what it is given. */
function start(
  argv: readonly string[],
  wanted: string | undefined,
  directory: string,
  descriptors: readonly number[],
): ChildProcess {
  const options: SpawnOptions = {
    cwd: wanted !== undefined && existsSync(wanted) ? wanted : directory,
    detached: true,
    stdio: ['ignore', ...descriptors],
  }
  return withMemoryInDumps(() => spawn(argv[0]!, argv.slice(1), options))
}

/** Rejects when the process ends before it is wanted to. */
function endOf(child: ChildProcess, name: string, log: MachineLog): Promise<never> {
  const ended = new Promise<never>((_, reject) => {
    child.once('error', (error) => reject(loadFailed(name, `QEMU does not start: ${error.message}`, error)))
    child.once('exit', (code, signal) => {
      reject(loadFailed(name, log.tail() || `QEMU ended with ${signal ?? `exit code ${code}`}`))
    })
  })
  ended.catch(() => {})
  return ended
}

async function loadMemory(request: LoadRequest, qmpPath: string, deadline: Deadline): Promise<void> {
  while (!existsSync(qmpPath)) {
    if (remaining(deadline) === 0) throw deadlinePassed(`Starting ${request.definition.name}`)
    await pauseFor(5, deadline)
  }
  const qmp = await connectPatiently(qmpPath, deadline)
  try {
    const settings = await applyLoadSettings(qmp, deadline)
    const image = openImage(request.memoryFile)
    try {
      await qmp.executeWithDescriptor('getfd', { fdname: descriptorName }, image, deadline)
    } finally {
      closeDescriptor(image)
    }
    const end = migrationEnd(qmp)
    end.catch(() => {})
    await qmp.execute('migrate-incoming', { uri: `fd:${descriptorName}` }, deadline)
    const reason = await by(deadline, end, () => deadlinePassed(`Loading ${request.definition.name}`))
    if (reason !== null) throw loadFailed(request.definition.name, reason)
    await settings.restore()
    const status = (await qmp.execute('query-status', {}, deadline)) as { status?: unknown }
    if (status.status !== 'paused') throw loadFailed(request.definition.name, `it came up ${String(status.status)}`)
  } finally {
    qmp.close()
  }
}

function openImage(file: string): number {
  try {
    return openPlainSync(file)
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    const damaged = code === 'ENOENT' || error instanceof UnfitFile
    throw new SnapswitchError(
      damaged ? 'STORE_DAMAGED' : 'STORE_IO',
      `The memory image ${file} cannot be read: ${code ?? message}`,
      'Fetch the snapshot’s files again from the host that has them.',
      error,
    )
  }
}

/** Between bind and listen, a socket file exists that refuses connections. */
async function connectPatiently(qmpPath: string, deadline: Deadline): Promise<QmpClient> {
  const limit = within(1000, deadline)
  for (;;) {
    try {
      return await QmpClient.connect(qmpPath, deadline)
    } catch (error) {
      if (remaining(limit) === 0 || !/no listener/.test(asSnapswitchError(error).message)) throw error
      await pauseFor(5, limit)
    }
  }
}

async function end(child: ChildProcess | null): Promise<void> {
  if (child?.pid === undefined || child.exitCode !== null || child.signalCode !== null) return
  const identity = identify(child.pid)
  if (identity !== null) await killProcess(identity, within(5000)).catch(() => {})
}
