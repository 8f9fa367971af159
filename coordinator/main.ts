// The coordinator from start to end, in its two forms: `snapswitch coordinator --config FILE`, and the one inside
// `snapswitch switch`, in a process of its own. Started, and taken down in order.

import { setTimeout as pause } from 'node:timers/promises'
import type { Logger } from 'pino'
import { CoordinatorClient } from '../src/api/coordinator-client.js'
import { parseEndpoint } from '../src/api/endpoint.js'
import { asSnapswitchError, type ErrorCode, SnapswitchError } from '../src/errors/errors.js'
import { lockDirectory } from '../src/linux/directory-lock.js'
import { beginDaemon } from '../src/runtime/daemon.js'
import { version } from '../src/runtime/package.js'
import { loadCoordinatorConfig } from './config.js'
import { Coordinator } from './coordinator.js'
import { ConfiguredNetworks, LocalNetworks, type Networks } from './networks.js'
import { createCoordinatorApi } from './server.js'
import { Catalogue } from './store/catalogue.js'

interface Place {
  readonly socket: string
  readonly store: string
  readonly verify?: boolean
}

/** The one inside `snapswitch switch`. */
export interface EmbeddedCoordinator extends Place {
  readonly log: string
  /** This host. */
  readonly host: string
  /** The sockets of all hosts' switches, by host. */
  readonly sockets: Readonly<Record<string, string>>
}

/** Another coordinator has the socket or the store: this one is not needed. */
export class Superseded extends Error {}

/** Resolves when the coordinator has been stopped by a signal. Throws what keeps it from starting. */
export async function runCoordinator(configPath: string): Promise<void> {
  const config = loadCoordinatorConfig(configPath)
  const { log: logger, ended } = beginDaemon('coordinator', config.log)
  const leaving = signalOf(ended)
  const replaces = await replaceEmbedded(config.socket, logger, leaving)
  const networks = new ConfiguredNetworks(config.networks)
  const reason = leaving.aborted
    ? await ended
    : await run({ place: config, networks, embedded: false, replaces, logger, ended })
  if (reason instanceof Error) throw reason
}

/** Resolves when `asked` to stop, or by a signal. Throws Superseded, and what keeps it from starting. */
export async function runEmbedded(options: EmbeddedCoordinator, asked: Promise<'stop'>): Promise<void> {
  const { log: logger, ended } = beginDaemon('coordinator', options.log)
  const networks = new LocalNetworks(options.host, options.sockets, logger)
  try {
    const reason = await run({
      place: options,
      networks,
      embedded: true,
      replaces: false,
      logger,
      ended: Promise.race([ended, asked]),
    })
    if (reason instanceof Error) throw reason
  } catch (thrown) {
    const error = asSnapswitchError(thrown)
    if (error.code !== 'DEVICE_BUSY') throw thrown
    throw new Superseded(error.message)
  }
}

interface Running {
  readonly place: Place
  readonly networks: Networks
  readonly embedded: boolean
  /** Another one is on its way out. */
  readonly replaces: boolean
  readonly logger: Logger
  readonly ended: Promise<unknown>
}

async function run({ place, networks, embedded, replaces, logger, ended }: Running): Promise<unknown> {
  const { socket, store, verify = false } = place
  const catalogue = new Catalogue(store)
  await catalogue.open()
  const coordinator = new Coordinator({ networks, verify, embedded, catalogue, logger, version })
  let makeWay: (reason: Error) => void = () => undefined
  const superseded = new Promise<Error>((resolve) => {
    makeWay = resolve
  })
  const onStepAside = () => {
    coordinator.checkStepAside()
    makeWay(new Superseded('another coordinator is being started'))
  }
  const api = await createCoordinatorApi(coordinator, { endpoint: parseEndpoint(socket), logger, version, onStepAside })
  try {
    await api.check()
    if (!(await lockStore({ store, patienceMs: replaces ? LEAVING_MS : 0, logger, leaving: signalOf(ended) })))
      return await ended
    await api.listen()
    await networks.refresh()
    logger.info({ socket, store, networks: [...networks.all().keys()], embedded }, 'listening')
    const recovery = coordinator.recover()
    const reason = await Promise.race([ended, superseded])
    if (!(reason instanceof Error)) logger.info({ signal: reason }, 'stopping')
    await coordinator.stop()
    await recovery
    return reason
  } finally {
    await api.close()
  }
}

const AGAIN_MS = 200
const LEAVING_MS = 10_000

function signalOf(ended: Promise<unknown>): AbortSignal {
  const controller = new AbortController()
  void ended.then(() => controller.abort())
  return controller.signal
}

interface StoreLock {
  readonly store: string
  /** For the one inside, which has gone from its socket. */
  readonly patienceMs: number
  readonly logger: Logger
  readonly leaving: AbortSignal
}

/** False: this one is `leaving` before it has it. */
async function lockStore({ store, patienceMs, logger, leaving }: StoreLock): Promise<boolean> {
  for (let leftMs = patienceMs; !leaving.aborted; leftMs -= AGAIN_MS) {
    try {
      lockDirectory(store)
      return true
    } catch (thrown) {
      const error = asSnapswitchError(thrown)
      if (error.code !== 'DEVICE_BUSY') throw thrown
      if (leftMs <= 0) throw storeTaken(error)
      if (leftMs === patienceMs)
        logger.info({ store }, 'the coordinator inside `snapswitch switch` still has the store')
      await pauseUnless(leaving)
    }
  }
  return false
}

function storeTaken(error: SnapswitchError): SnapswitchError {
  return new SnapswitchError(
    error.code,
    error.message,
    'Stop that daemon, or choose another `store:`. If it is the coordinator inside `snapswitch switch`: `coordinator: none` in ' +
      'the switch’s configuration.',
    error,
  )
}

const pauseUnless = (leaving: AbortSignal): Promise<unknown> =>
  pause(AGAIN_MS, undefined, { signal: leaving }).catch(() => undefined)

const ASK_MS = 2_000
/** As long as a snapshot may take. */
const MAKE_WAY_MS = 120_000
/** How long whoever listens may be silent: on a busy machine the one inside takes its time. */
const SILENT_MS = 20_000

/**
 * The coordinator inside `snapswitch switch` makes way for one that somebody starts; another one does not. Not waited
 * for once this one is `leaving`.
 */
async function replaceEmbedded(socket: string, logger: Logger, leaving: AbortSignal): Promise<boolean> {
  const client = new CoordinatorClient(socket)
  const limit = performance.now() + MAKE_WAY_MS
  let silentUntil = performance.now() + SILENT_MS
  let asked = false
  const said = new Set<ErrorCode>()
  const call = { deadlineMs: ASK_MS, signal: leaving }
  try {
    while (performance.now() < limit && !leaving.aborted) {
      const found = await client.status(call).catch((thrown) => asSnapswitchError(thrown).code)
      if (found === 'REQUEST_TIMEOUT' && performance.now() < silentUntil) continue
      if (typeof found === 'string' || !found.embedded) return asked
      silentUntil = performance.now() + SILENT_MS
      if (!asked)
        logger.info({ socket, pid: found.pid }, 'the coordinator inside `snapswitch switch` is asked to make way')
      asked = true
      await client.stepAside(call).catch((thrown) => {
        const { code, message } = asSnapswitchError(thrown)
        if (!said.has(code) && !leaving.aborted) logger.info({ code }, `it has not yet: ${message}`)
        said.add(code)
      })
      await pauseUnless(leaving)
    }
    return asked
  } finally {
    await client.close()
  }
}
