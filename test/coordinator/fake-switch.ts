// A switch daemon's API on a real unix socket, with made-up machines behind it: what it is asked is written down, and
// any answer can be replaced by a failure or by silence. For tests of the coordinator and of the command.

import { createHash } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { pino } from 'pino'
import { parseEndpoint } from '../../src/api/endpoint.js'
import { type RouteName, routes } from '../../src/api/paths.js'
import type {
  DiscardRequest,
  FlatDisks,
  LeftRequest,
  LocalEvent,
  LocalPart,
  PortInfo,
  PrepareRequest,
  Pruned,
  PruneRequest,
  RestorePause,
  RestoreRequest,
  Verdict,
  VerifyFiles,
} from '../../src/api/schemas.js'
import { type Api, createApi, streamNdjson } from '../../src/api/server.js'
import { SnapswitchError } from '../../src/errors/errors.js'
import { version } from '../../src/runtime/package.js'
import { partOf, preflightOf } from './fixtures.js'

export const silent = pino({ level: 'silent' })

/** A fresh directory that the test removes at its end. */
export async function workDirectory(t: { teardown(act: () => Promise<void>): void }): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'snapswitch-test-'))
  t.teardown(() => rm(directory, { recursive: true, force: true }))
  return directory
}

/** `silent`: it never answers. A promise: it answers when that comes, with the error if there is one. */
export type Fault = SnapswitchError | 'silent' | Promise<SnapswitchError | null>

export class FakeSwitch {
  readonly host: string
  readonly socketPath: string
  vms: string[]
  epoch = 0
  /** Of which it is. */
  networks = ['lab0']
  running: string[]
  /** What was asked, in order: `prepare 1`, `take`, `discard 1`, ... */
  readonly calls: string[] = []
  /** Replaces a route's answer while set. */
  readonly faults = new Map<RouteName, Fault>()
  /** What a rehearsal says of each machine. */
  verdict: Verdict = { verdict: 'loads', reason: null }
  /** What flattening has made. */
  flat: FlatDisks['members'] = []
  /** Copies that nothing on the host needs. */
  copies: NonNullable<Pruned['copies']> = []
  /** Contents that no snapshot has any more. */
  readonly released: string[] = []
  /** Files by digest. */
  readonly files = new Map<string, Buffer>()
  /** Replaces the stream of `take`. */
  takeEvents: (() => AsyncIterable<LocalEvent>) | null = null
  /** Of finished snapshots, by name. */
  readonly parts = new Map<string, LocalPart>()
  /** Names of those whose record cannot be read. */
  readonly damaged = new Set<string>()
  /** As hosts of former versions it deletes by the name alone. */
  looksAtNames = false
  #api: Api | null = null
  #snapshot = ''
  #network = 'lab0'
  #former: string[] = []

  constructor(directory: string, host: string, vms: readonly string[]) {
    this.host = host
    this.socketPath = join(directory, `${host}.sock`)
    this.vms = [...vms]
    this.running = [...vms]
  }

  async start(): Promise<void> {
    const api = await createApi({ endpoint: parseEndpoint(this.socketPath), logger: silent, title: 'fake', version })
    this.#addRoutes(api)
    await api.listen()
    this.#api = api
  }

  async stop(): Promise<void> {
    await this.#api?.close()
    this.#api = null
  }

  ports(): PortInfo[] {
    const counters = { rxFrames: 10, rxBytes: 2048, txFrames: 5, txBytes: 500, rxGso: 0, txGso: 0, kernelDrops: 0 }
    return this.vms.map((vm) => ({
      name: `${vm}-port`,
      network: 'lab0',
      device: `tap-${vm}`,
      kind: 'member',
      vm,
      epoch: this.epoch,
      gate: 'open',
      up: true,
      problem: null,
      mtu: 1500,
      counters: { ...counters, held: 0, recorded: 0, drops: { full: 2 } },
    }))
  }

  async #answer<T>(route: RouteName, call: string, answer: () => T): Promise<T> {
    this.calls.push(call)
    const fault = this.faults.get(route)
    if (fault === 'silent') await new Promise(() => {})
    const error = fault === undefined || fault === 'silent' ? null : await fault
    if (error !== null) throw error
    return answer()
  }

  #addRoutes({ app }: Api): void {
    app.get(routes.status, () =>
      this.#answer('status', 'status', () => ({
        host: this.host,
        version,
        bootId: `boot-${this.host}`,
        pid: 1,
        uptimeSeconds: 4000,
        datapathRestarts: 0,
        networks: this.networks.map((name) => {
          return { name, epoch: this.epoch, busy: null, ports: this.vms.length, fdbEntries: 1, peers: [] }
        }),
        machines: this.vms.map((name) => ({ name, ports: [`${name}-port`], qmp: `/run/${name}.qmp` })),
      })),
    )
    app.get(routes.ports, () => this.#answer('ports', 'ports', () => this.ports()))
    app.get(routes.fdb, () =>
      this.#answer('fdb', 'fdb', () => [
        {
          mac: '02:00:00:00:00:01',
          ifname: 'tap-vm1',
          port: 'vm1-port',
          vlan: 5,
          flags: [],
          master: 'lab0',
          state: '',
          used: 3,
        },
      ]),
    )
    app.get(routes.preflight, () =>
      this.#answer('preflight', 'preflight', () =>
        preflightOf(this.host, this.running, { epoch: this.epoch, version }),
      ),
    )
    app.post(routes.prepare, (request) => {
      const { epoch } = request.body as PrepareRequest
      const { network, snapshot } = request.params as { network: string; snapshot: string }
      this.#snapshot = snapshot
      this.#network = network
      return this.#answer('prepare', `prepare ${epoch}`, () => {
        if (this.parts.get(snapshot)?.network === network)
          throw new SnapswitchError('SNAPSHOT_EXISTS', `${network}/${snapshot} exists on this host already`, '')
        this.epoch = epoch
        return { prepared: this.vms }
      })
    })
    app.post(routes.take, async (_request, reply) => {
      await this.#answer('take', 'take', () => null)
      return streamNdjson(
        reply,
        this.takeEvents?.() ?? this.#take(),
        (error) => ({ type: 'failed', error }) as LocalEvent,
      )
    })
    app.post(routes.discard, (request) => {
      const { epoch } = request.body as DiscardRequest
      return this.#answer('discard', `discard ${epoch}`, () => {
        const { snapshot } = request.params as { snapshot: string }
        if (this.parts.get(snapshot)?.epoch === epoch) this.parts.delete(snapshot)
        return {}
      })
    })
    const removal = { freedBytes: 0, merged: [], removed: [], kept: [] }
    app.delete(routes.localSnapshot, (request) => {
      const { snapshot } = request.params as { snapshot: string }
      const { epoch } = request.query as { epoch?: string }
      return this.#answer('localSnapshot', epoch === undefined ? 'delete' : `delete ${epoch}`, () => {
        this.damaged.delete(snapshot)
        const found = String(this.parts.get(snapshot)?.epoch)
        if (this.looksAtNames || (epoch ?? found) === found) this.parts.delete(snapshot)
        return removal
      })
    })
    app.post(routes.pruneDisks, (request) => {
      const { orphans, released = [] } = request.body as PruneRequest
      return this.#answer('pruneDisks', ['prune', ...released].join(' '), () => {
        const gone = this.copies.filter(({ digest }) => released.includes(digest))
        this.copies = this.copies.filter((one) => !gone.includes(one))
        return {
          ...removal,
          removed: gone.map(({ file }) => file),
          failures: [],
          ...(orphans === true && { copies: this.copies }),
        }
      })
    })
    app.get(routes.localSnapshot, (request) => {
      const { snapshot } = request.params as { snapshot: string }
      const part = this.parts.get(snapshot)
      if (this.damaged.has(snapshot))
        throw new SnapswitchError('STORE_DAMAGED', `part.json of ${snapshot} is damaged`, '')
      if (part === undefined) throw new SnapswitchError('SNAPSHOT_UNKNOWN', `no part of ${snapshot} here`, '')
      return part
    })
    app.get(routes.health, (request) =>
      this.#answer('health', 'health', () => ({
        parts: this.#partsOf((request.params as { network: string }).network).map(({ snapshot, epoch }) => ({
          snapshot,
          epoch,
          faults: [],
          faultCount: 0,
          unchecked: 0,
        })),
      })),
    )
    app.post(routes.verifyFiles, (request) =>
      this.#answer('verifyFiles', 'verify', () => {
        const gone = (request.body as VerifyFiles).files.filter((file) => !this.files.has(file.digest))
        return { faults: gone.map((file) => ({ file, fault: 'missing', detail: 'it is not there' })), unchecked: 0 }
      }),
    )
    app.post(routes.rehearse, () =>
      this.#answer('rehearse', 'rehearse', () => ({
        members: this.vms.map((vm) => ({ vm, verified: this.verdict })),
        tookMs: 1,
      })),
    )
    app.post(routes.flattenPart, (request) => {
      const { snapshot } = request.params as { snapshot: string }
      return this.#answer('flattenPart', `flatten ${snapshot}`, () => ({ members: this.flat }))
    })
    app.post(routes.adoptFlat, (request) => {
      const { members } = request.body as FlatDisks
      const layers = members.flatMap(({ disks }) => disks.map((disk) => disk.layers.length))
      return this.#answer('adoptFlat', `adopt ${layers.join(' ')}`, () => ({}))
    })
    this.#addRestoreRoutes({ app } as Api)
  }

  #addRestoreRoutes({ app }: Api): void {
    app.get(routes.file, async (request, reply) => {
      const { digest } = request.params as { digest: string }
      await this.#answer('file', `get ${digest.slice(0, 8)}`, () => null)
      const content = this.files.get(digest)
      if (content === undefined) throw new SnapswitchError('STORE_DAMAGED', 'no such file', 'None.')
      return reply.type('application/octet-stream').send(Readable.from([content]))
    })
    app.put(routes.file, async (request) => {
      const { digest } = request.params as { digest: string }
      const chunks: Buffer[] = []
      for await (const chunk of request.body as Readable) chunks.push(chunk as Buffer)
      const content = Buffer.concat(chunks)
      return this.#answer('file', `put ${digest.slice(0, 8)} ${content.length}`, () => {
        if (createHash('sha256').update(content).digest('hex') !== digest) {
          throw new SnapswitchError('STORE_DAMAGED', 'digest differs', 'None.')
        }
        this.files.set(digest, content)
        return {}
      })
    })
    app.post(routes.restoreCheck, (request) => {
      const { members, channels, files: others } = request.body as RestoreRequest
      const names = members.map((m) => m.vm)
      const files = [
        ...channels,
        ...(others ?? []),
        ...members.flatMap((m) => [m.memory, ...m.disks.flatMap((d) => d.layers.map((l) => l.file))]),
      ]
      return this.#answer('restoreCheck', `check ${names}`, () => ({
        missing: files.filter((file) => !this.files.has(file.digest)),
        running: names.filter((vm) => this.running.includes(vm)),
        problems: [],
      }))
    })
    app.post(routes.restoreLoad, (request) => {
      const { members, epoch } = request.body as RestoreRequest
      const loaded = members.map((m) => m.vm)
      return this.#answer('restoreLoad', `load ${loaded} ${epoch}`, () => {
        this.vms = loaded
        this.epoch = epoch
        return { loaded, channelFrames: 2 }
      })
    })
    app.post(routes.restoreResume, () =>
      this.#answer('restoreResume', 'resume', () => {
        this.running = [...this.vms]
        return { resumed: this.vms.map((vm) => ({ vm, atUs: 1_000 })) }
      }),
    )
    app.post(routes.restoreAbort, () => this.#answer('restoreAbort', 'abort', () => ({ running: [] })))
    app.post(routes.left, (request) => {
      this.released.push(...((request.body as LeftRequest).released ?? []))
      return {}
    })
    app.post(routes.restorePause, (request) => {
      const { machines } = request.body as RestorePause
      this.#former = this.running.filter((vm) => machines.includes(vm))
      return this.#answer('restorePause', 'pause', () => ({ paused: this.#former }))
    })
    app.post(routes.restoreSwitch, () =>
      this.#answer('restoreSwitch', 'switch', () => {
        this.running = this.running.filter((vm) => !this.#former.includes(vm))
        return { ended: this.#former, warnings: [] }
      }),
    )
  }

  async *#take(): AsyncGenerator<LocalEvent> {
    for (const vm of this.vms) {
      yield { type: 'paused', vm, atUs: 1_001_000 }
      yield { type: 'cut', vm, atUs: 1_002_000 }
      yield { type: 'resumed', vm, atUs: 1_011_000 }
    }
    yield { type: 'closed', closures: [] }
    const part = this.#part()
    this.parts.set(this.#snapshot, part)
    yield { type: 'done', part }
  }

  #partsOf(network: string): LocalPart[] {
    return [...this.parts.values()].filter((part) => part.network === network)
  }

  /** A part whose files are here, with the digests that their content has. */
  #part() {
    const part = partOf(this.host, this.vms, this.#snapshot, this.epoch)
    const keep = (path: string) => {
      const content = Buffer.from(`content of ${path}`)
      const digest = createHash('sha256').update(content).digest('hex')
      this.files.set(digest, content)
      return { path, bytes: content.length, digest }
    }
    return {
      ...part,
      network: this.#network,
      channel: keep(part.channel.path),
      members: part.members.map((m) => ({
        ...m,
        memory: keep(m.memory.path),
        disks: m.disks.map((d) => ({ ...d, layers: d.layers.map((l) => ({ ...l, file: keep(l.file.path) })) })),
      })),
    }
  }
}
