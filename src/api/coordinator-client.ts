// Typed calls to the coordinator. Every answer is checked against the schema that the server was written for.

import { Type } from '@sinclair/typebox'
import { type CallOptions, Connection, type Limit } from './connection.js'
import { parseEndpoint } from './endpoint.js'
import { pathOf } from './paths.js'
import {
  AuditReport,
  CoordinatorStatus,
  type CreateRequest,
  DeleteReport,
  FlattenReport,
  Manifest,
  Progress,
  type PruneOrder,
  PruneReport,
  type RestoreOrder,
  SnapshotFrames,
  VerifyReport,
  type VerifyRequest,
} from './schemas.js'
import { validator } from './validate.js'

export type { CallOptions } from './connection.js'

const fits = {
  flattenReport: validator(FlattenReport),
  nothing: validator(Type.Object({})),
  pruneReport: validator(PruneReport),
  coordinatorStatus: validator(CoordinatorStatus),
  manifest: validator(Manifest),
  manifests: validator(Type.Array(Manifest)),
  progress: validator(Progress),
  deleted: validator(DeleteReport),
  audit: validator(AuditReport),
  frames: validator(SnapshotFrames),
  verified: validator(VerifyReport),
}

const healthQuery = ({ health }: { readonly health?: boolean }) => (health === true ? '?health=true' : '')

/** All manifests of a store at once: it may have hundreds, and the wire is a local socket. */
const listLimit: Limit = {
  bytes: 256 * 1024 * 1024,
  whenLonger:
    'Delete snapshots that nobody needs: snapswitch snapshot delete NETWORK/NAME. Commands take that name in any case.',
}

/** The coordinator. */
export class CoordinatorClient {
  readonly #connection: Connection

  /** `address`: as `parseEndpoint` reads it. Throws ENDPOINT_INVALID. */
  constructor(address: string, who = 'the coordinator') {
    const whenUnreachable =
      'Start the switch of this host, which has one (`snapswitch switch`), or `snapswitch coordinator`. Or name its socket with --socket.'
    this.#connection = new Connection({ endpoint: parseEndpoint(address), who, whenUnreachable })
  }

  status(options: CallOptions): Promise<CoordinatorStatus> {
    return this.#connection.json('GET', pathOf('status', {}), fits.coordinatorStatus, options)
  }

  /** Has the one inside `snapswitch switch` make way for another. Throws SNAPSHOT_BUSY, REQUEST_INVALID. */
  async stepAside(options: CallOptions): Promise<void> {
    await this.#connection.json('POST', pathOf('stepAside', {}), fits.nothing, options)
  }

  /**
   * Without the machines' definitions, which are most of a manifest. `health`: with the files' health, for which the
   * hosts are asked, a few seconds at most.
   */
  snapshots(options: CallOptions & { readonly health?: boolean }): Promise<Manifest[]> {
    const path = `${pathOf('snapshots', {})}${healthQuery(options)}`
    return this.#connection.json('GET', path, fits.manifests, options, undefined, listLimit)
  }

  snapshot(network: string, name: string, options: CallOptions & { readonly health?: boolean }): Promise<Manifest> {
    const path = `${pathOf('snapshot', { network, name })}${healthQuery(options)}`
    return this.#connection.json('GET', path, fits.manifest, options)
  }

  verify(network: string, name: string, body: VerifyRequest, options: CallOptions): Promise<VerifyReport> {
    return this.#connection.json('POST', pathOf('verify', { network, name }), fits.verified, options, body)
  }

  /** Yields progress; the last item is `manifest` or `error`. */
  create(body: CreateRequest, options: CallOptions): AsyncGenerator<Progress, void, undefined> {
    return this.#connection.ndjson('POST', pathOf('snapshots', {}), fits.progress, options, body)
  }

  /** Yields progress; the last item is `restored` or `error`. */
  restore(
    network: string,
    name: string,
    body: RestoreOrder,
    options: CallOptions,
  ): AsyncGenerator<Progress, void, undefined> {
    return this.#connection.ndjson('POST', pathOf('restore', { network, name }), fits.progress, options, body)
  }

  prune(body: PruneOrder, options: CallOptions): Promise<PruneReport> {
    return this.#connection.json('POST', pathOf('prune', {}), fits.pruneReport, options, body)
  }

  /** Copies each disk's chain of a snapshot into one image. */
  flatten(network: string, name: string, options: CallOptions): Promise<FlattenReport> {
    return this.#connection.json('POST', pathOf('flatten', { network, name }), fits.flattenReport, options)
  }

  /** The frames that a snapshot found on their way. */
  frames(network: string, name: string, options: CallOptions): Promise<SnapshotFrames> {
    return this.#connection.json('GET', pathOf('frames', { network, name }), fits.frames, options)
  }

  audit(network: string, name: string, options: CallOptions): Promise<AuditReport> {
    return this.#connection.json('POST', pathOf('audit', { network, name }), fits.audit, options)
  }

  delete(network: string, name: string, options: CallOptions): Promise<DeleteReport> {
    return this.#connection.json('DELETE', pathOf('snapshot', { network, name }), fits.deleted, options)
  }

  close(): Promise<void> {
    return this.#connection.close()
  }
}
