// What of a network a capture is to show, as a person writes it: `port web and (arp or vlan 20) and not in`. Made into
// a tree here, which the switch asks of each frame (switch/capture/matcher.ts).
//
//   port NAME   vm NAME               at this port, or one of this machine
//   mac M   src M   dst M             Ethernet addresses; broadcast, multicast
//   vlan [N]                          of this VLAN, or of any: by its tag, or by the port's pvid
//   ethertype N   arp   ip   ip6      behind all VLAN tags
//   in   out                          from the port's device into the switch, and from the switch to the device
//   received delivered held dropped   the verdict; `reason R`: dropped for that reason
//   and or not ( )                    `and` may be left out

import { isName } from '../api/names.js'
import { SnapswitchError } from '../errors/errors.js'

export const verdicts = ['received', 'delivered', 'held', 'dropped'] as const
export type VerdictName = (typeof verdicts)[number]

export type Filter =
  | { readonly kind: 'all'; readonly of: readonly Filter[] }
  | { readonly kind: 'any'; readonly of: readonly Filter[] }
  | { readonly kind: 'not'; readonly of: Filter }
  | { readonly kind: 'port'; readonly name: string }
  | { readonly kind: 'vm'; readonly name: string }
  | { readonly kind: 'mac'; readonly mac: string; readonly side: 'src' | 'dst' | 'either' }
  | { readonly kind: 'group'; readonly broadcast: boolean }
  /** Null: any. */
  | { readonly kind: 'vlan'; readonly vlan: number | null }
  | { readonly kind: 'ethertype'; readonly type: number }
  | { readonly kind: 'direction'; readonly direction: 'in' | 'out' }
  | { readonly kind: 'verdict'; readonly verdict: VerdictName }
  | { readonly kind: 'reason'; readonly reason: string }

export const FILTER_LENGTH = 4096
const MOST_WORDS = 512
const DEEPEST = 32
const TYPES: Readonly<Record<string, number>> = { arp: 0x0806, ip: 0x0800, ip6: 0x86dd, ipv6: 0x86dd }
const MAC = /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/

/** Null: everything, as what an empty text means. Throws REQUEST_INVALID. */
export function parseFilter(text: string): Filter | null {
  const words = text
    .replace(/[()!]|\|\||&&/g, ' $& ')
    .split(/\s+/)
    .filter(Boolean)
  if (words.length === 0) return null
  if (text.length > FILTER_LENGTH || words.length > MOST_WORDS)
    throw invalid(`the filter has more than ${MOST_WORDS} words`)
  const parser = new Parser(words)
  return parser.whole()
}

/** All reasons that it names. */
export function reasonsIn(filter: Filter | null): string[] {
  if (filter === null) return []
  if (filter.kind === 'all' || filter.kind === 'any') return filter.of.flatMap(reasonsIn)
  if (filter.kind === 'not') return reasonsIn(filter.of)
  return filter.kind === 'reason' ? [filter.reason] : []
}

class Parser {
  readonly #words: readonly string[]
  #at = 0
  #depth = 0

  constructor(words: readonly string[]) {
    this.#words = words
  }

  whole(): Filter {
    const filter = this.#any()
    if (this.#at < this.#words.length) throw invalid(`\`${this.#words[this.#at]}\` has no place there`)
    return filter
  }

  get #next(): string | undefined {
    return this.#words[this.#at]
  }

  #takes(...words: string[]): boolean {
    if (this.#next === undefined || !words.includes(this.#next)) return false
    this.#at++
    return true
  }

  #any(): Filter {
    const of = [this.#all()]
    while (this.#takes('or', '||')) of.push(this.#all())
    return of.length === 1 ? of[0]! : { kind: 'any', of }
  }

  #all(): Filter {
    const of = [this.#one()]
    while (this.#next !== undefined && this.#next !== ')' && this.#next !== 'or' && this.#next !== '||') {
      this.#takes('and', '&&')
      of.push(this.#one())
    }
    return of.length === 1 ? of[0]! : { kind: 'all', of }
  }

  #one(): Filter {
    if (++this.#depth > DEEPEST) throw invalid(`the filter is deeper than ${DEEPEST}`)
    try {
      if (this.#takes('not', '!')) return { kind: 'not', of: this.#one() }
      if (!this.#takes('(')) return this.#term()
      const inner = this.#any()
      if (!this.#takes(')')) throw invalid('a `)` is missing')
      return inner
    } finally {
      this.#depth--
    }
  }

  #term(): Filter {
    const word = this.#next
    if (word === undefined) throw invalid('it ends where something should follow')
    this.#at++
    const type = TYPES[word]
    if (type !== undefined) return { kind: 'ethertype', type }
    switch (word) {
      case 'port':
      case 'vm':
        return { kind: word, name: this.#name(word) }
      case 'mac':
        return { kind: 'mac', mac: this.#mac(word), side: 'either' }
      case 'src':
      case 'dst':
        return { kind: 'mac', mac: this.#mac(word), side: word }
      case 'broadcast':
      case 'multicast':
        return { kind: 'group', broadcast: word === 'broadcast' }
      case 'vlan':
        return { kind: 'vlan', vlan: /^\d/.test(this.#next ?? '') ? this.#number('vlan', 4094) : null }
      case 'ethertype':
        return { kind: 'ethertype', type: TYPES[this.#next ?? ''] ?? this.#number('ethertype', 0xffff, true) }
      case 'in':
      case 'out':
        return { kind: 'direction', direction: word }
      case 'reason':
        return { kind: 'reason', reason: this.#value('reason', /^[a-z-]+$/, 'why a frame was dropped') }
      default: {
        const verdict = verdicts.find((one) => one === word)
        if (verdict === undefined) throw invalid(`\`${word}\` is no word of filters`)
        return { kind: 'verdict', verdict }
      }
    }
  }

  #value(after: string, fits: RegExp, what: string): string {
    const word = this.#next
    if (word === undefined || !fits.test(word)) throw invalid(`after \`${after}\` comes ${what}, not \`${word ?? ''}\``)
    this.#at++
    return word
  }

  #name(after: string): string {
    const word = this.#next
    if (!isName(word)) throw invalid(`after \`${after}\` comes a name, not \`${word ?? ''}\``)
    this.#at++
    return word
  }

  #mac(after: string): string {
    const word = this.#next?.toLowerCase().replaceAll('-', ':') ?? ''
    if (!MAC.test(word)) throw invalid(`after \`${after}\` comes an address such as 52:54:00:12:34:56`)
    this.#at++
    return word
  }

  #number(after: string, most: number, hexadecimal = false): number {
    const word = this.#next ?? ''
    const value = /^(0x[0-9a-f]{1,4}|\d{1,5})$/i.test(word) ? Number(word) : Number.NaN
    if (!(value <= most) || (!hexadecimal && word.startsWith('0x')))
      throw invalid(`after \`${after}\` comes a number up to ${most}, not \`${word}\``)
    this.#at++
    // `ethertype 0806` is a way to write it, too: no type has a meaning in decimal with four digits and a zero.
    return hexadecimal && /^0\d{3}$/.test(word) ? Number.parseInt(word, 16) : value
  }
}

function invalid(message: string): SnapswitchError {
  return new SnapswitchError(
    'REQUEST_INVALID',
    `the filter cannot be read: ${message}`,
    'Write it of port, vm, mac, src, dst, vlan, ethertype, arp, ip, ip6, broadcast, multicast, in, out, received, ' +
      'delivered, held, dropped, reason, with and, or, not and parentheses.',
  )
}
