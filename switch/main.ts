// The switch daemon from start to end: configuration, datapath, ports, agent, API; then it waits for a signal.

import { setTimeout as pause } from 'node:timers/promises'
import { createApi } from '../src/api/server.js'
import { version } from '../src/api/version.js'
import { SnapswitchError } from '../src/errors/errors.js'
import { createHypervisors } from '../src/hypervisor/drivers.js'
import { raisePriority } from '../src/linux/priority.js'
import { systemClock } from '../src/runtime/clock.js'
import { beginDaemon } from '../src/runtime/daemon.js'
import { Agent, RECOVERY_MS } from './agent/agent.js'
import { derivedFromParts } from './agent/disks/former.js'
import { DiskRecords } from './agent/disks/records.js'
import { DiskService } from './agent/disks/service.js'
import { PORTION } from './agent/gates.js'
import { type DaemonHost, Epochs } from './agent/host.js'
import { HostRecords, type Moves } from './agent/host-records.js'
import { Journal } from './agent/journal.js'
import { endLoads } from './agent/leftovers.js'
import { LocalStore } from './agent/local-store.js'
import { Machines } from './agent/machines.js'
import { createProcessor } from './agent/processor.js'
import { RestoreTaps } from './agent/restore/taps.js'
import { RECORDED_EVENTS } from './agent/snapshot/recording.js'
import { loadSwitchConfig, machineSpecs, readControlKey, type SwitchConfig } from './config.js'
import { Datapath } from './datapath/datapath.js'
import { defaultFdbOptions } from './forwarding/fdb.js'
import { Ports } from './ports/ports.js'
import type { PortRequest } from './ports/table.js'
import { UnreadFrames } from './ports/unread.js'
import { PortWatch } from './ports/watch.js'
import { addRoutes } from './server.js'

const HEAL_INTERVAL_MS = 500

/**
 * Runs until a signal stops it (src/runtime/reactions.ts). Throws before anything is changed when the configuration or
 * a device is not right.
 */
export async function runSwitch(configPath: string): Promise<void> {
  const config = loadSwitchConfig(configPath)
  const { log, ended: asked } = beginDaemon(`switch ${config.host}`, config.log)
  const networks = Object.keys(config.networks)
  const store = new LocalStore(config.state)
  await store.open()
  const records = new HostRecords(config.state)
  const epochs = await Epochs.open(records)
  const datapath = new Datapath({ poll: config.datapath.poll, spinUs: config.datapath.spin })
  const unread = new UnreadFrames(datapath.counters)
  const ports = new Ports(datapath, unread, log)
  const machines = new Machines(createHypervisors(config), machineSpecs(config))
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
    disks: await DiskRecords.open(config.state, () => derivedFromParts(store)),
    unread,
    portion: PORTION,
    recordedEvents: RECORDED_EVENTS,
    epochs,
    restoreTaps: () => new RestoreTaps({ ports, log }),
    log,
  }
  const configured = new Set(Object.values(config.networks).flatMap((network) => Object.keys(network.ports)))
  const disks: DiskService = new DiskService(host, () => agent.sessions.machines())
  const agent = new Agent(host, networks, configured, disks)
  const api = await createApi({ socketPath: config.api.socket, logger: log, title: 'snapswitch switch', version })
  addRoutes(api.app, host, agent, disks, networks)

  const dead = new Promise<Error>((resolve) => {
    datapath.once('dead', resolve)
  })
  datapath.on('restarted', (error) => log.error({ err: error }, 'the datapath failed and was restarted'))

  let healing: NodeJS.Timeout | undefined
  let watch: PortWatch | undefined
  if (!raisePriority()) log.warn('not permitted to raise the priority: cuts take longer while the CPUs are busy')
  // Its thread loads what it needs meanwhile; it touches no device yet.
  const started = datapath.start()
  started.catch(() => undefined)
  try {
    await api.check()
    const moves = await endLoads(host, await records.readMoves(), configured)
    const wanted = configuredPorts(config, moves.gone)
    ports.check(wanted)
    await started
    await openNetworks(config, host, wanted, moves)
    ports.giveBackLeft()
    const reconcile = () => ports.reconcile((network) => epochs.get(network))
    watch = new PortWatch(reconcile, () => ports.hasNews, log)
    await reconcile()
    // Usually over in no time; a machine whose save is under way keeps its network busy for longer.
    await Promise.race([agent.recover(), pause(RECOVERY_MS, null, { ref: false })])
    await api.listen()
    healing = setInterval(() => unread.heal(ports.all()), HEAL_INTERVAL_MS)
    log.info({ host: config.host, socket: config.api.socket, networks, version }, 'switch is up')
    const reason = await Promise.race([asked, dead])
    if (reason instanceof Error) throw reason
    log.info({ signal: reason }, 'switch is stopping')
  } finally {
    clearInterval(healing)
    await watch?.close()
    await agent.close()
    await api.close()
    await started.catch(() => undefined)
    await datapath.stop()
    await ports.close()
  }
}

/** The ports of the configuration, without those whose machine a restore has taken elsewhere. */
function configuredPorts(config: SwitchConfig, gone: readonly string[]): PortRequest[] {
  return Object.entries(config.networks).flatMap(([network, { ports }]) =>
    Object.entries(ports)
      .filter(([name]) => !gone.includes(name))
      .map(([name, { device, kind, vm, color }]) => ({
        name,
        network,
        device,
        kind: kind ?? (vm === undefined ? 'plain' : 'member'),
        vm: vm ?? null,
        ...(color === undefined ? {} : { color }),
      })),
  )
}

/** Networks and ports: those of the configuration, as restores have changed them since. */
async function openNetworks(
  config: SwitchConfig,
  host: DaemonHost,
  wanted: PortRequest[],
  moves: Moves,
): Promise<void> {
  const { datapath, ports, machines, epochs } = host
  for (const [vm, spec] of Object.entries(moves.machines)) machines.set(vm, spec)
  for (const [name, network] of Object.entries(config.networks)) {
    const { linkLocal, pause, transit, ageing, hold, networkHold, record, closureDeadline } = network
    const controlKey = network.controlKey === undefined ? null : readControlKey(network.controlKey)
    // It was good when the configuration was checked, a moment ago.
    if (typeof controlKey === 'string') throw new SnapswitchError('CONFIG_INVALID', controlKey, 'Check the key file.')
    const fdb = { ...defaultFdbOptions, ageing }
    const options = {
      network: name,
      host: config.host,
      linkLocal,
      pause,
      transit,
      fdb,
      hold,
      networkHold,
      record,
      closureDeadline,
      controlKey,
    }
    await datapath.addNetwork({ options, epoch: epochs.get(name), fence: epochs.fence(name) })
  }
  // After a reboot devices come when they come, and the TAPs of machines with these.
  await ports.addAllOrAwait([...wanted, ...moves.ports], (network) => epochs.get(network))
  for (const name of Object.keys(config.networks)) ports.checkTrunkRoom(name)
}
