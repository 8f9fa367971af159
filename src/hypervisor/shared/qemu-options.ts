// QEMU's command line, taken apart and put together again: arguments, and their `key=value,...` or JSON values. Pure.

import { isObject } from './qmp-messages.js'

/** Options of qemu-options.hx that take no value; all others take one. */
const bare = new Set(
  (
    'S daemonize nographic enable-kvm snapshot no-reboot no-shutdown nodefaults no-user-config usb no-acpi no-hpet ' +
    'no-fd-bootchk preconfig h help version full-screen win2k-hack singlestep one-insn-per-tb only-migratable ' +
    'enable-sync-profile alt-grab ctrl-grab no-quit no-frame portrait xen-attach xen-domid-restrict semihosting ' +
    'old-param mem-prealloc no-kvm no-kvm-irqchip no-kvm-pit nodefconfig async-teardown curses sdl s perfmap jitdump ' +
    'audio-help enable-fips enable-hax virtfs_synth show-cursor localtime'
  ).split(' '),
)

export interface Argument {
  /** Without dashes; '' for a bare word, which QEMU takes as the first hard disk. */
  readonly option: string
  /** null when the option takes none. */
  readonly value: string | null
  /** Index in argv of the value (of the option itself when it takes none). */
  readonly index: number
}

/** Splits argv (argv[0] is the binary and left out). */
export function splitArguments(argv: readonly string[]): Argument[] {
  const split: Argument[] = []
  for (let i = 1; i < argv.length; i++) {
    const word = argv[i]!
    if (!word.startsWith('-')) {
      split.push({ option: '', value: word, index: i })
      continue
    }
    const option = word.replace(/^--?/, '')
    if (bare.has(option) || i + 1 >= argv.length) split.push({ option, value: null, index: i })
    else split.push({ option, value: argv[++i]!, index: i })
  }
  return split
}

export function joinArguments(binary: string, split: readonly Argument[]): string[] {
  const argv = [binary]
  for (const { option, value } of split) {
    if (option === '') argv.push(value ?? '')
    else if (value === null) argv.push(`-${option}`)
    else argv.push(`-${option}`, value)
  }
  return argv
}

/** A comma in a value is written twice. */
const escapeCommas = (text: string) => text.replaceAll(',', ',,')

function splitCommas(text: string): string[] {
  const parts: string[] = []
  let part = ''
  for (let i = 0; i < text.length; i++) {
    if (text[i] !== ',') part += text[i]
    else if (text[i + 1] === ',') {
      part += ','
      i++
    } else {
      parts.push(part)
      part = ''
    }
  }
  parts.push(part)
  return parts
}

type Tree = { [key: string]: unknown }

/**
 * One option's value. Keys are dotted paths in both notations: `file.filename=x` and {"file":{"filename":"x"}} are the
 * same to `get`. The first word may stand without its key (`tap,id=n0`): `implied` names that key.
 */
export class OptionValue {
  readonly #entries: { key: string; value: string | null; bareFirst: boolean }[] = []
  readonly #tree: Tree | null = null

  constructor(text: string, implied: string | null) {
    if (text.startsWith('{')) {
      let tree: unknown
      try {
        tree = JSON.parse(text)
      } catch {
        tree = null
      }
      this.#tree = isObject(tree) ? (tree as Tree) : {}
      return
    }
    for (const [i, part] of splitCommas(text).entries()) {
      const equals = part.indexOf('=')
      if (equals >= 0) {
        this.#entries.push({ key: part.slice(0, equals), value: part.slice(equals + 1), bareFirst: false })
      } else if (i === 0 && implied !== null) {
        this.#entries.push({ key: implied, value: part, bareFirst: true })
      } else {
        this.#entries.push({ key: part, value: null, bareFirst: false })
      }
    }
  }

  /** The value as text; 'on' for a bare flag (`nowait` aside, which is no key of its own); null when absent. */
  get(path: string): string | null {
    if (this.#tree === null) {
      // Given twice, the last one counts.
      const entry = this.#entries.findLast(({ key }) => key === path)
      return entry === undefined ? null : (entry.value ?? 'on')
    }
    let at: unknown = this.#tree
    for (const key of path.split('.')) at = isObject(at) ? at[key] : undefined
    if (at === undefined || at === null || typeof at === 'object') return null
    return at === true ? 'on' : at === false ? 'off' : String(at)
  }

  /** The keys of the key=value notation, as they are. */
  keys(): string[] {
    return this.#entries.map(({ key }) => key)
  }

  /** Sets a value, in place when the key is there already. JSON is given its type: QEMU takes no "2" for a 2 there. */
  set(path: string, value: string | number | boolean): void {
    if (this.#tree === null) {
      const text = value === true ? 'on' : value === false ? 'off' : String(value)
      const entry = this.#entries.findLast(({ key }) => key === path)
      if (entry === undefined) this.#entries.push({ key: path, value: text, bareFirst: false })
      else entry.value = text
      return
    }
    const keys = path.split('.')
    const last = keys.pop()!
    let at = this.#tree
    for (const key of keys) {
      if (!isObject(at[key])) at[key] = {}
      at = at[key] as Tree
    }
    at[last] = value
  }

  /** Removes a key and all below it. */
  remove(path: string): void {
    if (this.#tree === null) {
      const kept = this.#entries.filter(({ key }) => key !== path && !key.startsWith(`${path}.`))
      this.#entries.splice(0, this.#entries.length, ...kept)
      return
    }
    const keys = path.split('.')
    const last = keys.pop()!
    let at: unknown = this.#tree
    for (const key of keys) at = isObject(at) ? at[key] : undefined
    if (isObject(at)) delete (at as Tree)[last]
  }

  /** All of it as nested objects with text leaves, for building a JSON value of it. */
  toTree(): Tree {
    if (this.#tree !== null) return structuredClone(this.#tree)
    const tree: Tree = {}
    for (const { key, value } of this.#entries) {
      const keys = key.split('.')
      const last = keys.pop()!
      let at = tree
      for (const step of keys) {
        if (!isObject(at[step])) at[step] = {}
        at = at[step] as Tree
      }
      at[last] = value ?? 'on'
    }
    return tree
  }

  toString(): string {
    if (this.#tree !== null) return JSON.stringify(this.#tree)
    return this.#entries
      .map(({ key, value, bareFirst }) =>
        bareFirst ? escapeCommas(value ?? '') : value === null ? key : `${escapeCommas(key)}=${escapeCommas(value)}`,
      )
      .join(',')
  }
}

/** The key that each option's first word may leave out. */
export const impliedKeys: Readonly<Record<string, string>> = {
  netdev: 'type',
  nic: 'type',
  net: 'type',
  device: 'driver',
  blockdev: 'driver',
  chardev: 'backend',
  mon: 'chardev',
  machine: 'type',
  M: 'type',
  display: 'type',
  object: 'qom-type',
  vnc: 'vnc',
  trace: 'enable',
  audiodev: 'driver',
  audio: 'driver',
}

export function optionValue(argument: Argument): OptionValue {
  return new OptionValue(argument.value ?? '', impliedKeys[argument.option] ?? null)
}
