// The systemd units as they are installed: those of the package, with the program's path in them, which program that
// was, and a last line by which a later install tells whether somebody has changed them since.

import { createHash } from 'node:crypto'

/** Where systemd looks for programs, and for what these start. */
export const SYSTEM_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'

const MARK = '# Written by `snapswitch install`. Digest of what is above: '

export interface Installation {
  /** The `snapswitch` command. */
  readonly program: string
  /** The `node` that it is to find. */
  readonly node: string
  /** Which program it is (release.ts). A unit that names another one is of a daemon that runs another one. */
  readonly release: string
}

export function renderUnit(template: string, { program, node, release }: Installation): string {
  const bin = node.slice(0, node.lastIndexOf('/'))
  const finds = SYSTEM_PATH.split(':').includes(bin)
  const environment = finds ? '' : `Environment=${quoted(`PATH=${bin}:${SYSTEM_PATH}`)}\n`
  const body = template
    .replace(/^(Exec\w+)=snapswitch /gm, (_, key: string) => `${key}=${quoted(program)} `)
    .replace(/^ExecStart=/m, `${environment}ExecStart=`)
  const text = `${body}\n# Of snapswitch ${release}.\n`
  return `${text}${MARK}${digestOf(text)}\n`
}

/** An installed unit that nobody has changed since it was written. */
export function isUnchanged(text: string): boolean {
  const at = text.lastIndexOf(MARK)
  return at >= 0 && text.slice(at + MARK.length).trim() === digestOf(text.slice(0, at))
}

const digestOf = (text: string) => createHash('sha256').update(text).digest('hex').slice(0, 16)

/** A word of a unit file: systemd.syntax(7), and `%` is its own. */
function quoted(word: string): string {
  const escaped = word.replaceAll('%', '%%')
  return /[\s"'\\]/.test(word) ? `"${escaped.replace(/["\\]/g, '\\$&')}"` : escaped
}
