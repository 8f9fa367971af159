// MAC addresses as text. In frames they are bytes, and in tables two numbers: ethernet.ts.

import { SnapswitchError } from '../errors/errors.js'
import { macBytes } from './ethernet.js'

/** "52:54:00:12:34:56" -> 6 bytes. Throws CONFIG_INVALID. */
export function parseMac(text: string): Uint8Array {
  if (!/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i.test(text)) {
    throw new SnapswitchError('CONFIG_INVALID', `“${text}” is no MAC address`, 'Write it as aa:bb:cc:dd:ee:ff.')
  }
  return Uint8Array.from(text.split(':'), (part) => Number.parseInt(part, 16))
}

export function formatMac(address: Uint8Array): string {
  return Array.from(address, (byte) => byte.toString(16).padStart(2, '0')).join(':')
}

/** `high`: the first two bytes, `low`: the other four. */
export function formatMacWords(high: number, low: number): string {
  return formatMac(macBytes(high, low))
}
