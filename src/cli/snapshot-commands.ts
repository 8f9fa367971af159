// Commands that ask the coordinator: snapshot create, list, show, restore, verify, audit, prune, flatten, delete.

import { type Command, Option } from 'commander'
import type { CoordinatorClient } from '../api/coordinator-client.js'
import { checkedName, knownNetwork } from '../api/names.js'
import type {
  AuditReport,
  CreateRequest,
  Manifest,
  Policy,
  Progress,
  PruneReport,
  RestoreOrder,
  SnapshotFrames,
} from '../api/schemas.js'
import { SnapswitchError } from '../errors/errors.js'
import { describeAudit } from './audit-report.js'
import { follow, listMs, resolveSnapshot, withCoordinator } from './coordinator-calls.js'
import { describeFrames } from './frames-report.js'
import { describeVerification } from './health-report.js'
import { type CommonOptions, parseDuration, parsePlacement, withCoordinatorSocket, withJson } from './options.js'
import { printJson, type Terminal } from './output.js'
import {
  describeCreated,
  describeDeletion,
  describeFlattening,
  describeManifest,
  describePruning,
  describeRestore,
  isAllPruned,
  tableOfSnapshots,
} from './snapshot-report.js'

const callMs = 10_000
/** Two files of each host are fetched. */
const framesMs = 300_000
const createMs = 60_000
const restoreMs = 120_000
/** As long as copying takes. */
const flattenMs = 24 * 3_600_000
/** As long as merging what was written since takes. */
const deleteMs = 24 * 3_600_000
/** Every file is read and digested. */
const auditMs = 900_000
/** The coordinator gives each host two minutes for each of its machines. */
const verifyImagesMs = 3_600_000
/** The same; the coordinator gives up after an hour. */
const verifyMs = 3_700_000
/** The coordinator keeps its own deadline and then undoes what was begun, which takes a bounded time of its own. */
const undoMs = 90_000

interface CreateOptions extends CommonOptions {
  readonly name?: string
  readonly policy?: string
  readonly deadline?: number
  readonly wait?: boolean
  readonly record?: boolean
  readonly verify?: boolean
}

interface ShowOptions extends CommonOptions {
  readonly frames?: boolean
}

interface VerifyOptions extends CommonOptions {
  readonly quick?: boolean
}

interface PruneOptions extends CommonOptions {
  readonly orphans?: boolean
  readonly dryRun?: boolean
}

interface RestoreOptions extends CommonOptions {
  readonly place?: Record<string, string>
  readonly replace?: boolean
  readonly endFirst?: boolean
  readonly deadline?: number
  readonly wait?: boolean
}

export function addSnapshotCommands(program: Command, terminal: Terminal, setCode: (code: number) => void): void {
  const snapshot = program.command('snapshot').description('consistent snapshots of a whole network')
  const which = 'the snapshot: its name, or network/name'
  const deadline = (ms: number) => `give up after this long, and undo all (default ${ms / 1000}s)`

  withCoordinatorSocket(withJson(snapshot.command('create')))
    .description('take a snapshot of all machines of a network while they run')
    .argument('<network>')
    .option('-n, --name <name>', 'what the snapshot is to be called (default: s1, s2 and so on)')
    .addOption(
      new Option('--policy <policy>', 'early frames: buffer (nothing is lost) or drop').choices(['buffer', 'drop']),
    )
    .option('--deadline <time>', deadline(createMs), parseDuration)
    .option('--wait', 'wait for a snapshot or restore that is under way, instead of being refused')
    .option('--record', 'write down what happens to every frame around the cut, for `snapshot audit`')
    .option('--verify', 'load every image once, in a throw-away machine; exit code 1 when one does not load')
    .option('--no-verify', 'do not, whatever the coordinator’s configuration says')
    .action((network: string, options: CreateOptions) => create(terminal, network, options))

  withCoordinatorSocket(withJson(snapshot.command('list')))
    .description('list the snapshots, oldest first')
    .argument('[network]', 'only those of one network')
    .action((network: string | undefined, options: CommonOptions) => list(terminal, network, options))

  withCoordinatorSocket(withJson(snapshot.command('show')))
    .description('show one snapshot: machines, pauses, frames, files')
    .argument('<snapshot>', which)
    .option('--frames', 'list the frames that were under way, and those that were held')
    .action(async (name: string, options: ShowOptions) => {
      if (options.frames !== true) return show(terminal, name, options)
      const { hosts } = await frames(terminal, name, options)
      setCode(hosts.every(({ problem }) => problem === null) ? 0 : 1)
    })

  withCoordinatorSocket(withJson(snapshot.command('restore')))
    .description('start all machines of a snapshot where it left them, frames in flight included')
    .argument('<snapshot>', which)
    .option('--place <vm=host>', 'start a machine on another host (repeatable)', parsePlacement)
    .option('--replace', 'end machines of those names that still run, once all is ready to take their place')
    .option('--end-first', 'end them before their next selves are loaded, where there is no room for both')
    .option('--deadline <time>', deadline(restoreMs), parseDuration)
    .option('--wait', 'wait for a snapshot or restore that is under way, instead of being refused')
    .action((name: string, options: RestoreOptions) => restore(terminal, name, options))

  withCoordinatorSocket(withJson(snapshot.command('verify')))
    .description('read every file of a snapshot on its host; exit code 0 only when all are as they were')
    .argument('<snapshot>', which)
    .option('--quick', 'look at presence and size only')
    .action(async (name: string, options: VerifyOptions) => {
      setCode((await verify(terminal, name, options)) ? 0 : 1)
    })

  withCoordinatorSocket(withJson(snapshot.command('audit')))
    .description('check a snapshot made with --record; exit code 0 only when it is consistent')
    .argument('<snapshot>', which)
    .action(async (name: string, options: CommonOptions) => {
      const report = await audit(terminal, name, options)
      setCode(report.verdict === 'consistent' ? 0 : 1)
    })

  withCoordinatorSocket(withJson(snapshot.command('prune')))
    .description(
      'remove what failed snapshots have left, and image files that nobody needs; exit code 0 only when all hosts have',
    )
    .argument('[network]', 'only failed snapshots and hosts of one network')
    .option(
      '--orphans',
      'also images that left a machine’s chain by somebody else’s doing, and copies that no snapshot of this coordinator has; and list what only looks like ours',
    )
    .option('--dry-run', 'say what would be done')
    .action(async (network: string | undefined, options: PruneOptions) => {
      setCode(isAllPruned(await prune(terminal, network, options)) ? 0 : 1)
    })

  withCoordinatorSocket(withJson(snapshot.command('flatten')))
    .description('copy what each disk of a snapshot holds into one image, so that it stands on no others')
    .argument('<snapshot>', which)
    .action((name: string, options: CommonOptions) => flatten(terminal, name, options))

  withCoordinatorSocket(withJson(snapshot.command('delete')))
    .description('delete a snapshot on all hosts')
    .argument('<snapshot>', which)
    .action((name: string, options: CommonOptions) => remove(terminal, name, options))
}

async function prune(terminal: Terminal, network: string | undefined, options: PruneOptions): Promise<PruneReport> {
  if (network !== undefined) checkedName('network', network)
  const order = {
    ...(network === undefined ? {} : { network }),
    ...(options.orphans === true ? { orphans: true } : {}),
    ...(options.dryRun === true ? { dryRun: true } : {}),
  }
  const report = await withCoordinator(options, (client) => client.prune(order, { deadlineMs: deleteMs }))
  if (options.json === true) printJson(terminal, report)
  else terminal.out(describePruning(report, options.dryRun === true))
  return report
}

async function create(terminal: Terminal, network: string, options: CreateOptions): Promise<void> {
  const request: CreateRequest = {
    network: checkedName('network', network),
    ...(options.name === undefined ? {} : { name: checkedName('snapshot', options.name) }),
    ...(options.policy === undefined ? {} : { policy: options.policy as Policy }),
    ...(options.deadline === undefined ? {} : { deadlineMs: options.deadline }),
    ...(options.wait === true ? { wait: true } : {}),
    ...(options.record === true ? { record: true } : {}),
    ...(options.verify === undefined ? {} : { verify: options.verify }),
  }
  const deadlineMs = (options.deadline ?? createMs) + undoMs + verifyImagesMs
  const last = await withCoordinator(options, (client) =>
    follow(terminal, client.create(request, { deadlineMs }), options),
  )
  if (last.type !== 'manifest') throw unexpected(last)
  if (options.json === true) printJson(terminal, last.manifest)
  else terminal.out(describeCreated(last.manifest))
  refuseUnverified(last.manifest)
}

/** The snapshot stays: somebody may know how to make it load. */
function refuseUnverified({ network, name, parts }: Manifest): void {
  const failed = parts
    .flatMap(({ members }) => members)
    .flatMap(({ vm, verified }) => (verified?.verdict === 'fails' ? [`${vm}: ${verified.reason}`] : []))
  if (failed.length === 0) return
  throw new SnapswitchError(
    'SNAPSHOT_UNVERIFIED',
    `${network}/${name} was taken, but does not load: ${failed.join('; ')}`,
    'See what the machine has that others have not (docs/reference/machines.md), and take another. Delete this one if it is of no use.',
  )
}

async function restore(terminal: Terminal, given: string, options: RestoreOptions): Promise<void> {
  const order: RestoreOrder = {
    ...(options.place === undefined ? {} : { placement: options.place }),
    ...(options.replace === true ? { replace: true } : {}),
    ...(options.endFirst === true ? { endFirst: true } : {}),
    ...(options.wait === true ? { wait: true } : {}),
    ...(options.deadline === undefined ? {} : { deadlineMs: options.deadline }),
  }
  const deadlineMs = (options.deadline ?? restoreMs) + undoMs
  const last = await withCoordinator(options, async (client) => {
    const { network, name } = await resolveSnapshot(client, given)
    return follow(terminal, client.restore(network, name, order, { deadlineMs }), options)
  })
  if (last.type !== 'restored') throw unexpected(last)
  if (options.json === true) return printJson(terminal, last.report)
  terminal.out(describeRestore(last.report, new Date()))
}

async function list(terminal: Terminal, network: string | undefined, options: CommonOptions): Promise<void> {
  if (network !== undefined) checkedName('network', network)
  const manifests = await withCoordinator(options, async (client) => {
    const all = await client.snapshots({ deadlineMs: listMs, health: true })
    const found = all.filter((m) => network === undefined || m.network === network)
    if (network !== undefined && found.length === 0) await checkNetwork(client, network)
    return found
  })
  if (options.json === true) return printJson(terminal, manifests)
  terminal.out(tableOfSnapshots(manifests))
}

/** Throws NETWORK_UNKNOWN. */
async function checkNetwork(client: CoordinatorClient, network: string): Promise<void> {
  const known = (await client.status({ deadlineMs: callMs })).networks.map(({ name }) => name)
  knownNetwork('the coordinator', network, known)
}

async function show(terminal: Terminal, given: string, options: CommonOptions): Promise<void> {
  const manifest = await withCoordinator(options, async (client) => {
    const { network, name } = await resolveSnapshot(client, given)
    return client.snapshot(network, name, { deadlineMs: callMs, health: true })
  })
  if (options.json === true) return printJson(terminal, manifest)
  terminal.out(describeManifest(manifest))
}

async function frames(terminal: Terminal, given: string, options: CommonOptions): Promise<SnapshotFrames> {
  const report = await withCoordinator(options, async (client) => {
    const { network, name } = await resolveSnapshot(client, given)
    return client.frames(network, name, { deadlineMs: framesMs })
  })
  if (options.json === true) printJson(terminal, report)
  else terminal.out(describeFrames(report))
  return report
}

/** True when all is as it was. */
async function verify(terminal: Terminal, given: string, options: VerifyOptions): Promise<boolean> {
  const { manifest, report } = await withCoordinator(options, async (client) => {
    const { network, name } = await resolveSnapshot(client, given)
    const manifest = await client.snapshot(network, name, { deadlineMs: callMs })
    const request = options.quick === true ? { quick: true } : {}
    return { manifest, report: await client.verify(network, name, request, { deadlineMs: verifyMs }) }
  })
  if (options.json === true) printJson(terminal, report)
  else terminal.out(describeVerification(manifest, report))
  return report.health.verdict === 'ok'
}

async function audit(terminal: Terminal, given: string, options: CommonOptions): Promise<AuditReport> {
  const report = await withCoordinator(options, async (client) => {
    const { network, name } = await resolveSnapshot(client, given)
    return client.audit(network, name, { deadlineMs: auditMs })
  })
  if (options.json === true) printJson(terminal, report)
  else terminal.out(describeAudit(report))
  return report
}

async function remove(terminal: Terminal, given: string, options: CommonOptions): Promise<void> {
  const report = await withCoordinator(options, async (client) => {
    const { network, name } = await resolveSnapshot(client, given)
    return client.delete(network, name, { deadlineMs: deleteMs })
  })
  if (options.json === true) return printJson(terminal, { deleted: report })
  terminal.out(describeDeletion(report))
}

async function flatten(terminal: Terminal, given: string, options: CommonOptions): Promise<void> {
  const report = await withCoordinator(options, async (client) => {
    const { network, name } = await resolveSnapshot(client, given)
    return client.flatten(network, name, { deadlineMs: flattenMs })
  })
  if (options.json === true) return printJson(terminal, report)
  terminal.out(describeFlattening(report))
}

function unexpected(progress: Progress): SnapswitchError {
  return new SnapswitchError('INTERNAL', `the coordinator ended with ${progress.type}`, 'Check that versions agree.')
}
