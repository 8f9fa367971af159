// What `snapswitch capture` was asked for, as one filter and one kind of output. Wrong options are usage errors.

import { type Command, InvalidArgumentError } from 'commander'
import { parseFilter } from '../capture/filter.js'
import { asSnapswitchError } from '../errors/errors.js'
import { type CommonOptions, parseDuration } from './options.js'

export interface CaptureOptions extends CommonOptions {
  readonly port?: readonly string[]
  readonly vm?: readonly string[]
  readonly mac?: readonly string[]
  readonly vlan?: readonly string[]
  readonly ethertype?: readonly string[]
  readonly direction?: string
  readonly verdict?: readonly string[]
  readonly reason?: readonly string[]
  readonly write?: string
  readonly snaplen?: number
  readonly count?: number
  readonly seconds?: number
  readonly fileSize?: number
  readonly fileTime?: number
  readonly files?: number
  readonly buffer?: number
  readonly list?: boolean
}

const collect = (value: string, before: readonly string[] = []) => [...before, value]

export function withCaptureOptions(command: Command): Command {
  return command
    .option('-p, --port <name>', 'only at this port; may be given several times, as those below', collect)
    .option('--vm <name>', 'only at ports of this machine', collect)
    .option('--mac <address>', 'only frames from or to it', collect)
    .option('--vlan <id>', 'only frames of this VLAN', collect)
    .option('--ethertype <type>', 'only frames of this type: arp, ip, ip6, 0x88cc', collect)
    .option('--direction <in|out>', 'only what comes in from ports’ devices, or goes out to them')
    .option('--verdict <verdict>', 'only frames that were received, delivered, held or dropped', collect)
    .option('--reason <reason>', 'only frames that were dropped for this reason', collect)
    .option('-w, --write <file>', 'write pcapng to this file or named pipe; -: to standard output')
    .option('--snaplen <bytes>', 'keep so many bytes of each frame', whole(14, 262_144))
    .option('-c, --count <n>', 'end after so many frames', whole(1, Number.MAX_SAFE_INTEGER))
    .option('--seconds <time>', 'end after this time, such as 10 or 2m', parseDuration)
    .option('--file-size <size>', 'begin another file when one has this size, such as 100M', parseSize)
    .option('--file-time <time>', 'begin another file after this time', parseDuration)
    .option('--files <n>', 'keep the last n files only', whole(1, 100_000))
    .option('--buffer <MiB>', 'memory in which frames wait; default: 16', whole(1, 256))
    .option('--list', 'list the captures that run')
}

export function whole(least: number, most: number): (text: string) => number {
  return (text) => {
    const value = /^\d{1,16}$/.test(text) ? Number(text) : Number.NaN
    if (!(value >= least && value <= most)) throw new InvalidArgumentError(`Give a number from ${least} to ${most}.`)
    return value
  }
}

const UNITS: Readonly<Record<string, number>> = { '': 1, k: 1024, M: 1024 ** 2, G: 1024 ** 3 }

/** `1000000`, `500k`, `100M`, `2G`: bytes, from 4 KiB on. */
export function parseSize(text: string): number {
  const match = /^(\d{1,12})([kMG]?)$/.exec(text)
  const bytes = match === null ? Number.NaN : Number(match[1]) * UNITS[match[2]!]!
  if (!(bytes >= 4096)) throw new InvalidArgumentError('Give a size from 4k on, such as 500k, 100M or 2G.')
  return bytes
}

/** The options and the words of the filter in one. Throws InvalidArgumentError. */
export function filterOf(options: CaptureOptions, words: readonly string[]): string {
  const any = (word: string, values: readonly string[] = []) => {
    const terms = values.map((value) => `${word} ${value}`.trim())
    return terms.length < 2 ? terms : [`(${terms.join(' or ')})`]
  }
  const text = words.join(' ').trim()
  const filter = [
    ...any('port', options.port),
    ...any('vm', options.vm),
    ...any('mac', options.mac),
    ...any('vlan', options.vlan),
    ...any('ethertype', options.ethertype),
    ...any('', options.direction === undefined ? [] : [options.direction]),
    ...any('', options.verdict),
    ...any('reason', options.reason),
    ...(text === '' ? [] : [`(${text})`]),
  ]
  const whole = filter.length === 1 ? filter[0]!.replace(/^\((.*)\)$/, '$1') : filter.join(' and ')
  try {
    parseFilter(whole)
  } catch (error) {
    const { message, action } = asSnapswitchError(error)
    throw new InvalidArgumentError(`${message}. ${action}`)
  }
  return whole
}
