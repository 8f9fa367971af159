// What the options of `snapswitch play` mean. Wrong ones are usage errors (exit code 2).

import { InvalidArgumentError, Option } from 'commander'
import { asSnapswitchError } from '../errors/errors.js'
import { parseMac } from '../frame/mac.js'
import { parsePrefix, parseRule, parseTarget, type Rule } from '../play/mapping.js'
import type { IpChange, VlanChange } from '../play/rewrite.js'
import type { Pace } from '../play/schedule.js'
import { parseDuration } from './options.js'
import type { WantedMac } from './play-addresses.js'

/** The reading of a rule or address, its errors as those of usage. */
function asUsage<T>(read: () => T): T {
  try {
    return read()
  } catch (thrown) {
    const { message, action } = asSnapswitchError(thrown)
    throw new InvalidArgumentError(`${message}. ${action}`)
  }
}

/** For options that are given several times. */
const collected =
  <T>(read: (text: string) => T) =>
  (text: string, before: readonly T[] = []): T[] => [...before, asUsage(() => read(text))]

export const ruleOption: (text: string, before?: readonly Rule[]) => Rule[] = collected(parseRule)

export const macOption: (text: string, before?: readonly WantedMac[]) => WantedMac[] = collected((text) => {
  const [from, to] = halves(text, 'old=new')
  return { from: parseMac(from), to: /^(port|device):/.test(to) ? parseTarget(to) : parseMac(to) }
})

export const ipOption: (text: string, before?: readonly IpChange[]) => IpChange[] = collected((text) => {
  const [from, to] = halves(text, 'old=new').map(parsePrefix) as [IpChange['from'], IpChange['from']]
  if (from.address.length !== to.address.length || from.bits !== to.bits) {
    throw new InvalidArgumentError('Give two addresses, or two prefixes of one length: 10.0.0.0/24=10.1.7.0/24.')
  }
  return { from, to }
})

export const vlanOption: (text: string, before?: readonly VlanChange[]) => VlanChange[] = collected((text) => {
  const [from, to] = halves(text, 'old=new').map((half) => {
    if (half === 'none') return null
    const vlan = /^\d{1,4}$/.test(half) ? Number(half) : -1
    if (vlan < 0 || vlan > 4094) throw new InvalidArgumentError('Give VLANs from 0 to 4094, or none: 10=20, none=10.')
    return vlan
  }) as [number | null, number | null]
  return { from, to }
})

function halves(text: string, form: string): [string, string] {
  const [from, to, ...more] = text.split('=')
  if (from === undefined || to === undefined || more.length > 0) {
    throw new InvalidArgumentError(`Give it as ${form}.`)
  }
  return [from, to]
}

const UNITS: Readonly<Record<string, number>> = { '': 1, k: 1e3, M: 1e6, G: 1e9 }

/** `5000fps`, `5kfps`, `10Mbit`. */
export function rateOption(text: string): Pace {
  const match = /^(\d+(?:\.\d+)?)([kMG]?)(fps|bit)(?:\/s)?$/.exec(text)
  const perSecond = match === null ? 0 : Number(match[1]) * UNITS[match[2]]
  if (match === null || !(perSecond >= 0.001 && perSecond <= 1e12)) {
    throw new InvalidArgumentError('Give frames or bits a second: 5000fps, 10Mbit, 2.5Gbit.')
  }
  return { kind: match[3] === 'fps' ? 'frames' : 'bits', perSecond }
}

export function speedOption(text: string): number {
  const speed = Number(text)
  if (!(speed >= 0.0001 && speed <= 10_000)) throw new InvalidArgumentError('Give a number from 0.0001 to 10000.')
  return speed
}

/** Of passes or frames; `0`, of passes: for ever. */
export function countOption(least: 0 | 1): (text: string) => number {
  return (text) => {
    const count = /^\d{1,15}$/.test(text) ? Number(text) : -1
    if (count < least) throw new InvalidArgumentError(`Give a whole number from ${least} on.`)
    return count === 0 ? Number.POSITIVE_INFINITY : count
  }
}

export function mibOption(text: string): number {
  const mib = /^\d{1,4}$/.test(text) ? Number(text) : 0
  if (mib < 1 || mib > 2048) throw new InvalidArgumentError('Give a whole number of MiB from 1 to 2048.')
  return mib
}

export const settleOption = (): Option =>
  new Option('--settle <time>', 'how long frames may yet come at the end').default(1000, '1s').argParser(parseDuration)
