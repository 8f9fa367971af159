// `snapswitch coordinator --config FILE`: starts everything, and takes it down in order on SIGTERM or SIGINT.

import { destination, pino } from 'pino'
import { version } from '../src/api/version.js'
import { lockDirectory } from '../src/linux/directory-lock.js'
import { missingFlags } from '../src/runtime/engine.js'
import { loadCoordinatorConfig } from './config.js'
import { Coordinator } from './coordinator.js'
import { createCoordinatorApi } from './server.js'
import { Catalogue } from './store/catalogue.js'

/** Resolves when the coordinator has been stopped by a signal. Throws what keeps it from starting. */
export async function runCoordinator(configPath: string): Promise<void> {
  const config = loadCoordinatorConfig(configPath)
  const logger = pino({ name: 'coordinator', level: config.log }, destination({ fd: 2, sync: true }))
  if (missingFlags().length > 0)
    logger.info({ flags: missingFlags() }, 'started without flags of bin/snapswitch: cuts may take longer')
  const catalogue = new Catalogue(config.store)
  await catalogue.open()
  const coordinator = new Coordinator({ config, catalogue, logger, version })
  const api = await createCoordinatorApi(coordinator, { socketPath: config.socket, logger, version })
  const stopped = new Promise<NodeJS.Signals>((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, resolve)
  })
  try {
    await api.check()
    lockDirectory(config.store)
    await api.listen()
    logger.info({ socket: config.socket, store: config.store, networks: Object.keys(config.networks) }, 'listening')
    const recovery = coordinator.recover()
    const signal = await stopped
    logger.info({ signal }, 'stopping')
    await coordinator.stop()
    await recovery
  } finally {
    await api.close()
  }
}
