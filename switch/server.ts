// The switch daemon's API: what there is now, and the routes of those who do things, each beside what it asks for.

import { Type } from '@sinclair/typebox'
import { knownNetwork } from '../src/api/names.js'
import { routes } from '../src/api/paths.js'
import {
  FastVerdict,
  FdbEntry,
  Name,
  type PlayEvent,
  PlayRequest,
  PortInfo,
  Reloaded,
  SwitchStatus,
} from '../src/api/schemas.js'
import { type ApiInstance, streamNdjson } from '../src/api/server.js'
import type { Agent } from './agent/agent.js'
import type { DiskService } from './agent/disks/service.js'
import type { DaemonHost } from './agent/host.js'
import { addAgent } from './agent/routes.js'
import type { Captures } from './capture/captures.js'
import { addCaptures } from './capture/routes.js'
import type { Scraped } from './metrics/listener.js'
import type { Plays } from './play/plays.js'
import type { Recordings } from './recording/recordings.js'
import { addRecordings } from './recording/routes.js'
import type { Reload } from './reload.js'
import type { Bridges } from './takeover/bridges.js'
import { addBridges } from './takeover/routes.js'
import type { WantedView } from './wanted/wanted.js'

/** What the API is to show and to do. */
export interface Daemon {
  readonly host: DaemonHost
  readonly agent: Agent
  readonly disks: DiskService
  readonly wanted: WantedView
  readonly reload: Pick<Reload, 'reload'>
  readonly bridges: Pick<Bridges, 'take' | 'give' | 'list' | 'concerning'>
  readonly plays: Plays
  readonly metrics: () => Promise<Scraped>
  readonly captures: Captures
  readonly recordings: Recordings
}

const InNetwork = Type.Object({ network: Name })

export function addRoutes(app: ApiInstance, daemon: Daemon): void {
  const { host, wanted, bridges, plays } = daemon
  app.post(routes.reload, { schema: { response: { 200: Reloaded } } }, () => daemon.reload.reload())
  app.get(routes.metrics, { schema: { hide: true } }, async (_request, reply) => {
    const found = await daemon.metrics()
    return reply.type(found.contentType).send(await found.text())
  })
  addViews(app, daemon)
  addBridges(app, bridges)
  addCaptures(app, host.name, wanted, daemon.captures)
  addRecordings(app, host.name, wanted, daemon.recordings)
  app.post(routes.plays, { schema: { body: PlayRequest } }, (request, reply) =>
    streamNdjson<PlayEvent>(reply, plays.begin(request.body.ports), (error) => ({ type: 'failed', error })),
  )
  addAgent(app, host, daemon.agent, daemon.disks, (network) => bridges.concerning(network))
}

function addViews(app: ApiInstance, { host, agent, disks, wanted, bridges }: Daemon): void {
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
    networks: await ofEach(datapath, wanted.networks(), async (name) => {
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

  app.get(routes.ports, { schema: { response: { 200: Type.Array(PortInfo) } } }, async () => {
    const paths = await fastPathOf(datapath, wanted.networks())
    return ports.info().map((port) => {
      const why = paths?.get(ports.get(port.name)?.index ?? -1)
      const fastPath =
        paths === null
          ? {}
          : {
              fastPath: {
                fast: why === null,
                why: why === undefined ? (datapath.fastPathTrouble ?? 'no device') : why,
              },
            }
      const holder = port.vm === null ? { holder: host.holders.of(port.name) } : {}
      return { ...port, ...fastPath, ...holder }
    })
  })

  app.get(
    routes.verdicts,
    { schema: { params: InNetwork, response: { 200: Type.Array(FastVerdict) } } },
    async (request) => {
      const network = knownNetwork(`host ${host.name}`, request.params.network, wanted.networks())
      const nameOf = (index: number) => ports.byIndex(index)?.name ?? ''
      return (await datapath.call('verdicts', { network })).map(({ from, to, vlan, idleSeconds, ...addresses }) => {
        const base = { from: nameOf(from), to: nameOf(to), ...addresses, idle: idleSeconds }
        return vlan === 0 ? base : { ...base, vlan }
      })
    },
  )

  app.get(routes.fdb, { schema: { params: InNetwork, response: { 200: Type.Array(FdbEntry) } } }, async (request) => {
    const network = knownNetwork(`host ${host.name}`, request.params.network, wanted.networks())
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

/** What is answered of each network; one that a change of the configuration takes away meanwhile is left out. */
async function ofEach<T>(
  datapath: DaemonHost['datapath'],
  networks: readonly string[],
  ask: (network: string) => Promise<T>,
): Promise<T[]> {
  const answers = await Promise.all(
    networks.map(async (network): Promise<T[]> => {
      try {
        return [await ask(network)]
      } catch (thrown) {
        if (datapath.hasNetwork(network)) throw thrown
        return []
      }
    }),
  )
  return answers.flat()
}

/** Why each port's frames go through the daemon, by its index; null: they do not. Null: no port's ever do not. */
async function fastPathOf(
  datapath: DaemonHost['datapath'],
  networks: readonly string[],
): Promise<Map<number, string | null> | null> {
  if (datapath.fastPath === 'off') return null
  const paths = await ofEach(datapath, networks, (network) => datapath.call('paths', { network }))
  return new Map(paths.flat().map(({ index, why }) => [index, why]))
}
