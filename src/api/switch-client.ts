// Typed calls to a host's switch daemon. Every answer is checked against the schema that the server was written for.

import type { Readable } from 'node:stream'
import { Type } from '@sinclair/typebox'
import { type CallOptions, Connection } from './connection.js'
import { parseEndpoint } from './endpoint.js'
import { pathOf } from './paths.js'
import {
  BridgeInfo,
  CaptureInfo,
  type CaptureRequest,
  type DiscardRequest,
  FastVerdict,
  FdbEntry,
  FilesFound,
  FlatDisks,
  Flattened,
  type FlattenRequest,
  GivenBack,
  HostHealth,
  type LeftRequest,
  LocalEvent,
  LocalPart,
  MachineDisks,
  PlayEvent,
  type PlayRequest,
  PortInfo,
  Preflight,
  type PrepareRequest,
  Pruned,
  type PruneRequest,
  type RecordingRequest,
  Rehearsal,
  type RehearseRequest,
  Reloaded,
  Removal,
  type RestoreAbort,
  RestoreAborted,
  RestoreCheck,
  RestoreLoaded,
  type RestorePause,
  RestorePaused,
  type RestoreRequest,
  RestoreResumed,
  type RestoreSwitch,
  RestoreSwitched,
  SwitchStatus,
  type TakeRequest,
  type VerifyFiles,
} from './schemas.js'
import { validator } from './validate.js'

export type { CallOptions } from './connection.js'

const fits = {
  status: validator(SwitchStatus),
  ports: validator(Type.Array(PortInfo)),
  playEvent: validator(PlayEvent),
  bridge: validator(BridgeInfo),
  givenBack: validator(GivenBack),
  bridges: validator(Type.Array(BridgeInfo)),
  captures: validator(Type.Array(CaptureInfo)),
  fdb: validator(Type.Array(FdbEntry)),
  verdicts: validator(Type.Array(FastVerdict)),
  machineDisks: validator(MachineDisks),
  flattened: validator(Flattened),
  flatDisks: validator(FlatDisks),
  preflight: validator(Preflight),
  prepared: validator(Type.Object({ prepared: Type.Array(Type.String()) })),
  localEvent: validator(LocalEvent),
  part: validator(LocalPart),
  nothing: validator(Type.Object({})),
  restoreCheck: validator(RestoreCheck),
  restoreLoaded: validator(RestoreLoaded),
  aborted: validator(RestoreAborted),
  paused: validator(RestorePaused),
  switched: validator(RestoreSwitched),
  restoreResumed: validator(RestoreResumed),
  removal: validator(Removal),
  rehearsal: validator(Rehearsal),
  pruned: validator(Pruned),
  reloaded: validator(Reloaded),
  health: validator(HostHealth),
  filesFound: validator(FilesFound),
}

/** A host's switch daemon. */
export class SwitchClient {
  readonly #connection: Connection

  /** `address`: as `parseEndpoint` reads it. Throws ENDPOINT_INVALID. */
  constructor(address: string, who = 'the switch daemon') {
    const whenUnreachable = 'Start it: `snapswitch switch`. Or name its socket with --socket.'
    this.#connection = new Connection({ endpoint: parseEndpoint(address), who, whenUnreachable })
  }

  status(options: CallOptions): Promise<SwitchStatus> {
    return this.#connection.json('GET', pathOf('status', {}), fits.status, options)
  }

  bridges(options: CallOptions): Promise<BridgeInfo[]> {
    return this.#connection.json('GET', pathOf('bridges', {}), fits.bridges, options)
  }

  takeBridge(body: TakeRequest, options: CallOptions): Promise<BridgeInfo> {
    return this.#connection.json('POST', pathOf('bridges', {}), fits.bridge, options, body)
  }

  giveBridge(bridge: string, options: CallOptions): Promise<GivenBack> {
    return this.#connection.json('DELETE', pathOf('bridge', { bridge }), fits.givenBack, options)
  }

  ports(options: CallOptions): Promise<PortInfo[]> {
    return this.#connection.json('GET', pathOf('ports', {}), fits.ports, options)
  }

  /** The ports of a play, and where its frames are sent; it is over when the caller stops asking, or ends its end. */
  play(body: PlayRequest, options: CallOptions): AsyncGenerator<PlayEvent, void, undefined> {
    return this.#connection.ndjson('POST', pathOf('plays', {}), fits.playEvent, options, body)
  }

  fdb(network: string, options: CallOptions): Promise<FdbEntry[]> {
    return this.#connection.json('GET', pathOf('fdb', { network }), fits.fdb, options)
  }

  /** Frames of a network as they pass: records as src/capture/stream.ts reads them, until either side ends it. */
  capture(network: string, body: CaptureRequest, options: CallOptions): Promise<Readable> {
    return this.#connection.open('POST', pathOf('networkCapture', { network }), options, body)
  }

  captures(options: CallOptions): Promise<CaptureInfo[]> {
    return this.#connection.json('GET', pathOf('captures', {}), fits.captures, options)
  }

  /** What it has seen so far comes yet, and then its end. */
  async endCapture(id: number, options: CallOptions): Promise<void> {
    await this.#connection.json('DELETE', pathOf('capture', { id: String(id) }), fits.nothing, options)
  }

  verdicts(network: string, options: CallOptions): Promise<FastVerdict[]> {
    return this.#connection.json('GET', pathOf('verdicts', { network }), fits.verdicts, options)
  }

  /** A run of a network as it happens: the bytes of its file, until either side ends it. */
  record(network: string, body: RecordingRequest, options: CallOptions): Promise<Readable> {
    return this.#connection.open('POST', pathOf('networkRecording', { network }), options, body)
  }

  /** What it has so far comes yet, and then its end. */
  async endRecording(network: string, options: CallOptions): Promise<void> {
    await this.#connection.json('DELETE', pathOf('networkRecording', { network }), fits.nothing, options)
  }

  /** The daemon reads its configuration again. */
  reload(options: CallOptions): Promise<Reloaded> {
    return this.#connection.json('POST', pathOf('reload', {}), fits.reloaded, options)
  }

  /** Removes and merges what nobody needs. */
  pruneDisks(body: PruneRequest, options: CallOptions): Promise<Pruned> {
    return this.#connection.json('POST', pathOf('pruneDisks', {}), fits.pruned, options, body)
  }

  /** Makes the chains of a machine's disks short. */
  flattenMachine(vm: string, options: CallOptions): Promise<Flattened> {
    return this.#connection.json('POST', pathOf('flattenMachine', { vm }), fits.flattened, options)
  }

  machineDisks(vm: string, options: CallOptions): Promise<MachineDisks> {
    return this.#connection.json('GET', pathOf('machineDisks', { vm }), fits.machineDisks, options)
  }

  preflight(network: string, options: CallOptions): Promise<Preflight> {
    const path = `${pathOf('preflight', { network })}?deadlineMs=${Math.max(1, Math.min(3_600_000, Math.floor(options.deadlineMs)))}`
    return this.#connection.json('GET', path, fits.preflight, options)
  }

  async prepare(network: string, snapshot: string, body: PrepareRequest, options: CallOptions): Promise<string[]> {
    const path = pathOf('prepare', { network, snapshot })
    return (await this.#connection.json('POST', path, fits.prepared, options, body)).prepared
  }

  /** Yields events until `done` or `failed`; throws when the stream ends without either. */
  take(network: string, snapshot: string, options: CallOptions): AsyncGenerator<LocalEvent, void, undefined> {
    return this.#connection.ndjson('POST', pathOf('take', { network, snapshot }), fits.localEvent, options, {})
  }

  async discard(network: string, snapshot: string, body: DiscardRequest, options: CallOptions): Promise<void> {
    await this.#connection.json('POST', pathOf('discard', { network, snapshot }), fits.nothing, options, body)
  }

  part(network: string, snapshot: string, options: CallOptions): Promise<LocalPart> {
    return this.#connection.json('GET', pathOf('localSnapshot', { network, snapshot }), fits.part, options)
  }

  /** `epoch`: a part that has another one stays; null: whatever has the name goes. */
  deleteSnapshot(network: string, snapshot: string, epoch: number | null, options: CallOptions): Promise<Removal> {
    const path = pathOf('localSnapshot', { network, snapshot })
    const query = epoch === null ? '' : `?epoch=${epoch}`
    return this.#connection.json('DELETE', `${path}${query}`, fits.removal, options)
  }

  health(network: string, options: CallOptions): Promise<HostHealth> {
    const path = `${pathOf('health', { network })}?deadlineMs=${Math.max(1, Math.floor(options.deadlineMs))}`
    return this.#connection.json('GET', path, fits.health, options)
  }

  rehearse(network: string, snapshot: string, body: RehearseRequest, options: CallOptions): Promise<Rehearsal> {
    return this.#connection.json('POST', pathOf('rehearse', { network, snapshot }), fits.rehearsal, options, body)
  }

  /** Copies each disk's chain into one image. */
  flattenPart(network: string, snapshot: string, body: FlattenRequest, options: CallOptions): Promise<FlatDisks> {
    return this.#connection.json('POST', pathOf('flattenPart', { network, snapshot }), fits.flatDisks, options, body)
  }

  /** From then on the part names those copies. */
  async adoptFlat(network: string, snapshot: string, body: FlatDisks, options: CallOptions): Promise<void> {
    await this.#connection.json('POST', pathOf('adoptFlat', { network, snapshot }), fits.nothing, options, body)
  }

  verifyFiles(network: string, snapshot: string, body: VerifyFiles, options: CallOptions): Promise<FilesFound> {
    return this.#connection.json('POST', pathOf('verifyFiles', { network, snapshot }), fits.filesFound, options, body)
  }

  downloadFile(network: string, snapshot: string, digest: string, options: CallOptions): Promise<Readable> {
    return this.#connection.download(pathOf('file', { network, snapshot, digest }), options)
  }

  /** The agent keeps the file only when its sha256 is `digest`. */
  async uploadFile(
    network: string,
    snapshot: string,
    file: { readonly digest: string; readonly bytes: number },
    content: Readable,
    options: CallOptions,
  ): Promise<void> {
    const path = pathOf('file', { network, snapshot, digest: file.digest })
    await this.#connection.upload(path, content, file.bytes, options)
  }

  restoreCheck(network: string, snapshot: string, body: RestoreRequest, options: CallOptions): Promise<RestoreCheck> {
    const path = pathOf('restoreCheck', { network, snapshot })
    return this.#connection.json('POST', path, fits.restoreCheck, options, body)
  }

  restoreLoad(network: string, snapshot: string, body: RestoreRequest, options: CallOptions): Promise<RestoreLoaded> {
    const path = pathOf('restoreLoad', { network, snapshot })
    return this.#connection.json('POST', path, fits.restoreLoaded, options, body)
  }

  restorePause(network: string, snapshot: string, body: RestorePause, options: CallOptions): Promise<RestorePaused> {
    return this.#connection.json('POST', pathOf('restorePause', { network, snapshot }), fits.paused, options, body)
  }

  restoreSwitch(
    network: string,
    snapshot: string,
    body: RestoreSwitch,
    options: CallOptions,
  ): Promise<RestoreSwitched> {
    return this.#connection.json('POST', pathOf('restoreSwitch', { network, snapshot }), fits.switched, options, body)
  }

  restoreResume(network: string, snapshot: string, options: CallOptions): Promise<RestoreResumed> {
    const path = pathOf('restoreResume', { network, snapshot })
    return this.#connection.json('POST', path, fits.restoreResumed, options)
  }

  restoreAbort(network: string, snapshot: string, body: RestoreAbort, options: CallOptions): Promise<RestoreAborted> {
    return this.#connection.json('POST', pathOf('restoreAbort', { network, snapshot }), fits.aborted, options, body)
  }

  /**
   * A restore is over, or a snapshot is gone: what those machines had here, and copies of those contents, nobody needs
   * any more.
   */
  async left(network: string, body: LeftRequest, options: CallOptions): Promise<void> {
    await this.#connection.json('POST', pathOf('left', { network }), fits.nothing, options, body)
  }

  close(): Promise<void> {
    return this.#connection.close()
  }
}
