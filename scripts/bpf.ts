// Compiles bpf/fast-path.bpf.c and embeds it: users of the switch need no compiler. `npm run bpf` writes
// switch/datapath/kernel/object.ts; a test compiles again and compares.

import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

const repository = join(dirname(fileURLToPath(import.meta.url)), '..', '..')
export const OBJECT_FILE = join(repository, 'switch', 'datapath', 'kernel', 'object.ts')
/** Another version of the compiler makes other code of the same source. */
const COMPILER = 'clang-14'
const SECTIONS = { decide: 'socket', act: 'tc', actEarly: 'tc/early', actInBridge: 'tc/bridge' } as const
const SYMTAB = 2
const REL = 9
const COLUMNS = 116

interface Program {
  readonly code: Buffer
  /** Where a map's descriptor goes, in bytes. */
  readonly maps: readonly (readonly [at: number, map: string])[]
}

function compile(): Buffer {
  const directory = mkdtempSync(join(tmpdir(), 'snapswitch-bpf-'))
  try {
    const object = join(directory, 'object')
    const options = ['-target', 'bpf', '-mcpu=v3', '-O2', '-Wall', '-Werror', '-c', '-o', object]
    execFileSync(COMPILER, [...options, join(repository, 'bpf', 'fast-path.bpf.c')], { stdio: 'pipe' })
    return readFileSync(object)
  } finally {
    rmSync(directory, { recursive: true })
  }
}

/** elf(5), 64 bits, little-endian. */
class Elf {
  readonly #bytes: Buffer
  readonly #sections

  constructor(bytes: Buffer) {
    this.#bytes = bytes
    const start = Number(bytes.readBigUInt64LE(40))
    const sections = Array.from({ length: bytes.readUInt16LE(60) }, (_, i) => {
      const at = start + i * 64
      const long = (offset: number) => Number(bytes.readBigUInt64LE(at + offset))
      const word = (offset: number) => bytes.readUInt32LE(at + offset)
      return { name: word(0), type: word(4), offset: long(24), size: long(32), link: word(40), info: word(44) }
    })
    const names = sections[bytes.readUInt16LE(62)]!
    this.#sections = sections.map((section) => ({ ...section, name: this.#text(names.offset + section.name) }))
  }

  program(section: string): Program {
    const index = this.#sections.findIndex(({ name }) => name === section)
    const { offset, size } = this.#sections[index]!
    const symbols = this.#sections.find(({ type }) => type === SYMTAB)!
    const relocations = this.#sections.filter(({ type, info }) => type === REL && info === index)
    const maps = relocations.flatMap((one) =>
      Array.from({ length: one.size / 16 }, (_, i): [number, string] => {
        const at = one.offset + i * 16
        const symbol = symbols.offset + this.#bytes.readUInt32LE(at + 12) * 24
        const strings = this.#sections[symbols.link]!
        const name = this.#text(strings.offset + this.#bytes.readUInt32LE(symbol))
        return [Number(this.#bytes.readBigUInt64LE(at)), name]
      }),
    )
    return { code: this.#bytes.subarray(offset, offset + size), maps }
  }

  #text(at: number): string {
    return this.#bytes.toString('latin1', at, this.#bytes.indexOf(0, at))
  }
}

/** The text of the generated file. */
export function embedded(): string {
  const elf = new Elf(compile())
  const programs = Object.entries(SECTIONS).map(([name, section]) => {
    const { code, maps } = elf.program(section)
    const lines = code.toString('base64').match(new RegExp(`.{1,${COLUMNS - 8}}`, 'g')) ?? []
    const parts = lines.map((line) => `'${line}',`).join('\n      ')
    const places = maps.map(([at, map]) => `[${at}, '${map}']`)
    const list = places.length === 1 ? `[${places}]` : `[\n      ${places.join(',\n      ')},\n    ]`
    return `  ${name}: {
    code: [
      ${parts}
    ],
    maps: ${list},
  },
`
  })
  return `// Generated from bpf/fast-path.bpf.c by \`npm run bpf\`: instructions, and where the descriptors of maps go in them.

export const object = {
${programs.join('')}} as const
`
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) writeFileSync(OBJECT_FILE, embedded())
