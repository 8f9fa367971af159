// `snapswitch coordinator --config FILE`: starts everything, and takes it down in order when a signal stops it.

import { parseEndpoint } from '../src/api/endpoint.js'
import { version } from '../src/api/version.js'
import { lockDirectory } from '../src/linux/directory-lock.js'
import { beginDaemon } from '../src/runtime/daemon.js'
import { loadCoordinatorConfig } from './config.js'
import { Coordinator } from './coordinator.js'
import { createCoordinatorApi } from './server.js'
import { Catalogue } from './store/catalogue.js'

/** Resolves when the coordinator has been stopped by a signal. Throws what keeps it from starting. */
export async function runCoordinator(configPath: string): Promise<void> {
  const config = loadCoordinatorConfig(configPath)
  const { log: logger, ended } = beginDaemon('coordinator', config.log)
  const catalogue = new Catalogue(config.store)
  await catalogue.open()
  const coordinator = new Coordinator({ config, catalogue, logger, version })
  const api = await createCoordinatorApi(coordinator, { endpoint: parseEndpoint(config.socket), logger, version })
  try {
    await api.check()
    lockDirectory(config.store)
    await api.listen()
    logger.info({ socket: config.socket, store: config.store, networks: Object.keys(config.networks) }, 'listening')
    const recovery = coordinator.recover()
    const reason = await ended
    if (!(reason instanceof Error)) logger.info({ signal: reason }, 'stopping')
    await coordinator.stop()
    await recovery
    if (reason instanceof Error) throw reason
  } finally {
    await api.close()
  }
}
