// Calls to a libvirtd that are about no domain yet, or about one that need not be there.

import { asSnapswitchError } from '../../errors/errors.js'
import type { Deadline } from '../hypervisor.js'
import type { LibvirtSettings } from './machine.js'
import type { CallArguments, CallName, DescribeResult, Keepsakes } from './protocol.js'

export class Loader {
  readonly #settings: LibvirtSettings
  readonly #lane: number

  constructor(settings: LibvirtSettings) {
    this.#settings = settings
    this.#lane = settings.process.lane(() => {})
  }

  call(call: CallName, args: CallArguments, deadline: Deadline): Promise<unknown> {
    const { process, uri } = this.#settings
    return process.call({ lane: this.#lane, uri, watch: null, call, args }, deadline)
  }

  /** What libvirt knows of a domain; null when it knows none of that name. */
  async find(domain: string, deadline: Deadline): Promise<DescribeResult | null> {
    try {
      return (await this.call('describe', { domain }, deadline)) as DescribeResult
    } catch (error) {
      if (asSnapswitchError(error).code === 'MACHINE_UNKNOWN') return null
      throw error
    }
  }

  async keepsakes(domain: string, deadline: Deadline): Promise<Keepsakes> {
    return (await this.call('keepsakes', { domain }, deadline)) as Keepsakes
  }

  close(): void {
    this.#settings.process.closeLane(this.#lane, this.#settings.uri)
  }
}
