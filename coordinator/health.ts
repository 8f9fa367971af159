// Whether snapshots are still whole: what the hosts say of their files, and what follows for a snapshot. Changes
// nothing.

import { contentOf, filesOf, filesToRestore } from '../src/api/files.js'
import type {
  FileFault,
  HealthVerdict,
  HostHealth,
  LocalPart,
  Manifest,
  SnapshotHealth,
  VerifyReport,
} from '../src/api/schemas.js'
import { asSnapswitchError, type ErrorCode, type ErrorReport, SnapswitchError } from '../src/errors/errors.js'
import type { Agents } from './agents.js'
import type { Network } from './network.js'

/** All hosts are asked at once, for a list that somebody waits for. */
const quickMs = 2_500
/** Reading all files takes as long as it does; whoever asks may leave. */
const verifyMs = 3_600_000

type HostOf<T extends SnapshotHealth = SnapshotHealth> = T['hosts'][number]
type Answer = HostHealth | ErrorReport
const isError = (answer: Answer): answer is ErrorReport => 'code' in answer

/** What is worst decides. */
const order: readonly HealthVerdict[] = ['damaged', 'away', 'unchecked', 'ok']
export function worst(verdicts: readonly HealthVerdict[]): HealthVerdict {
  return order.find((verdict) => verdicts.includes(verdict)) ?? 'ok'
}

const notHere = new SnapswitchError(
  'STORE_DAMAGED',
  'the host has no record of the snapshot that can be read (part.json)',
  'Bring its state directory back from a backup, or delete the snapshot.',
).report()

/** Of a complete snapshot; null for others. `answers`: of the hosts of its network. */
export function healthOf(manifest: Manifest, answers: ReadonlyMap<string, Answer>): SnapshotHealth | null {
  if (manifest.state !== 'complete') return null
  const hosts = manifest.parts.map((part) => hostHealth(part, answers.get(part.host)))
  return { verdict: worst(hosts.map(({ verdict }) => verdict)), hosts }
}

function hostHealth(part: LocalPart, answer: Answer | undefined): HostOf {
  const { host } = part
  if (answer === undefined) return away(host, unconfigured(host))
  if (isError(answer)) return away(host, answer)
  const found = answer.parts.find(({ snapshot, epoch }) => snapshot === part.snapshot && epoch === part.epoch)
  if (found === undefined) return { host, verdict: 'damaged', faults: [], faultCount: 0, error: notHere }
  const { faults, faultCount, unchecked } = found
  const verdict = faultCount > 0 ? 'damaged' : unchecked > 0 ? 'unchecked' : 'ok'
  return { host, verdict, faults, faultCount, error: null }
}

function away(host: string, error: ErrorReport): HostOf {
  return { host, verdict: verdictOf(error), faults: [], faultCount: 0, error }
}

/** Of a host that gave no answer but this. */
function verdictOf({ code }: ErrorReport): HealthVerdict {
  // A host that was too slow may be there.
  if (code === 'DEADLINE' || code === 'REQUEST_TIMEOUT') return 'unchecked'
  // Whatever else it says, it says itself: its files cannot be looked at.
  return notAsked.includes(code) ? 'away' : 'damaged'
}

/** The coordinator may not open the socket; or the two are of versions that do not understand each other. */
const notAsked: readonly ErrorCode[] = ['SOCKET_UNREACHABLE', 'PERMISSION', 'INTERNAL', 'REQUEST_INVALID']

function unconfigured(host: string): ErrorReport {
  const message = `the coordinator’s configuration has no host ${host} in this network`
  return new SnapswitchError('SOCKET_UNREACHABLE', message, 'Add it there.').report()
}

/** The health of each snapshot, within a time that a person waits for. Never rejects. */
export async function quickHealth(
  manifests: readonly Manifest[],
  networks: ReadonlyMap<string, Network>,
): Promise<Map<Manifest, SnapshotHealth | null>> {
  const wanted = [...networks.values()].filter(({ name }) => manifests.some((m) => m.network === name))
  return healthFrom(manifests, await askHosts(wanted))
}

/** What the hosts of networks say, by network and host. */
export type HostAnswers = ReadonlyMap<string, ReadonlyMap<string, Answer>>

/** Within a time that a person waits for. Never rejects. */
export async function askHosts(networks: readonly Network[]): Promise<HostAnswers> {
  const asked = networks.map(async (network) => {
    const answers = network.hosts.map(async (host): Promise<[string, Answer]> => [host, await ask(network, host)])
    return [network.name, new Map(await Promise.all(answers))] as const
  })
  return new Map(await Promise.all(asked))
}

export function healthFrom(manifests: readonly Manifest[], answers: HostAnswers): Map<Manifest, SnapshotHealth | null> {
  const none = new Map<string, Answer>()
  return new Map(manifests.map((manifest) => [manifest, healthOf(manifest, answers.get(manifest.network) ?? none)]))
}

function ask({ agents }: Network, host: string): Promise<Answer> {
  return agents
    .health(host, { timeoutMs: quickMs })
    .catch((thrown: unknown): ErrorReport => asSnapswitchError(thrown).report())
}

export interface VerifyOptions {
  readonly network: Network
  readonly quick: boolean
  readonly signal: AbortSignal
}

/** Every file of the snapshot; what is not on its host is looked for on the others. @throws SNAPSHOT_NOT_COMPLETE */
export async function verifySnapshot(manifest: Manifest, options: VerifyOptions): Promise<VerifyReport> {
  const { network, name } = manifest
  if (manifest.state !== 'complete') {
    throw new SnapswitchError(
      'SNAPSHOT_NOT_COMPLETE',
      `snapshot ${network}/${name} is ${manifest.state}`,
      'Only complete snapshots have files that can be verified.',
    )
  }
  const began = performance.now()
  const looked = await Promise.all(manifest.parts.map((part) => verifyPart(part, name, options)))
  const hosts = options.quick ? looked : await searchElsewhere(manifest, looked, options)
  const files = manifest.parts.flatMap(filesOf)
  return {
    network,
    name,
    quick: options.quick,
    health: { verdict: worst(hosts.map(({ verdict }) => verdict)), hosts },
    files: files.length,
    bytes: files.reduce((sum, { bytes }) => sum + bytes, 0),
    restorable: options.quick ? null : hosts.every(isRestorable(manifest)),
    verifyMs: Math.round(performance.now() - began),
  }
}

/** Of a host that is away all files are looked for elsewhere. */
function isRestorable({ parts }: Manifest): (found: HostOf) => boolean {
  const needed = new Set(parts.flatMap(filesToRestore).map(contentOf))
  return ({ verdict, faults }) =>
    verdict !== 'unchecked' &&
    faults.every(({ file, elsewhere }) => !needed.has(contentOf(file)) || (elsewhere ?? []).length > 0)
}

async function verifyPart(part: LocalPart, name: string, options: VerifyOptions): Promise<HostOf> {
  const { host } = part
  const { agents, hosts } = options.network
  if (!hosts.includes(host)) return away(host, unconfigured(host))
  const timeoutMs = options.quick ? quickMs : verifyMs
  const call = { timeoutMs, signal: options.signal }
  try {
    const request = { files: filesOf(part), quick: options.quick, deadlineMs: timeoutMs }
    const { faults, unchecked } = await agents.verify(host, name, request, call)
    const error = await recordError(agents, part, name, call)
    const verdict = faults.length > 0 || error !== null ? 'damaged' : unchecked > 0 ? 'unchecked' : 'ok'
    return { host, verdict, faults, faultCount: faults.length, error }
  } catch (thrown) {
    if (options.signal.aborted) throw thrown
    const found = away(host, asSnapswitchError(thrown).report())
    return found.verdict === 'damaged' ? withAllFaults(found, part, 'its host cannot look at it') : found
  }
}

function withAllFaults(found: HostOf, part: LocalPart, detail: string): HostOf {
  const faults = filesOf(part).map((file): FileFault => ({ file, fault: 'missing', detail }))
  return { ...found, faults, faultCount: faults.length }
}

/** What is wrong with the host's own record of its part. */
async function recordError(
  agents: Agents,
  part: LocalPart,
  name: string,
  call: { timeoutMs: number; signal: AbortSignal },
): Promise<ErrorReport | null> {
  try {
    const { epoch } = await agents.part(part.host, name, call)
    return epoch === part.epoch ? null : notHere
  } catch (thrown) {
    const error = asSnapswitchError(thrown)
    if (error.code === 'SNAPSHOT_UNKNOWN') return notHere
    if (error.code === 'STORE_DAMAGED') return error.report()
    throw thrown
  }
}

/** Which other hosts have what is not where it ought to be; of a host that is away, all of its files are looked for. */
async function searchElsewhere(
  manifest: Manifest,
  looked: readonly HostOf[],
  { network, signal }: VerifyOptions,
): Promise<HostOf[]> {
  const wanted = looked.map((found): HostOf => {
    if (found.verdict !== 'away') return found
    const part = manifest.parts.find(({ host }) => host === found.host)!
    return withAllFaults(found, part, 'its host is away')
  })
  const files = wanted.flatMap(({ faults }) => faults.map(({ file }) => file))
  if (files.length === 0) return wanted
  const isAway = (host: string) => looked.some((found) => found.host === host && found.verdict === 'away')
  const request = { epoch: manifest.epoch, members: [], channels: [], files, deadlineMs: verifyMs }
  const missing = new Map<string, ReadonlySet<string>>()
  await Promise.all(
    network.hosts
      .filter((host) => !isAway(host))
      .map(async (host) => {
        const check = await network.agents
          .restoreCheck(host, manifest.name, request, { timeoutMs: verifyMs, signal })
          .catch(() => null)
        if (check !== null) missing.set(host, new Set(check.missing.map(contentOf)))
      }),
  )
  const holders = (file: FileFault['file'], own: string) =>
    [...missing].flatMap(([host, lacks]) => (host === own || lacks.has(contentOf(file)) ? [] : [host]))
  return wanted.map((found) => ({
    ...found,
    faults: found.faults.map((fault) => ({ ...fault, elsewhere: holders(fault.file, found.host) })),
  }))
}
