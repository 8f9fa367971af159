// The devices there are, as of a moment ago: several decisions in a row need the list, and it takes a while where there
// are hundreds.

import type { Links } from '../../src/linux/link.js'
import type { Link } from '../../src/linux/link-message.js'
import type { Devices } from './host-use.js'

/** Milliseconds for which a list is good enough to see what stands on a device: what is newer, `reconcile` sees. */
const AGE_MS = 500
/**
 * How often other namespaces are looked at, and that so many times as long passes between as it takes: there may be
 * hundreds.
 */
const ELSEWHERE_MS = 3000
const ELSEWHERE_SHARE = 500

export class DeviceList {
  readonly #links: Links
  #listed: readonly Link[] = []
  #listedUntil = Number.NEGATIVE_INFINITY
  #elsewhere: readonly Link[] = []
  #nextElsewhere = Number.NEGATIVE_INFINITY

  constructor(links: Links) {
    this.#links = links
  }

  /** Devices have changed. */
  outdated(): void {
    this.#listedUntil = Number.NEGATIVE_INFINITY
  }

  here(): readonly Link[] {
    if (performance.now() > this.#listedUntil) {
      this.#listed = this.#links.list()
      this.#listedUntil = performance.now() + AGE_MS
    }
    return this.#listed
  }

  /** With those of other namespaces, which take longer to find: as they were some seconds ago. */
  everywhere(): Devices {
    const began = performance.now()
    if (began >= this.#nextElsewhere) {
      this.#elsewhere = this.#links.elsewhere()
      const now = performance.now()
      this.#nextElsewhere = now + Math.max(ELSEWHERE_MS, (now - began) * ELSEWHERE_SHARE)
    }
    return { here: this.here(), elsewhere: this.#elsewhere }
  }
}
