// The hosts' agents as the coordinator sees them: an interface that the runner performs effects through, and the real
// one over the switches' sockets. Tests and the simulator put their own behind it.

import { createHash } from 'node:crypto'
import type {
  FileReference,
  FilesFound,
  FlatDisks,
  HostHealth,
  LeftRequest,
  LocalEvent,
  LocalPart,
  PortInfo,
  Preflight,
  PrepareRequest,
  Pruned,
  PruneRequest,
  Rehearsal,
  Removal,
  RestoreAborted,
  RestoreCheck,
  RestoreLoaded,
  RestorePause,
  RestorePaused,
  RestoreRequest,
  RestoreResumed,
  RestoreSwitched,
  VerifyFiles,
} from '../src/api/schemas.js'
import { SwitchClient } from '../src/api/switch-client.js'
import { SnapswitchError } from '../src/errors/errors.js'
import { runAhead } from '../src/linux/priority.js'
import { collectGarbage } from '../src/runtime/engine.js'
import { relay } from './relay.js'
import type { Transfer } from './sequence/restore/plan.js'

export interface Call {
  /** Milliseconds until the answer must be complete. */
  readonly timeoutMs: number
  readonly signal?: AbortSignal
}

/** One network's agents. Every method rejects with a SnapswitchError, in time. */
export interface Agents {
  preflight(host: string, call: Call): Promise<Preflight>
  prepare(host: string, snapshot: string, request: PrepareRequest, call: Call): Promise<void>
  take(host: string, snapshot: string, call: Call): AsyncIterable<LocalEvent>
  discard(host: string, snapshot: string, epoch: number, call: Call): Promise<void>
  /** By a quick look: the files of all parts that the host has. */
  health(host: string, call: Call): Promise<HostHealth>
  verify(host: string, snapshot: string, request: VerifyFiles, call: Call): Promise<FilesFound>
  /** Loads every image of the host's part into a throw-away machine. */
  rehearse(host: string, snapshot: string, call: Call): Promise<Rehearsal>
  /** Copies each disk's chain into one image. */
  flatten(host: string, snapshot: string, call: Call): Promise<FlatDisks>
  /** From then on the host's part names those copies. */
  adoptFlat(host: string, snapshot: string, disks: FlatDisks, call: Call): Promise<void>
  /** What the host has written down of its part. Throws SNAPSHOT_UNKNOWN, STORE_DAMAGED. */
  part(host: string, snapshot: string, call: Call): Promise<LocalPart>
  /** `epoch`: a part that has another one stays; null: whatever has the name goes. */
  deleteSnapshot(host: string, snapshot: string, epoch: number | null, call: Call): Promise<Removal>
  /** Removes and merges what nobody needs on a host. */
  prune(host: string, request: PruneRequest, call: Call): Promise<Pruned>
  restoreCheck(host: string, snapshot: string, request: RestoreRequest, call: Call): Promise<RestoreCheck>
  /** `onBytes` is told how many bytes more have gone. Rejects with an error that names the host it is about. */
  transfer(transfer: Transfer, snapshot: string, call: Call, onBytes: (bytes: number) => void): Promise<void>
  /** The content of a file; rejects when it is longer than `limit` bytes. */
  download(host: string, snapshot: string, file: FileReference, limit: number, call: Call): Promise<Uint8Array>
  /**
   * A restore is over, and these machines live on other hosts now; or a snapshot is gone, and nothing has those
   * contents any more.
   */
  left(host: string, what: LeftRequest, call: Call): Promise<void>
  restoreLoad(host: string, snapshot: string, request: RestoreRequest, call: Call): Promise<RestoreLoaded>
  restorePause(host: string, snapshot: string, order: RestorePause, call: Call): Promise<RestorePaused>
  restoreSwitch(host: string, snapshot: string, call: Call): Promise<RestoreSwitched>
  restoreResume(host: string, snapshot: string, call: Call): Promise<RestoreResumed>
  restoreAbort(host: string, snapshot: string, epoch: number, call: Call): Promise<RestoreAborted>
  ports(host: string, call: Call): Promise<PortInfo[]>
  close(): Promise<void>
}

/** Time to send TAKE to all hosts. */
const TAKE_LEAD_MS = 5

export class SocketAgents implements Agents {
  readonly #network: string
  readonly #clients: ReadonlyMap<string, SwitchClient>
  #collecting: NodeJS.Immediate | undefined

  /** `sockets`: host -> address of its switch daemon. */
  constructor(network: string, sockets: Readonly<Record<string, string>>) {
    this.#network = network
    const entries = Object.entries(sockets)
    this.#clients = new Map(
      entries.map(([host, address]) => [host, new SwitchClient(address, `the switch daemon of host ${host}`)]),
    )
  }

  preflight(host: string, call: Call): Promise<Preflight> {
    return this.#client(host).preflight(this.#network, options(call))
  }

  async prepare(host: string, snapshot: string, request: PrepareRequest, call: Call): Promise<void> {
    const prepared = this.#client(host).prepare(this.#network, snapshot, request, options(call))
    // While the hosts work there is time for it, at TAKE there is none.
    clearImmediate(this.#collecting)
    this.#collecting = setImmediate(collectGarbage)
    await prepared
  }

  take(host: string, snapshot: string, call: Call): AsyncIterable<LocalEvent> {
    // All hosts are told at once: this process must not lose its core to the cut of the first.
    runAhead([process.pid], 'switch', TAKE_LEAD_MS)
    return this.#client(host).take(this.#network, snapshot, options(call))
  }

  discard(host: string, snapshot: string, epoch: number, call: Call): Promise<void> {
    return this.#client(host).discard(this.#network, snapshot, { epoch }, options(call))
  }

  health(host: string, call: Call): Promise<HostHealth> {
    return this.#client(host).health(this.#network, options(call))
  }

  verify(host: string, snapshot: string, request: VerifyFiles, call: Call): Promise<FilesFound> {
    return this.#client(host).verifyFiles(this.#network, snapshot, request, options(call))
  }

  rehearse(host: string, snapshot: string, call: Call): Promise<Rehearsal> {
    const deadlineMs = Math.max(1, Math.round(call.timeoutMs * 0.9))
    return this.#client(host).rehearse(this.#network, snapshot, { deadlineMs }, options(call))
  }

  flatten(host: string, snapshot: string, call: Call): Promise<FlatDisks> {
    const deadlineMs = Math.max(1, Math.round(call.timeoutMs * 0.9))
    return this.#client(host).flattenPart(this.#network, snapshot, { deadlineMs }, options(call))
  }

  adoptFlat(host: string, snapshot: string, disks: FlatDisks, call: Call): Promise<void> {
    return this.#client(host).adoptFlat(this.#network, snapshot, disks, options(call))
  }

  part(host: string, snapshot: string, call: Call): Promise<LocalPart> {
    return this.#client(host).part(this.#network, snapshot, options(call))
  }

  deleteSnapshot(host: string, snapshot: string, epoch: number | null, call: Call): Promise<Removal> {
    return this.#client(host).deleteSnapshot(this.#network, snapshot, epoch, options(call))
  }

  prune(host: string, request: PruneRequest, call: Call): Promise<Pruned> {
    return this.#client(host).pruneDisks(request, options(call))
  }

  restoreCheck(host: string, snapshot: string, request: RestoreRequest, call: Call): Promise<RestoreCheck> {
    return this.#client(host).restoreCheck(this.#network, snapshot, request, options(call))
  }

  transfer(transfer: Transfer, snapshot: string, call: Call, onBytes: (bytes: number) => void): Promise<void> {
    const [source, target] = [this.#client(transfer.from), this.#client(transfer.to)]
    return relay(transfer, { network: this.#network, snapshot, source, target, ...call, onBytes })
  }

  async download(host: string, snapshot: string, file: FileReference, limit: number, call: Call): Promise<Uint8Array> {
    const source = await this.#client(host).downloadFile(this.#network, snapshot, file.digest, options(call))
    const pieces: Uint8Array[] = []
    let bytes = 0
    const hash = createHash('sha256')
    try {
      for await (const piece of source as AsyncIterable<Uint8Array>) {
        bytes += piece.length
        if (bytes > limit) throw tooLong(file, limit)
        hash.update(piece)
        pieces.push(piece)
      }
    } finally {
      source.on('error', () => {}).destroy()
    }
    if (hash.digest('hex') === file.digest) return Buffer.concat(pieces)
    throw new SnapswitchError(
      'STORE_DAMAGED',
      `what host ${host} sent is not the file ${file.path}`,
      'The file is damaged there, or was cut off: try again.',
    )
  }

  left(host: string, what: LeftRequest, call: Call): Promise<void> {
    return this.#client(host).left(this.#network, what, options(call))
  }

  restoreLoad(host: string, snapshot: string, request: RestoreRequest, call: Call): Promise<RestoreLoaded> {
    return this.#client(host).restoreLoad(this.#network, snapshot, request, options(call))
  }

  restorePause(host: string, snapshot: string, order: RestorePause, call: Call): Promise<RestorePaused> {
    return this.#client(host).restorePause(this.#network, snapshot, order, options(call))
  }

  restoreSwitch(host: string, snapshot: string, call: Call): Promise<RestoreSwitched> {
    const body = { deadlineMs: call.timeoutMs }
    return this.#client(host).restoreSwitch(this.#network, snapshot, body, options(call))
  }

  restoreResume(host: string, snapshot: string, call: Call): Promise<RestoreResumed> {
    return this.#client(host).restoreResume(this.#network, snapshot, options(call))
  }

  restoreAbort(host: string, snapshot: string, epoch: number, call: Call): Promise<RestoreAborted> {
    return this.#client(host).restoreAbort(this.#network, snapshot, { epoch }, options(call))
  }

  ports(host: string, call: Call): Promise<PortInfo[]> {
    return this.#client(host).ports(options(call))
  }

  async close(): Promise<void> {
    await Promise.all([...this.#clients.values()].map((client) => client.close()))
  }

  #client(host: string): SwitchClient {
    const client = this.#clients.get(host)
    if (client !== undefined) return client
    throw noHost(this.#network, host)
  }
}

/** A snapshot may have parts on hosts that are of its network no more. */
export function noHost(network: string, host: string): SnapswitchError {
  return new SnapswitchError(
    'SOCKET_UNREACHABLE',
    `network ${network} has no host ${host} any more`,
    'Name it under `hosts:` again.',
  )
}

function tooLong(file: FileReference, limit: number): SnapswitchError {
  return new SnapswitchError(
    'STORE_DAMAGED',
    `${file.path} is longer than ${limit} bytes`,
    'No switch writes such files; look at the host’s state directory.',
  )
}

function options(call: Call): { readonly deadlineMs: number; readonly signal?: AbortSignal } {
  return call.signal === undefined
    ? { deadlineMs: call.timeoutMs }
    : { deadlineMs: call.timeoutMs, signal: call.signal }
}
