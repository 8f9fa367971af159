// The switch daemon's API: thin routes over ports, datapath and agent.

import { Type } from '@sinclair/typebox'
import { unknownNetwork } from '../src/api/names.js'
import { routes } from '../src/api/paths.js'
import {
  BridgeInfo,
  BridgeName,
  Digest,
  DiscardRequest,
  FastVerdict,
  FdbEntry,
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
  type PlayEvent,
  PlayRequest,
  PortInfo,
  Preflight,
  PreflightQuery,
  PrepareRequest,
  Pruned,
  PruneRequest,
  Rehearsal,
  RehearseRequest,
  Reloaded,
  Removal,
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
  SwitchStatus,
  TakeRequest,
  VerifyFiles,
} from '../src/api/schemas.js'
import { type ApiInstance, streamNdjson, uploadOf } from '../src/api/server.js'
import type { Agent } from './agent/agent.js'
import { adoptFlat, flattenPart } from './agent/disks/flattening.js'
import type { DiskService } from './agent/disks/service.js'
import { findFaults, networkHealth } from './agent/health.js'
import type { DaemonHost } from './agent/host.js'
import type { Restores } from './agent/restore/restores.js'
import type { Captures } from './capture/captures.js'
import { addCaptures } from './capture/routes.js'
import type { Scraped } from './metrics/listener.js'
import type { Plays } from './play/plays.js'
import type { Recordings } from './recording/recordings.js'
import { addRecordings } from './recording/routes.js'
import type { Reload } from './reload.js'
import type { Bridges } from './takeover/bridges.js'
import type { WantedView } from './wanted/wanted.js'

/**
 * How long the machines may take for a preflight when the request does not say; and what is kept of it for the answer.
 */
const ANSWER_MS = 5000
export const ANSWER_SHARE = 0.1

const InNetwork = Type.Object({ network: Name })
const OfSnapshot = Type.Object({ network: Name, snapshot: Name })
const Nothing = Type.Object({})

export function addRoutes(
  app: ApiInstance,
  host: DaemonHost,
  agent: Agent,
  disks: DiskService,
  wanted: WantedView,
  reload: Pick<Reload, 'reload'>,
  bridges: Pick<Bridges, 'take' | 'give' | 'list'>,
  plays: Plays,
  metrics: () => Promise<Scraped>,
  captures: Captures,
  recordings: Recordings,
): void {
  app.post(routes.reload, { schema: { response: { 200: Reloaded } } }, () => reload.reload())
  app.get(routes.metrics, { schema: { hide: true } }, async (_request, reply) => {
    const found = await metrics()
    return reply.type(found.contentType).send(await found.text())
  })
  addViews(app, host, agent, disks, wanted, bridges)
  addBridges(app, bridges)
  addCaptures(app, host.name, wanted, captures)
  addRecordings(app, host.name, wanted, recordings)
  app.post(routes.plays, { schema: { body: PlayRequest } }, (request, reply) =>
    streamNdjson<PlayEvent>(reply, plays.begin(request.body.ports), (error) => ({ type: 'failed', error })),
  )
  addSnapshots(app, host, agent, disks)
  addRestores(app, agent.restores)
}

function addViews(
  app: ApiInstance,
  host: DaemonHost,
  agent: Agent,
  disks: DiskService,
  wanted: WantedView,
  bridges: Pick<Bridges, 'list'>,
): void {
  const { datapath, ports, machines } = host
  const started = performance.now()

  app.get(routes.status, { schema: { response: { 200: SwitchStatus } } }, async () => ({
    host: host.name,
    version: host.version,
    bootId: host.datapath.bootId,
    pid: process.pid,
    uptimeSeconds: Math.round((performance.now() - started) / 1000),
    datapathRestarts: datapath.restarts,
    bridges: bridges.list(),
    coordinator: host.coordinator,
    networks: await Promise.all(
      wanted.networks().map(async (name) => {
        const { epoch, fdbEntries, peers } = await datapath.call('network', { network: name })
        const paths = await datapath.call('paths', { network: name })
        return {
          name,
          epoch,
          busy: agent.busy(name),
          ports: ports.all().filter((port) => port.network === name).length,
          waiting: ports.waitingIn(name),
          undriven: host.holders.undriven(name),
          fdbEntries,
          ...(datapath.fastPath === 'off' ? {} : { fast: paths.filter(({ why }) => why === null).length }),
          peers: peers.map((peer) => ({ ...peer, port: ports.byIndex(peer.port)?.name ?? '' })),
        }
      }),
    ),
    machines: await Promise.all(
      machines.names().map(async (name) => ({
        name,
        ports: ports.ofMachine(name).map((port) => port.name),
        qmp: null,
        ...machines.spec(name),
        ...(await disks.diskStatus(name)),
      })),
    ),
  }))

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

  app.get(routes.ports, { schema: { response: { 200: Type.Array(PortInfo) } } }, async () => {
    const paths = await fastPathOf(datapath, wanted.networks())
    return ports.info().map((port) => {
      const why = paths?.get(ports.get(port.name)?.index ?? -1)
      const fastPath =
        paths === null ? {} : { fastPath: { fast: why === null, why: why === undefined ? 'no device' : why } }
      const holder = port.vm === null ? { holder: host.holders.of(port.name) } : {}
      return { ...port, ...fastPath, ...holder }
    })
  })

  app.get(
    routes.verdicts,
    { schema: { params: InNetwork, response: { 200: Type.Array(FastVerdict) } } },
    async (request) => {
      const { network } = request.params
      const known = wanted.networks()
      if (!known.includes(network)) throw unknownNetwork(`host ${host.name}`, network, known)
      const nameOf = (index: number) => ports.byIndex(index)?.name ?? ''
      return (await datapath.call('verdicts', { network })).map(({ from, to, vlan, idleSeconds, ...addresses }) => {
        const base = { from: nameOf(from), to: nameOf(to), ...addresses, idle: idleSeconds }
        return vlan === 0 ? base : { ...base, vlan }
      })
    },
  )

  app.get(routes.fdb, { schema: { params: InNetwork, response: { 200: Type.Array(FdbEntry) } } }, async (request) => {
    const { network } = request.params
    const known = wanted.networks()
    if (!known.includes(network)) throw unknownNetwork(`host ${host.name}`, network, known)
    const rows = await datapath.call('fdb', { network })
    return rows.map(({ mac, vlan, port, ageSeconds, state }) => {
      const entry = ports.byIndex(port)
      const base = {
        mac,
        ifname: entry?.ifname ?? '',
        port: entry?.name ?? '',
        flags: state === 'sticky' ? ['sticky'] : [],
        master: network,
        state: state === 'learned' ? '' : 'static',
        used: ageSeconds,
      }
      return vlan === 0 ? base : { ...base, vlan }
    })
  })
}

function addBridges(app: ApiInstance, bridges: Pick<Bridges, 'take' | 'give' | 'list'>): void {
  app.get(routes.bridges, { schema: { response: { 200: Type.Array(BridgeInfo) } } }, async () => bridges.list())

  app.post(routes.bridges, { schema: { body: TakeRequest, response: { 200: BridgeInfo } } }, (request) => {
    const { bridge, ...options } = request.body
    return bridges.take(bridge, options)
  })

  app.delete(
    routes.bridge,
    { schema: { params: Type.Object({ bridge: BridgeName }), response: { 200: Nothing } } },
    async (request) => {
      await bridges.give(request.params.bridge)
      return {}
    },
  )
}

function addSnapshots(app: ApiInstance, host: DaemonHost, agent: Agent, disks: DiskService): void {
  app.get(
    routes.preflight,
    { schema: { params: InNetwork, querystring: PreflightQuery, response: { 200: Preflight } } },
    async (request) => {
      const { network } = request.params
      const waitMs = Number(request.query.deadlineMs ?? ANSWER_MS)
      const found = await agent.preflight(network, performance.now() + waitMs * (1 - ANSWER_SHARE))
      return { ...found, undriven: host.holders.undriven(network) }
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

  app.delete(routes.localSnapshot, { schema: { params: OfSnapshot, response: { 200: Removal } } }, (request) =>
    agent.remove(request.params.network, request.params.snapshot),
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

/** Why each port's frames go through the daemon, by its index; null: they do not. Null: no port's ever do not. */
async function fastPathOf(
  datapath: DaemonHost['datapath'],
  networks: readonly string[],
): Promise<Map<number, string | null> | null> {
  if (datapath.fastPath === 'off') return null
  const paths = await Promise.all(networks.map((network) => datapath.call('paths', { network })))
  return new Map(paths.flat().map(({ index, why }) => [index, why]))
}
