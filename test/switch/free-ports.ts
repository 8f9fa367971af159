// Ports whose devices are all there and free, whatever is asked of them: a port only comes and goes.

import type { PortRecord } from '../../src/api/schemas.js'
import type { SnapswitchError } from '../../src/errors/errors.js'
import { type PortEntry, type PortRequest, PortTable } from '../../switch/ports/table.js'

const MTU = 1500

export class FreePorts extends PortTable {
  async change(): Promise<void> {
    throw new Error('no port here is a bridge’s')
  }

  async takeBack(name: string): Promise<PortEntry | undefined> {
    return this.get(name)
  }

  async replaceDevice(name: string): Promise<PortEntry> {
    throw new Error(`${name} needs no other device`)
  }

  ensureTap(): boolean {
    return false
  }

  removeTap(): void {
    // It stays for whoever comes.
  }

  hasDevice(): boolean {
    return true
  }

  isTapHeld(_device: string): boolean {
    return false
  }

  outside(): null {
    return null
  }

  record({ name, device, mtu }: PortEntry, mac: string | null): PortRecord {
    return { name, device, mac, mtu }
  }

  problemsOf(_network: string): SnapswitchError[] {
    return []
  }

  protected enter(request: PortRequest, index: number): PortEntry {
    const device = { ifindex: index + 1, ifname: request.device, mtu: MTU, mac: null, queueLength: 1000 }
    const entry = { ...request, index, ...device, ownsDevice: false }
    this.entries.set(request.name, entry)
    return entry
  }
}
