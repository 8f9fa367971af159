// QEMU's migration capabilities and parameters for one capture or load: all that matters is set, whatever another tool
// has left behind, and what was found is put back. A capability that is left on changes the stream (compress, multifd),
// leaves memory out of it (x-ignore-shared) or stops in the middle (pause-before-switchover).

import { SnapswitchError } from '../../errors/errors.js'
import type { CaptureMode, Deadline, HypervisorSettings as Settings } from '../hypervisor.js'
import { within } from './deadline.js'
import { capabilities, setCapabilities } from './qemu-migration.js'
import type { JsonObject, Qmp } from './qmp.js'
import { isObject } from './qmp-messages.js'

/** More than any disk takes; QEMU's default of 128 MiB/s would be the limit otherwise. */
const unlimitedBytesPerSecond = 2 ** 43

/**
 * Milliseconds. What QEMU can send in so long, of the pass under way, it sends at once: under its big lock, its monitor
 * mute, the guest stopped. In the background its default will do. Memory that is sent ahead (sent-ahead.ts) would be
 * sent so to the end of the pass, before the cut: what is left there must be more.
 */
const downtimeLimit = { background: 300, precopy: 1, stopped: 300 } satisfies Record<CaptureMode, number>

/** Parameters that a stream over a descriptor depends on; those that QEMU does not know are left out. */
const captureParameters = (mode: CaptureMode): JsonObject => ({
  'max-bandwidth': unlimitedBytesPerSecond,
  'downtime-limit': downtimeLimit[mode],
  'avail-switchover-bandwidth': 0,
  // A handshake that nobody answers.
  'tls-creds': '',
  mode: 'normal',
})

/**
 * QEMU announces a loaded machine's addresses by itself (net/announce.c): frames that no guest sent, from as soon as it
 * runs. The switch announces them.
 */
const loadParameters: JsonObject = { 'announce-rounds': 0, 'tls-creds': '', mode: 'normal' }

/** What is to be set so that only `on` of the capabilities is on, and the parameters are as wanted. Pure. */
export function changesFor(
  found: { readonly capabilities: ReadonlyMap<string, boolean>; readonly parameters: JsonObject },
  on: readonly string[],
  wanted: JsonObject,
): Settings {
  const changed = [...found.capabilities].filter(([name, state]) => on.includes(name) !== state)
  // One that QEMU does not have is asked for all the same: its refusal says why.
  const missing = on.filter((name) => !found.capabilities.has(name))
  return {
    capabilities: Object.fromEntries([
      ...changed.map(([name, state]) => [name, !state] as const),
      ...missing.map((name) => [name, true] as const),
    ]),
    parameters: Object.fromEntries(
      Object.entries(wanted).filter(([name, value]) => name in found.parameters && found.parameters[name] !== value),
    ),
  }
}

/** What undoes `changes`. Pure. */
export function undoing(changes: Settings, parameters: JsonObject): Settings {
  return {
    capabilities: Object.fromEntries(Object.entries(changes.capabilities).map(([name, state]) => [name, !state])),
    parameters: Object.fromEntries(Object.keys(changes.parameters).map((name) => [name, parameters[name]])),
  }
}

/**
 * The part of `found` (settings before a capture) that is still as the capture has set it: somebody may have come
 * since.
 */
export function stillToUndo(
  undo: Settings,
  now: { readonly capabilities: ReadonlyMap<string, boolean>; readonly parameters: JsonObject },
): Settings {
  const wanted = (Object.keys(downtimeLimit) as CaptureMode[]).map(captureParameters)
  return {
    capabilities: Object.fromEntries(
      Object.entries(undo.capabilities).filter(([name, state]) => now.capabilities.get(name) === !state),
    ),
    parameters: Object.fromEntries(
      Object.entries(undo.parameters).filter(([name]) => wanted.some((set) => now.parameters[name] === set[name])),
    ),
  }
}

async function find(qmp: Qmp, deadline: Deadline) {
  const found = await capabilities(qmp, deadline)
  const answer = await qmp.execute('query-migrate-parameters', {}, deadline)
  return { capabilities: found, parameters: isObject(answer) ? answer : {} }
}

const isEmpty = (object: object) => Object.keys(object).length === 0

/** Both in one write. */
async function set(qmp: Qmp, { capabilities: states, parameters }: Settings, deadline: Deadline): Promise<void> {
  const commands: (readonly [string, JsonObject])[] = []
  if (!isEmpty(states)) commands.push(setCapabilities(states))
  if (!isEmpty(parameters)) commands.push(['migrate-set-parameters', parameters])
  const results = await Promise.allSettled(qmp.executeAll(commands, deadline))
  const failed = results.find((result) => result.status === 'rejected')
  if (failed !== undefined) throw failed.reason
}

export interface MigrationSettings {
  /** Puts everything back as it was found. */
  restore(): Promise<void>
}

async function apply(
  qmp: Qmp,
  on: readonly string[],
  wanted: JsonObject,
  deadline: Deadline,
): Promise<MigrationSettings> {
  const found = await find(qmp, deadline)
  const changes = changesFor(found, on, wanted)
  const restore = () => set(qmp, undoing(changes, found.parameters), within(2000)).catch(() => {})
  try {
    await set(qmp, changes, deadline)
  } catch (error) {
    await restore()
    throw error
  }
  return { restore }
}

const captureCapabilities = (mode: CaptureMode) =>
  mode === 'background' ? ['events', 'background-snapshot'] : ['events']

/** For one capture. */
export function applySettings(qmp: Qmp, mode: CaptureMode, deadline: Deadline): Promise<MigrationSettings> {
  return apply(qmp, captureCapabilities(mode), captureParameters(mode), deadline)
}

/** For one load: the command line may set capabilities, too (`-global migration.x-…`). */
export function applyLoadSettings(qmp: Qmp, deadline: Deadline): Promise<MigrationSettings> {
  return apply(qmp, ['events'], loadParameters, deadline)
}

/** What a capture will have to put back, for the record: should its daemon be killed, the next one does it. */
export async function settingsToPutBack(qmp: Qmp, mode: CaptureMode, deadline: Deadline): Promise<Settings> {
  const found = await find(qmp, deadline)
  return undoing(changesFor(found, captureCapabilities(mode), captureParameters(mode)), found.parameters)
}

/** Puts back what a capture has set whose daemon was killed. */
export async function putBack(qmp: Qmp, undo: Settings, deadline: Deadline): Promise<void> {
  await set(qmp, stillToUndo(undo, await find(qmp, deadline)), deadline)
}

/**
 * Why this machine cannot be saved in the background; null when it can. Asks by setting the capability, and no other,
 * which makes QEMU check the kernel (userfaultfd with write protection) and its memory backends.
 */
export async function backgroundObstacle(qmp: Qmp, deadline: Deadline): Promise<string | null> {
  if (qmp.greeting.major < 6) return `QEMU ${qmp.greeting.version} is older than 6.0`
  const found = await find(qmp, deadline)
  const changes = changesFor(found, ['background-snapshot'], {})
  if (isEmpty(changes.capabilities)) return null
  // In one write: nobody sees the machine in between, and it is as it was even if this process ends here.
  const [tried] = await Promise.allSettled(
    qmp.executeAll(
      [setCapabilities(changes.capabilities), setCapabilities(undoing(changes, {}).capabilities)],
      deadline,
    ),
  )
  if (tried!.status === 'fulfilled') return null
  if (tried!.reason instanceof SnapswitchError && tried!.reason.code === 'HYPERVISOR_REFUSED')
    return reasonOf(tried!.reason)
  throw tried!.reason
}

/** QEMU's own words of a refusal. */
export function reasonOf(error: SnapswitchError): string {
  return error.message.replace(/^QEMU \(.*?\) refused [\w-]+: /, '')
}
