// Which frame goes where: rules in the order in which they were given, of which the first that fits decides. Pure.

import { isIPv4, isIPv6 } from 'node:net'
import { SnapswitchError } from '../errors/errors.js'
import { EtherType, macHigh, macLow } from '../frame/ethernet.js'
import { parseMac } from '../frame/mac.js'

/** A port of the switch, or a network device. */
export interface Target {
  readonly kind: 'port' | 'device'
  readonly name: string
}

/** Part of the address space: the first `bits` bits of `address`, 4 or 16 bytes. */
export interface Prefix {
  readonly address: Uint8Array
  readonly bits: number
}

export type Match =
  | { readonly kind: 'all' }
  /** As recorded. */
  | { readonly kind: 'interface'; readonly name: string }
  /** Of the source. */
  | { readonly kind: 'mac'; readonly high: number; readonly low: number }
  /** Of the source, of an ARP's sender. */
  | { readonly kind: 'ip'; readonly prefix: Prefix }

export type Rule =
  | { readonly match: Match; readonly to: Target }
  /** Each recorded interface to the port, or device, that has its name. */
  | { readonly match: { readonly kind: 'interfaces' }; readonly to: { readonly kind: Target['kind'] } }

/** Of the frame: for mapping. */
export interface Origin {
  /** Null: the capture does not name it. */
  readonly interface: string | null
  readonly buffer: Uint8Array
  readonly start: number
  readonly length: number
}

const FORMS = 'all, interface:NAME, interfaces, mac:ADDRESS or ip:PREFIX'

/**
 * `all=device:eth1`, `device:eth1`, `interface:web=port:web`, `interfaces=ports`, `mac:…=port:a`, `ip:10.0.0.0/8=…`.
 */
export function parseRule(text: string): Rule {
  // Addresses have colons; names of devices may have a “=”, what is matched has none.
  const at = text.indexOf('=')
  const what = at < 0 ? 'all' : text.slice(0, at)
  const to = text.slice(at + 1)
  if (what === 'interfaces') {
    if (to === 'ports' || to === 'devices') {
      return { match: { kind: 'interfaces' }, to: { kind: to === 'ports' ? 'port' : 'device' } }
    }
    throw invalid(`“${to}” is not where interfaces can be mapped to`, 'Write interfaces=ports or interfaces=devices.')
  }
  return { match: parseMatch(what), to: parseTarget(to) }
}

/** `port:web`, `device:eth1`. Throws REQUEST_INVALID. */
export function parseTarget(text: string): Target {
  const [, kind, name] = /^(port|device):(.+)$/.exec(text) ?? []
  if (name === undefined) {
    throw invalid(`“${text}” is no place to play to`, 'Write it as port:NAME or device:NAME.')
  }
  return { kind: kind as Target['kind'], name }
}

function parseMatch(text: string): Match {
  if (text === 'all') return { kind: 'all' }
  const [, kind, value = ''] = /^(interface|mac|ip):(.+)$/.exec(text) ?? []
  if (kind === 'interface') return { kind, name: value }
  if (kind === 'ip') return { kind, prefix: parsePrefix(value) }
  if (kind === 'mac') {
    const mac = parseMac(value)
    return { kind, high: macHigh(mac, 0), low: macLow(mac, 0) }
  }
  throw invalid(`“${text}” says nothing about a frame`, `Frames are mapped by ${FORMS}.`)
}

/** `10.0.0.0/8`, `10.1.2.3`, `fd00::/64`. Throws REQUEST_INVALID. */
export function parsePrefix(text: string): Prefix {
  const [address = '', length, ...more] = text.split('/')
  const bytes = addressBytes(address)
  const most = bytes === null ? 0 : bytes.length * 8
  const bits = length === undefined ? most : /^\d{1,3}$/.test(length) ? Number(length) : -1
  if (bytes === null || more.length > 0 || bits < 0 || bits > most) {
    throw invalid(`“${text}” is no address and no prefix`, 'Write it as 10.1.2.3, 10.0.0.0/8 or fd00::/64.')
  }
  return { address: bytes, bits }
}

function addressBytes(text: string): Uint8Array | null {
  if (isIPv4(text)) return Uint8Array.from(text.split('.'), Number)
  if (!isIPv6(text) || text.includes('%')) return null
  // ::ffff:10.0.0.1
  const plain = text.replace(/(\d+)\.(\d+)\.(\d+)\.(\d+)$/, (_, a, b, c, d) => `${hex(a, b)}:${hex(c, d)}`)
  const [head = '', tail] = plain.split('::')
  const groups = (part: string) => (part === '' ? [] : part.split(':').map((group) => Number.parseInt(group, 16)))
  const [before, after] = [groups(head), groups(tail ?? '')]
  const middle = tail === undefined ? [] : new Array<number>(8 - before.length - after.length).fill(0)
  return Uint8Array.from([...before, ...middle, ...after].flatMap((group) => [group >> 8, group & 0xff]))
}

const hex = (high: string, low: string) => (Number(high) * 256 + Number(low)).toString(16)

/** Whether the address that lies at `at` is within the prefix; its length is the caller's to know. */
export function isWithin(prefix: Prefix, bytes: Uint8Array, at: number): boolean {
  const { address, bits } = prefix
  const whole = bits >> 3
  for (let i = 0; i < whole; i++) if (bytes[at + i] !== address[i]) return false
  const rest = bits & 7
  return rest === 0 || ((bytes[at + whole] ^ address[whole]) & (0xff << (8 - rest)) & 0xff) === 0
}

const NONE = -1

/** Rules, and the places that they lead to, numbered in the order in which they are first named. */
export class Mapping {
  readonly targets: Target[] = []
  readonly #rules: readonly Rule[]
  /** Of rules with one target: its number. */
  readonly #numbers: readonly number[]
  /** Of `interfaces`: numbers by recorded name. */
  readonly #byInterface = new Map<string, number>()

  /**
   * `interfaceTargets`: names that `interfaces` may meet, which are there. Interfaces of other names are mapped to
   * nothing.
   */
  constructor(rules: readonly Rule[], interfaceTargets: readonly Target[] = []) {
    this.#rules = rules
    this.#numbers = rules.map(({ match, to }) => (match.kind === 'interfaces' ? NONE : this.#number(to as Target)))
    for (const target of interfaceTargets) this.#byInterface.set(target.name, this.#number(target))
  }

  #number(target: Target): number {
    const at = this.targets.findIndex(({ kind, name }) => kind === target.kind && name === target.name)
    return at >= 0 ? at : this.targets.push(target) - 1
  }

  /** The number of the frame's target; -1: none. */
  targetOf(frame: Origin): number {
    for (let i = 0; i < this.#rules.length; i++) {
      const { match } = this.#rules[i]
      if (match.kind === 'interfaces') {
        const number = frame.interface === null ? undefined : this.#byInterface.get(frame.interface)
        if (number !== undefined) return number
      } else if (matches(match, frame)) return this.#numbers[i]
    }
    return NONE
  }
}

function matches(match: Match, { interface: name, buffer, start, length }: Origin): boolean {
  switch (match.kind) {
    case 'all':
      return true
    case 'interface':
      return name === match.name
    case 'mac':
      return length >= 12 && macHigh(buffer, start + 6) === match.high && macLow(buffer, start + 6) === match.low
    case 'ip':
      return isFrom(match.prefix, buffer, start, length)
    default:
      return false
  }
}

/** Most tags that are looked behind. */
const MOST_TAGS = 4

/** Where what follows the tags begins; its type is before it. */
export function afterTags(bytes: Uint8Array, start: number, length: number): number {
  let at = start + 14
  for (let tags = 0; tags < MOST_TAGS; tags++) {
    const type = (bytes[at - 2] << 8) | bytes[at - 1]
    if ((type !== EtherType.VLAN && type !== EtherType.SERVICE_VLAN) || at + 4 > start + length) break
    at += 4
  }
  return at
}

function isFrom(prefix: Prefix, bytes: Uint8Array, start: number, length: number): boolean {
  if (length < 14) return false
  const at = afterTags(bytes, start, length)
  const type = (bytes[at - 2] << 8) | bytes[at - 1]
  const end = start + length
  const isSix = prefix.address.length === 16
  if (type === EtherType.IPV6) return isSix && at + 40 <= end && isWithin(prefix, bytes, at + 8)
  if (isSix) return false
  if (type === EtherType.IPV4) return at + 20 <= end && isWithin(prefix, bytes, at + 12)
  return type === EtherType.ARP && at + 28 <= end && isWithin(prefix, bytes, at + 14)
}

function invalid(message: string, action: string): SnapswitchError {
  return new SnapswitchError('REQUEST_INVALID', message, action)
}
