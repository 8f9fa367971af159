// The switch daemon from start to end: configuration, datapath, ports, agent, API; then it waits for a signal. The
// network is down until the ports forward: what can be loaded after that, is.

import { setTimeout as pause } from 'node:timers/promises'
import type { Logger } from 'pino'
import { coordinatorOf } from '../src/api/embedded.js'
import { checkEndpoint, parseEndpoint } from '../src/api/endpoint.js'
import type { Api } from '../src/api/server.js'
import { createHypervisors } from '../src/hypervisor/drivers.js'
import { Links } from '../src/linux/link.js'
import { raisePriority } from '../src/linux/priority.js'
import { onBeat } from '../src/runtime/beat.js'
import { systemClock } from '../src/runtime/clock.js'
import { beginDaemon, type DaemonProcess } from '../src/runtime/daemon.js'
import { version } from '../src/runtime/package.js'
import { ServiceManager } from '../src/runtime/service-manager.js'
import { Agent, RECOVERY_MS } from './agent/agent.js'
import { derivedFromParts } from './agent/disks/former.js'
import { DiskRecords } from './agent/disks/records.js'
import { DiskService } from './agent/disks/service.js'
import { PORTION } from './agent/gates.js'
import { type DaemonHost, Epochs } from './agent/host.js'
import { HostRecords } from './agent/host-records.js'
import { Journal } from './agent/journal.js'
import { endLoads } from './agent/leftovers.js'
import { LocalStore } from './agent/local-store.js'
import { Machines } from './agent/machines.js'
import { createProcessor } from './agent/processor.js'
import { RestoreTaps } from './agent/restore/taps.js'
import { RECORDED_EVENTS } from './agent/snapshot/recording.js'
import { RECORDED_BYTES } from './agent/snapshot/run.js'
import { Captures } from './capture/captures.js'
import { loadSwitchConfig, type SwitchConfig } from './config.js'
import { type Begun, beginDatapath } from './datapath/begin.js'
import type { Datapath } from './datapath/datapath.js'
import { TapIdentifier } from './discovery/identify.js'
import { Names } from './discovery/names.js'
import { PortMachines } from './discovery/port-machines.js'
import { MachineResolver } from './discovery/resolver.js'
import { endpointOf, type Scraped, serveMetrics } from './metrics/listener.js'
import { Plays } from './play/plays.js'
import { Ports } from './ports/ports.js'
import { UnreadFrames } from './ports/unread.js'
import { PortWatch } from './ports/watch.js'
import { Recordings } from './recording/recordings.js'
import { CONFIGURATION, Reload } from './reload.js'
import { Bridges } from './takeover/bridges.js'
import { BridgeRecords } from './takeover/record.js'
import { bridgesWanted, defaultSettings, leftOut, wantedBy } from './wanted/from-config.js'
import { Reconfiguration } from './wanted/reconfiguration.js'
import { WantedState } from './wanted/state.js'

/** Longer than the datapath may take to add up what the kernel has forwarded. */
const HEAL_INTERVAL_MS = 1000
const UNDO_INTERVAL_MS = 1000

/** What runs beside the switch from when it is up until it stops: the command line has the coordinator here. */
export type StartCompanion = (config: SwitchConfig, log: Logger) => { stop(): Promise<void> } | null
/** So many signs of life are sent in the time in which one is wanted. */
const SIGNS_OF_LIFE = 4

/**
 * Runs until a signal stops it (src/runtime/reactions.ts). Throws before anything is changed when the configuration or
 * a device is not right.
 */
export async function runSwitch(
  configPath: string | null,
  startCompanion?: StartCompanion,
  { datapath, started }: Begun = beginDatapath(),
): Promise<void> {
  let ports: Ports | undefined
  try {
    const config = loadSwitchConfig(configPath)
    const daemon = beginDaemon(`switch ${config.host}`, config.log)
    const { log } = daemon
    if (!raisePriority()) log.warn('not permitted to raise the priority: cuts take longer while the CPUs are busy')
    const unread = new UnreadFrames(datapath.counters)
    ports = new Ports(datapath, unread, log)
    const { poll, spin: spinUs } = config.datapath
    const ready = started.then(() => datapath.setPolling({ poll, spinUs }))
    ready.catch(() => undefined)
    await serve(configPath, config, daemon, { datapath, unread, ports, started: ready }, startCompanion)
  } finally {
    await started.catch(() => undefined)
    await datapath.stop()
    await ports?.close()
  }
}

interface Forwarding {
  readonly datapath: Datapath
  readonly unread: UnreadFrames
  readonly ports: Ports
  readonly started: Promise<void>
}

async function serve(
  configPath: string | null,
  config: SwitchConfig,
  { log, ended: asked, onReload }: DaemonProcess,
  { datapath, unread, ports, started }: Forwarding,
  startCompanion: StartCompanion | undefined,
): Promise<void> {
  const dead = new Promise<Error>((resolve) => {
    datapath.once('dead', resolve)
  })
  datapath.on('restarted', (error) => log.error({ err: error }, 'the datapath failed and was restarted'))
  datapath.on('fastPath', (why) => {
    if (why === null) log.info('the fast path is there now')
    else log.warn({ why }, 'no fast path: every frame goes through the daemon')
  })
  const manager = new ServiceManager()
  const wanted = new WantedState()
  wanted.supposing(CONFIGURATION, wantedBy(config)).accept()
  const store = new LocalStore(config.state)
  await store.open()
  const records = new HostRecords(config.state)
  const epochs = await Epochs.open(records)
  // All that may be damaged is read first: what is at work below would keep a daemon alive that cannot start.
  const diskRecords = await DiskRecords.open(config.state, () => derivedFromParts(store))
  const hypervisors = createHypervisors(config, config.memory)
  const machines = new Machines(hypervisors, wanted.all.machines)
  const identifier = new TapIdentifier({
    hypervisors,
    configured: () => wanted.of(CONFIGURATION).machines,
    known: () => new Map([...wanted.of(CONFIGURATION).machines, ...Object.entries(machines.moved())]),
    isHeld: (ifindex) => ports.isHeld(ifindex),
    names: new Names(await records.readMachineNames()),
    remember: (names) =>
      void records.writeMachineNames(names).catch((error) => log.warn({ err: error }, 'machines’ names are not kept')),
  })
  const resolver = new MachineResolver(identifier, log)
  const holders = new PortMachines(resolver, ports)
  const host: DaemonHost = {
    name: config.host,
    version,
    clock: systemClock,
    processor: createProcessor(),
    datapath,
    ports,
    machines,
    store,
    records,
    journal: new Journal(config.state),
    disks: diskRecords,
    unread,
    holders,
    coordinator: coordinatorOf(config),
    portion: PORTION,
    recordedEvents: RECORDED_EVENTS,
    recordedBytes: RECORDED_BYTES,
    epochs,
    restoreTaps: () => new RestoreTaps({ ports, log }),
    log,
  }
  const disks: DiskService = new DiskService(host, () => agent.sessions.machines())
  const agent = new Agent(host, wanted, disks)
  const reconfiguration = new Reconfiguration(host, wanted, agent.sessions, defaultSettings())
  let inForce = config
  const bridges = new Bridges({
    links: new Links(),
    datapath,
    ports,
    records: new BridgeRecords(config.state),
    machines: resolver,
    log,
    epochOf: (network) => epochs.get(network),
    valuesOf: ({ network, ageing, linkLocal }) => leftOut(inForce.networks[network], { ageing, linkLocal }),
    specOf: (vm) => machines.spec(vm),
    want: (bridge, all, patienceMs) => reconfiguration.set(`bridge ${bridge}`, all, patienceMs),
  })
  agent.sessions.onEnd = () => {
    if (bridges.isPostponed) void bridges.follow()
  }
  bridges.configure(bridgesWanted(config))
  reconfiguration.bridged = bridges
  ports.bridges = bridges
  ports.onMoved = (port) => agent.portMoved(port)
  const reload = new Reload(configPath, config, reconfiguration, manager, log, (next) => {
    inForce = next
    bridges.configure(bridgesWanted(next))
    void bridges.follow()
  })
  const captures = new Captures(host)
  const recordings = new Recordings(host)
  const endpoint = parseEndpoint(config.api.socket)
  let api: Api | undefined
  let plays: Plays | undefined
  let metrics: Promise<Scraped> | undefined
  const metricsNow = () => {
    metrics ??= loadMetrics(host, agent, wanted)
    return metrics
  }

  const still: (() => void)[] = []
  let living: NodeJS.Timeout | undefined
  let watch: PortWatch | undefined
  let endMetrics = () => {}
  let companion: ReturnType<StartCompanion> = null
  try {
    await checkEndpoint(endpoint)
    if (config.metrics !== undefined) endMetrics = await serveMetrics(endpointOf(config.metrics.listen), metricsNow)
    const moves = await endLoads(host, await records.readMoves(), wanted.ports())
    await reconfiguration.begin(moves, started)
    ports.giveBackLeft()
    const reconcile = async () => {
      await ports.reconcile((network) => epochs.get(network))
      datapath.keepSlow(ports.xdpBehind())
      await bridges.follow()
      holders.follow((port) => wanted.of(CONFIGURATION).ports.get(port)?.vm != null)
    }
    await bridges.recover()
    // Not waited for: a takeover waits for machines to be known.
    resolver.onNews(() => void bridges.follow())
    watch = new PortWatch(reconcile, ports, log)
    await reconcile()
    const { createApi, addRoutes } = await loadApi()
    api = await createApi({ endpoint, logger: log, title: 'snapswitch switch', version })
    // Before anything that there could be something to tell of.
    await metricsNow()
    plays = new Plays({ datapath, ports, socket: config.api.socket, log })
    const shown = { host, agent, disks, wanted, reload, bridges, plays, metrics: metricsNow, captures, recordings }
    addRoutes(api.app, shown)
    // Usually over in no time; a machine whose save is under way keeps its network busy for longer.
    await Promise.race([agent.recover(), pause(RECOVERY_MS, null, { ref: false })])
    await api.listen()
    onReload(() => void reload.reload().catch(() => undefined))
    still.push(
      onBeat(() => unread.healBusy(ports.all()), HEAL_INTERVAL_MS),
      onBeat(() => void agent.undoAgain(), UNDO_INTERVAL_MS),
    )
    manager.ready()
    if (manager.watchdogMs !== null)
      living = setInterval(() => showLife(datapath, manager), manager.watchdogMs / SIGNS_OF_LIFE)
    log.info({ host: config.host, socket: config.api.socket, networks: wanted.networks(), version }, 'switch is up')
    // Frames flow already, and go on meanwhile.
    void datapath.setFastPath(config.datapath.fastPath).catch(() => undefined)
    companion = startCompanion?.(config, log) ?? null
    const reason = await Promise.race([asked, dead])
    if (reason instanceof Error) throw reason
    log.info({ signal: reason }, 'switch is stopping')
    manager.stopping()
  } finally {
    for (const end of still) end()
    // It undoes what is under way, for which it asks this daemon.
    await companion?.stop()
    clearInterval(living)
    endMetrics()
    await watch?.close()
    await resolver.close()
    await agent.close()
    await captures.close()
    await recordings.close()
    plays?.close()
    await api?.close()
    await bridges.close()
  }
}

/** What is loaded while the ports begin to forward. scripts/lib/code-cache.js asks for it, too. */
export async function loadApi() {
  const [{ createApi }, { addRoutes }] = await Promise.all([import('../src/api/server.js'), import('./server.js')])
  return { createApi, addRoutes }
}

async function loadMetrics(host: DaemonHost, agent: Agent, wanted: WantedState): Promise<Scraped> {
  const { Metrics } = await import('./metrics/metrics.js')
  return new Metrics(host, agent, wanted)
}

/** Says that the daemon is well when forwarding answers, too. */
function showLife(datapath: Datapath, manager: ServiceManager): void {
  datapath.call('ping', null).then(
    () => manager.alive(),
    () => undefined,
  )
}
