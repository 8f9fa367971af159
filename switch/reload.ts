// The configuration file is read again while the daemon runs. What is wrong with it, or cannot change without a
// restart, is said, and the configuration in force stays.

import { isDeepStrictEqual } from 'node:util'
import type { Logger } from 'pino'
import type { Reloaded } from '../src/api/schemas.js'
import { asSnapswitchError, SnapswitchError } from '../src/errors/errors.js'
import { keys as driverKeys } from '../src/hypervisor/drivers.js'
import type { ServiceManager } from '../src/runtime/service-manager.js'
import { loadSwitchConfig, type SwitchConfig } from './config.js'
import { inWords } from './wanted/changes.js'
import { bridgeChanges, wantedBy } from './wanted/from-config.js'
import type { Reconfiguration } from './wanted/reconfiguration.js'

/** The source of what is wanted that the configuration file is. */
export const CONFIGURATION = 'the configuration'

/** What is taken up at the start, and not again. */
export const FIXED: readonly string[] = [
  'host',
  'api',
  'state',
  'coordinator',
  'hosts',
  'datapath',
  'metrics',
  'memory',
  ...driverKeys,
]

/** Keys of the configuration that differ and cannot while the daemon runs. */
export function fixedDifferences(one: SwitchConfig, other: SwitchConfig): string[] {
  const [before, after] = [one, other].map((config) => new Map<string, unknown>(Object.entries(config)))
  return FIXED.filter((key) => !isDeepStrictEqual(before!.get(key), after!.get(key)))
}

export class Reload {
  readonly #file: string | null
  readonly #reconfiguration: Pick<Reconfiguration, 'set'>
  readonly #manager: Pick<ServiceManager, 'reloading' | 'ready'>
  readonly #log: Logger
  readonly #accepted: (config: SwitchConfig) => void
  #config: SwitchConfig
  #turn: Promise<unknown> = Promise.resolve()

  /** `accepted` is told of a configuration that is in force. */
  constructor(
    file: string | null,
    config: SwitchConfig,
    reconfiguration: Pick<Reconfiguration, 'set'>,
    manager: Pick<ServiceManager, 'reloading' | 'ready'>,
    log: Logger,
    accepted: (config: SwitchConfig) => void,
  ) {
    this.#accepted = accepted
    this.#file = file
    this.#config = config
    this.#reconfiguration = reconfiguration
    this.#manager = manager
    this.#log = log
  }

  /**
   * Throws what is wrong with the file, CONFIG_FIXED, and what `Reconfiguration.set` throws; the log has it, too. The
   * configuration is then as it was.
   */
  reload(): Promise<Reloaded> {
    const done = this.#turn.then(() => this.#reloadNow())
    this.#turn = done.catch(() => undefined)
    return done
  }

  async #reloadNow(): Promise<Reloaded> {
    const file = this.#file
    this.#manager.reloading()
    try {
      const next = loadSwitchConfig(file)
      const fixed = fixedDifferences(this.#config, next)
      if (fixed.length > 0) throw fixedError(file, fixed)
      const changes = (await this.#reconfiguration.set(CONFIGURATION, wantedBy(next))).map(inWords)
      changes.push(...bridgeChanges(this.#config, next))
      if (next.log !== this.#config.log) changes.push(`log: ${next.log}`)
      this.#log.level = next.log
      this.#config = next
      this.#accepted(next)
      this.#log.info({ file, changes }, 'the configuration was read again')
      return { changes }
    } catch (thrown) {
      const error = asSnapswitchError(thrown)
      this.#log.error({ err: error, file }, `the configuration stays as it was: ${error.message}`)
      throw error
    } finally {
      this.#manager.ready()
    }
  }
}

function fixedError(file: string | null, keys: readonly string[]): SnapswitchError {
  const named = keys.map((key) => `\`${key}\``).join(', ')
  return new SnapswitchError(
    'CONFIG_FIXED',
    `${file ?? 'the configuration'}: ${named} cannot change while the daemon runs`,
    'Restart the daemon, or put it back as it was.',
  )
}
