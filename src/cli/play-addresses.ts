// MAC addresses that are given by where they are: behind a port of the switch, or a device's own.

import type { SwitchClient } from '../api/switch-client.js'
import { SnapswitchError } from '../errors/errors.js'
import { parseMac } from '../frame/mac.js'
import { Links } from '../linux/link.js'
import type { Target } from '../play/mapping.js'
import type { MacChange } from '../play/rewrite.js'

/** As it was given. */
export interface WantedMac {
  readonly from: Uint8Array
  readonly to: Uint8Array | Target
}

const CALL_MS = 10_000

/** @throws SnapswitchError DEVICE_MISSING, REQUEST_INVALID where there is no address, or more than one */
export async function knownMacs(client: SwitchClient, wanted: readonly WantedMac[]): Promise<MacChange[]> {
  const found: MacChange[] = []
  for (const { from, to } of wanted) found.push({ from, to: to instanceof Uint8Array ? to : await macAt(client, to) })
  return found
}

async function macAt(client: SwitchClient, { kind, name }: Target): Promise<Uint8Array> {
  const macs = kind === 'device' ? ownMac(name) : await macsBehind(client, name)
  if (macs.length === 1) return parseMac(macs[0]!)
  throw new SnapswitchError(
    'REQUEST_INVALID',
    macs.length === 0 ? `no address is known at ${kind} ${name}` : `${macs.length} addresses are behind port ${name}`,
    macs.length === 0
      ? 'Let the machine speak first (a ping will do), or give its address.'
      : `Give one of ${macs.join(', ')}.`,
  )
}

function ownMac(name: string): string[] {
  const links = new Links()
  try {
    return [links.get(name).mac].flatMap((mac) => mac ?? [])
  } finally {
    links.close()
  }
}

async function macsBehind(client: SwitchClient, port: string): Promise<string[]> {
  const { networks } = await client.status({ deadlineMs: CALL_MS })
  const macs = new Set<string>()
  for (const { name } of networks) {
    for (const entry of await client.fdb(name, { deadlineMs: CALL_MS })) if (entry.port === port) macs.add(entry.mac)
  }
  return [...macs]
}
