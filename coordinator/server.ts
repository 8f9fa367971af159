// The coordinator's API on its unix socket. Routes only: what they do is in coordinator.ts.

import { Type } from '@sinclair/typebox'
import type { Logger } from 'pino'
import type { Endpoint } from '../src/api/endpoint.js'
import { routes } from '../src/api/paths.js'
import {
  AuditReport,
  CoordinatorStatus,
  CreateRequest,
  DeleteReport,
  FlattenReport,
  Manifest,
  type Progress,
  Progress as ProgressSchema,
  PruneOrder,
  PruneReport,
  RestoreOrder,
  SnapshotFrames,
  VerifyReport,
  VerifyRequest,
} from '../src/api/schemas.js'
import { type Api, createApi, ndjsonOf, streamNdjson } from '../src/api/server.js'
import { asSnapswitchError, type ErrorReport } from '../src/errors/errors.js'
import type { Coordinator, ReportProgress } from './coordinator.js'

/** Steps that wait for a slow reader; beyond it the oldest are dropped (the last line never is). */
const progressLimit = 4_096

const HealthQuery = Type.Object({ health: Type.Optional(Type.Literal('true')) })

const Nothing = Type.Object({})
const oneSnapshot = Type.Object({ network: Type.String(), name: Type.String() })

export async function createCoordinatorApi(
  coordinator: Coordinator,
  options: {
    readonly endpoint: Endpoint
    readonly logger: Logger
    readonly version: string
    /** Somebody starts another coordinator; throws why this one stays. */
    readonly onStepAside?: () => void
  },
): Promise<Api> {
  const api = await createApi({ ...options, title: 'snapswitch coordinator' })
  const { app } = api

  app.get(routes.status, { schema: { summary: 'Networks and hosts', response: { 200: CoordinatorStatus } } }, () =>
    coordinator.status(),
  )
  app.post(
    routes.stepAside,
    {
      schema: {
        summary: 'Has the coordinator inside `snapswitch switch` make way for another',
        response: { 200: Nothing },
      },
    },
    async () => {
      options.onStepAside?.()
      return {}
    },
  )
  app.get(
    routes.snapshots,
    {
      schema: {
        summary: 'All snapshots; in place of each machine’s definition is null',
        querystring: HealthQuery,
        response: { 200: Type.Array(Manifest) },
      },
    },
    async (request) => {
      const all = request.query.health === 'true' ? await coordinator.listWithHealth() : await coordinator.list()
      return all.map(withoutDefinitions)
    },
  )
  app.get(
    routes.snapshot,
    { schema: { summary: 'One snapshot', params: oneSnapshot, querystring: HealthQuery, response: { 200: Manifest } } },
    async (request) => {
      const found = await coordinator.show(request.params.network, request.params.name)
      return request.query.health === 'true' ? coordinator.withHealth(found) : found
    },
  )
  app.post(
    routes.snapshots,
    {
      schema: {
        summary: 'Takes a snapshot; answers with Progress as NDJSON, the last line `manifest` or `error`',
        body: CreateRequest,
        response: { 200: ndjsonOf(ProgressSchema) },
      },
    },
    (request, reply) =>
      streamNdjson(
        reply,
        progressOf(async (report) => ({ type: 'manifest', manifest: await coordinator.create(request.body, report) })),
        failure,
      ),
  )
  app.post(
    routes.restore,
    {
      schema: {
        summary: 'Restores a snapshot; answers with Progress as NDJSON, the last line `restored` or `error`',
        params: oneSnapshot,
        body: RestoreOrder,
        response: { 200: ndjsonOf(ProgressSchema) },
      },
    },
    (request, reply) => {
      const { network, name } = request.params
      return streamNdjson(
        reply,
        progressOf(async (report) => ({
          type: 'restored',
          report: await coordinator.restore(network, name, request.body, report),
        })),
        failure,
      )
    },
  )
  app.post(
    routes.audit,
    {
      schema: {
        summary: 'Checks a snapshot made with `record` against the protocol’s invariants',
        params: oneSnapshot,
        response: { 200: AuditReport },
      },
    },
    (request) => coordinator.audit(request.params.network, request.params.name),
  )
  app.get(
    routes.frames,
    {
      schema: {
        summary: 'Lists the frames that a snapshot found on their way',
        params: oneSnapshot,
        response: { 200: SnapshotFrames },
      },
    },
    (request) => coordinator.frames(request.params.network, request.params.name),
  )
  app.post(
    routes.verify,
    {
      schema: {
        summary: 'Looks whether every file of a snapshot is on its host as it was',
        params: oneSnapshot,
        body: VerifyRequest,
        response: { 200: VerifyReport },
      },
    },
    (request) => coordinator.verify(request.params.network, request.params.name, request.body),
  )
  app.post(
    routes.flatten,
    {
      schema: {
        summary: 'Copies each disk’s chain of images in a snapshot into one image',
        params: oneSnapshot,
        response: { 200: FlattenReport },
      },
    },
    (request) => coordinator.flatten(request.params.network, request.params.name),
  )
  app.post(
    routes.prune,
    {
      schema: {
        summary: 'Removes what failed snapshots have left and image files that nobody needs',
        body: PruneOrder,
        response: { 200: PruneReport },
      },
    },
    (request) => coordinator.prune(request.body),
  )
  app.delete(
    routes.snapshot,
    {
      schema: {
        summary: 'Deletes a snapshot, the hosts’ parts first; says what that did',
        params: oneSnapshot,
        response: { 200: DeleteReport },
      },
    },
    (request) => coordinator.delete(request.params.network, request.params.name),
  )
  return api
}

/** They are most of a manifest, and no list shows them. */
const withoutDefinitions = (manifest: Manifest): Manifest => ({
  ...manifest,
  parts: manifest.parts.map((part) => ({
    ...part,
    members: part.members.map((member) => ({ ...member, definition: null })),
  })),
})

const failure = (error: ErrorReport): Progress => ({ type: 'error', error })

/**
 * Runs `act` and yields what it reports, then its result or error. A reader that goes away ends the reporting only: the
 * work goes on, since half a snapshot helps nobody, and its outcome is in the catalogue.
 */
async function* progressOf(act: (report: ReportProgress) => Promise<Progress>): AsyncGenerator<Progress> {
  const queue: Progress[] = []
  let wake: (() => void) | null = null
  let ended = false
  const push = (progress: Progress) => {
    if (queue.length >= progressLimit) queue.shift()
    queue.push(progress)
    wake?.()
  }
  const end = (last: Progress) => {
    push(last)
    ended = true
    wake?.()
  }
  act(push).then(end, (thrown: unknown) => end(failure(asSnapswitchError(thrown).report())))
  for (;;) {
    const next = queue.shift()
    if (next !== undefined) {
      yield next
    } else if (ended) {
      return
    } else {
      await new Promise<void>((resolve) => {
        wake = resolve
      })
      wake = null
    }
  }
}
