// The API of the agent: this host's half of snapshots and restores, and its disk images.

import { Type } from '@sinclair/typebox'
import { routes } from '../../src/api/paths.js'
import {
  Digest,
  DiscardRequest,
  FilesFound,
  FlatDisks,
  Flattened,
  FlattenRequest,
  HostHealth,
  LeftRequest,
  type LocalEvent,
  LocalPart,
  MachineDisks,
  Name,
  Preflight,
  PreflightQuery,
  PrepareRequest,
  Pruned,
  PruneRequest,
  Rehearsal,
  RehearseRequest,
  Removal,
  RemovalQuery,
  RestoreAbort,
  RestoreAborted,
  RestoreCheck,
  RestoreLoaded,
  RestorePause,
  RestorePaused,
  RestoreRequest,
  RestoreResumed,
  RestoreSwitch,
  RestoreSwitched,
  VerifyFiles,
} from '../../src/api/schemas.js'
import { type ApiInstance, streamNdjson, uploadOf } from '../../src/api/server.js'
import type { Agent } from './agent.js'
import { adoptFlat, flattenPart } from './disks/flattening.js'
import type { DiskService } from './disks/service.js'
import { findFaults, networkHealth } from './health.js'
import type { DaemonHost } from './host.js'
import type { Restores } from './restore/restores.js'

/**
 * How long the machines may take for a preflight when the request does not say; and what is kept of it for the answer.
 */
const ANSWER_MS = 5000
export const ANSWER_SHARE = 0.1

const InNetwork = Type.Object({ network: Name })
const OfSnapshot = Type.Object({ network: Name, snapshot: Name })
const Nothing = Type.Object({})

/** What bridges that were taken over have a snapshot of a network told. */
export type BridgesView = (network: string) => Required<Pick<Preflight, 'problems' | 'bridges'>>

export function addAgent(
  app: ApiInstance,
  host: DaemonHost,
  agent: Agent,
  disks: DiskService,
  bridgesOf: BridgesView,
): void {
  addSnapshots(app, host, agent, bridgesOf)
  addRestores(app, agent.restores)
  addDisks(app, host, disks)
}

function addSnapshots(app: ApiInstance, host: DaemonHost, agent: Agent, bridgesOf: BridgesView): void {
  app.get(
    routes.preflight,
    { schema: { params: InNetwork, querystring: PreflightQuery, response: { 200: Preflight } } },
    async (request) => {
      const { network } = request.params
      const waitMs = Number(request.query.deadlineMs ?? ANSWER_MS)
      const found = await agent.preflight(network, performance.now() + waitMs * (1 - ANSWER_SHARE))
      const { problems, bridges } = bridgesOf(network)
      return { ...found, undriven: host.holders.undriven(network), bridges, problems: [...found.problems, ...problems] }
    },
  )

  app.get(
    routes.health,
    { schema: { params: InNetwork, querystring: PreflightQuery, response: { 200: HostHealth } } },
    (request) => {
      const waitMs = Number(request.query.deadlineMs ?? ANSWER_MS)
      return networkHealth(host.store, request.params.network, performance.now() + waitMs * (1 - ANSWER_SHARE))
    },
  )

  app.post(
    routes.verifyFiles,
    { schema: { params: OfSnapshot, body: VerifyFiles, response: { 200: FilesFound } } },
    (request) => {
      const { files, quick, deadlineMs } = request.body
      const deadline = performance.now() + deadlineMs * (1 - ANSWER_SHARE)
      return findFaults(host.store, files, quick === true ? 'size' : 'content', deadline)
    },
  )

  app.post(routes.prepare, { schema: { params: OfSnapshot, body: PrepareRequest } }, async (request) => ({
    prepared: await agent.prepare({ ...request.params, ...request.body }),
  }))

  app.post(routes.take, { schema: { params: OfSnapshot } }, (request, reply) => {
    const events = agent.take(request.params.network, request.params.snapshot)
    return streamNdjson<LocalEvent>(reply, events, (error) => ({ type: 'failed', error }))
  })

  app.post(
    routes.discard,
    { schema: { params: OfSnapshot, body: DiscardRequest, response: { 200: Nothing } } },
    async (request) => {
      await agent.discard(request.params.network, request.params.snapshot, request.body.epoch)
      return {}
    },
  )

  app.get(routes.localSnapshot, { schema: { params: OfSnapshot, response: { 200: LocalPart } } }, (request) =>
    host.store.partAsWritten(request.params.network, request.params.snapshot),
  )

  app.delete(
    routes.localSnapshot,
    { schema: { params: OfSnapshot, querystring: RemovalQuery, response: { 200: Removal } } },
    (request) => {
      const { network, snapshot } = request.params
      const { epoch } = request.query
      return agent.remove(network, snapshot, epoch === undefined ? null : Number(epoch))
    },
  )

  const OfFile = Type.Object({ network: Name, snapshot: Name, digest: Digest })

  app.get(routes.file, { schema: { params: OfFile } }, async (request, reply) => {
    const { network, snapshot, digest } = request.params
    const { stream, bytes } = await host.store.images.openFile(network, snapshot, digest)
    return reply.type('application/octet-stream').header('content-length', bytes).send(stream)
  })

  app.put(routes.file, { schema: { params: OfFile } }, async (request) => {
    const { digest } = request.params
    await host.store.images.receive(digest, uploadOf(request.body))
    return {}
  })
}

function addRestores(app: ApiInstance, restores: Restores): void {
  const load = { params: OfSnapshot, body: RestoreRequest }

  app.post(routes.restoreCheck, { schema: { ...load, response: { 200: RestoreCheck } } }, (request) =>
    restores.check(request.params.network, request.body),
  )

  app.post(routes.restoreLoad, { schema: { ...load, response: { 200: RestoreLoaded } } }, (request) =>
    restores.load(request.params.network, request.params.snapshot, request.body),
  )

  app.post(
    routes.restorePause,
    { schema: { params: OfSnapshot, body: RestorePause, response: { 200: RestorePaused } } },
    (request) => restores.pause(request.params.network, request.params.snapshot, request.body),
  )

  app.post(
    routes.restoreSwitch,
    { schema: { params: OfSnapshot, body: RestoreSwitch, response: { 200: RestoreSwitched } } },
    (request) => restores.switchOver(request.params.network, request.params.snapshot, request.body.deadlineMs),
  )

  app.post(routes.restoreResume, { schema: { params: OfSnapshot, response: { 200: RestoreResumed } } }, (request) =>
    restores.resume(request.params.network, request.params.snapshot),
  )

  app.post(
    routes.restoreAbort,
    { schema: { params: OfSnapshot, body: RestoreAbort, response: { 200: RestoreAborted } } },
    (request) => restores.abort(request.params.network, request.params.snapshot, request.body.epoch),
  )

  app.post(
    routes.left,
    { schema: { params: InNetwork, body: LeftRequest, response: { 200: Nothing } } },
    async (request) => {
      const { vms, released } = request.body
      await restores.left(request.params.network, vms, released ?? [])
      return {}
    },
  )
}

function addDisks(app: ApiInstance, host: DaemonHost, disks: DiskService): void {
  app.post(
    routes.flattenMachine,
    { schema: { params: Type.Object({ vm: Name }), response: { 200: Flattened } } },
    async (request) => ({ disks: await disks.keeper.flatten(request.params.vm) }),
  )

  app.post(routes.pruneDisks, { schema: { body: PruneRequest, response: { 200: Pruned } } }, (request) =>
    disks.prune(request.body),
  )

  app.get(
    routes.machineDisks,
    { schema: { params: Type.Object({ vm: Name }), response: { 200: MachineDisks } } },
    (request) => disks.disksOf(request.params.vm),
  )

  app.post(
    routes.rehearse,
    { schema: { params: OfSnapshot, body: RehearseRequest, response: { 200: Rehearsal } } },
    (request) => {
      const { network, snapshot } = request.params
      return disks.rehearse(network, snapshot, performance.now() + request.body.deadlineMs)
    },
  )

  app.post(
    routes.flattenPart,
    { schema: { params: OfSnapshot, body: FlattenRequest, response: { 200: FlatDisks } } },
    (request) => {
      const { network, snapshot } = request.params
      return flattenPart(host, disks.keeper, network, snapshot, performance.now() + request.body.deadlineMs)
    },
  )

  app.post(
    routes.adoptFlat,
    { schema: { params: OfSnapshot, body: FlatDisks, response: { 200: Nothing } } },
    async (request) => {
      await adoptFlat(host, disks.keeper, request.params.network, request.params.snapshot, request.body)
      return {}
    },
  )
}
