// The reference, made from the program itself: commands from the command line's own definition, keys from the schemas and the
// comments beside them, error codes from their table. `npm run reference` writes it; a test compares.

import { readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import type { Command, Option } from 'commander'
import ts from 'typescript'
import { CoordinatorConfigSchema } from '../coordinator/config.js'
import { createProgram } from '../src/cli/main.js'
import { errorCodes } from '../src/errors/errors.js'
import { keys, kinds } from '../src/hypervisor/drivers.js'
import { version } from '../src/runtime/package.js'
import { SwitchConfig } from '../switch/config.js'

const repository = join(dirname(fileURLToPath(import.meta.url)), '..', '..')

// --- commands --------------------------------------------------------------------------------------------------------

interface CommandDoc {
  readonly name: string
  readonly usage: string
  readonly description: string
  readonly options: readonly { readonly flags: string; readonly description: string }[]
}

const quiet = { out: () => {}, err: () => {}, live: false, columns: 80, onInterrupt: () => () => {} }

function commands(): CommandDoc[] {
  const found: CommandDoc[] = []
  const walk = (command: Command, path: string): void => {
    if (command.commands.length > 0) {
      for (const child of command.commands) walk(child, `${path} ${child.name()}`)
      return
    }
    const args = command.registeredArguments.map((one) => (one.required ? `<${one.name()}>` : `[${one.name()}]`))
    found.push({
      name: path.trim(),
      usage: ['snapswitch', path.trim(), command.options.length > 0 ? '[options]' : '', ...args]
        .filter(Boolean)
        .join(' '),
      description: command.description(),
      options: command.options.map((option) => ({ flags: option.flags, description: describeOption(option) })),
    })
  }
  walk(
    createProgram(quiet, () => {}),
    '',
  )
  return found
}

function describeOption(option: Option): string {
  const parts = [
    ...(option.argChoices === undefined ? [] : [`choices: ${option.argChoices.join(', ')}`]),
    ...(typeof option.defaultValue === 'string' || typeof option.defaultValue === 'number'
      ? [`default: ${option.defaultValueDescription ?? option.defaultValue}`]
      : []),
    ...(option.envVar === undefined ? [] : [`environment: ${option.envVar}`]),
  ]
  return parts.length === 0 ? option.description : `${option.description} (${parts.join('; ')})`
}

// --- keys of the configuration ---------------------------------------------------------------------------------------

interface Schema {
  readonly type?: string
  readonly const?: unknown
  readonly default?: unknown
  readonly minimum?: number
  readonly maximum?: number
  readonly description?: string
  readonly anyOf?: readonly Schema[]
  readonly properties?: Readonly<Record<string, Schema>>
  readonly patternProperties?: Readonly<Record<string, Schema>>
  readonly required?: readonly string[]
}

interface KeyDoc {
  /** With NAME for the keys of a table. */
  readonly path: string
  readonly type: string
  readonly value: string
  readonly description: string
}

/** The comments before keys of object schemas: of `file`, by the nearest key above and the key's own name. */
function comments(file: string): Map<string, string> {
  const found = new Map<string, string>()
  const source = ts.createSourceFile(file, readFileSync(join(repository, file), 'utf8'), ts.ScriptTarget.ES2023, true)
  const visit = (node: ts.Node, holder: string): void => {
    let inner = holder
    if (ts.isVariableDeclaration(node)) inner = node.name.getText()
    if (ts.isPropertyAssignment(node)) {
      const key = node.name.getText()
      const jsDoc = ts.getJSDocCommentsAndTags(node)[0]
      const text = jsDoc === undefined ? '' : (ts.getTextOfJSDocComment(jsDoc.comment as string) ?? '')
      if (text !== '') found.set(`${holder}.${key}`, text.replace(/\s*\n\s*/g, ' '))
      inner = key
    }
    ts.forEachChild(node, (child) => visit(child, inner))
  }
  visit(source, '')
  return found
}

function keysOf(schema: Schema, notes: ReadonlyMap<string, string>, root: string): KeyDoc[] {
  const found: KeyDoc[] = []
  /** `holder`: what the source calls the object: a variable, or the key that it stands under. */
  const walk = (object: Schema, path: string, holders: readonly string[]): void => {
    const defaults = (object.default ?? {}) as Readonly<Record<string, unknown>>
    for (const [key, value] of Object.entries(object.properties ?? {})) {
      const here = path === '' ? key : `${path}.${key}`
      const note = holders.map((holder) => notes.get(`${holder}.${key}`)).find((text) => text !== undefined)
      const table = value.patternProperties === undefined ? null : Object.values(value.patternProperties)[0]
      const inner = table ?? value
      if (inner.properties === undefined || note !== undefined) {
        found.push({
          path: here,
          type: table === null ? typeOf(value) : 'a table by name',
          value: defaultOf(
            key in defaults ? { ...value, default: defaults[key] } : value,
            object.required?.includes(key) === true,
          ),
          description: note ?? value.description ?? '',
        })
      }
      if (inner.properties !== undefined) {
        const named = key.replace(/s$/, '')
        const variable = `${named[0].toUpperCase()}${named.slice(1)}Config`
        walk(inner, table === null ? here : `${here}.NAME`, [variable, key, 'Bounds'])
      }
    }
  }
  walk(schema, '', [root])
  return found
}

function typeOf(schema: Schema): string {
  if (schema.anyOf !== undefined) return schema.anyOf.map((one) => `\`${String(one.const)}\``).join(', ')
  if (schema.type === 'integer' || schema.type === 'number') {
    return schema.maximum === undefined ? 'a number' : `${schema.minimum} to ${schema.maximum}`
  }
  if (schema.type === 'boolean') return '`true`, `false`'
  if (schema.type === 'array') return 'a list'
  return schema.type === 'object' ? 'a map' : 'text'
}

function defaultOf(schema: Schema, required: boolean): string {
  if (schema.default !== undefined && typeof schema.default !== 'object') return `\`${String(schema.default)}\``
  return required && schema.default === undefined ? 'must be given' : 'none'
}

// --- pages -----------------------------------------------------------------------------------------------------------

/** In a table of Markdown; without code marks it could be an HTML tag. */
const cell = (text: string) => text.replaceAll('|', '\\|').replaceAll('<', '&lt;')
const generated = '<!-- Made by `npm run reference` from the program itself. -->\n\n'

function cliPage(): string {
  const parts = commands().map(({ name, usage, description, options }) => {
    const rows = options.map((option) => `| \`${option.flags}\` | ${cell(option.description)} |\n`)
    const table = rows.length === 0 ? '' : `\n| option | what it does |\n| --- | --- |\n${rows.join('')}`
    return `## ${name}\n\n\`${usage}\`\n\n${sentence(description)}\n${table}`
  })
  return `# Commands\n\n${generated}Every command takes \`--help\`. Exit codes: 0 done, 1 an error, 2 wrong usage. An error goes to standard error as
\`error CODE: message\`, then \`what to do: …\`; the codes are in [errors.md](errors.md).\n\n${parts.join('\n')}`
}

function errorsPage(): string {
  const rows = Object.entries(errorCodes).map(([code, meaning]) => `| \`${code}\` | ${cell(meaning)} |\n`)
  return `# Error codes\n\n${generated}A code never changes its meaning. The command prints \`error CODE: message\`, then \`what to do: …\`, and ends with exit code 1.
The API answers with \`{ "error": { "code", "message", "action" } }\`.\n\n| code | meaning |\n| --- | --- |\n${rows.join('')}`
}

function switchKeys(): KeyDoc[] {
  const drivers = kinds.map((kind, at): [string, string] => {
    const address = comments(`src/hypervisor/${kind}/driver.ts`).get(`${kind}.address`) ?? ''
    return [`MachineConfig.${keys[at]}`, `A machine of the ${kind} driver. ${address}`.trim()]
  })
  const rules = [...comments('src/api/schemas/rules.ts')].map(([key, text]): [string, string] => [
    key
      .replace(/^portRules\./, 'PortConfig.')
      .replace(/^PortVlan\./, 'vlan.')
      .replace(/^Mirror\./, 'mirror.'),
    text,
  ])
  return keysOf(
    SwitchConfig as Schema,
    new Map([...drivers, ...rules, ...comments('switch/config.ts')]),
    'SwitchConfig',
  )
}

const coordinatorKeys = () =>
  keysOf(CoordinatorConfigSchema as Schema, comments('coordinator/config.ts'), 'CoordinatorConfigSchema')

function configPage(): string {
  const table = (keys: readonly KeyDoc[]) =>
    `| key | values | default | meaning |\n| --- | --- | --- | --- |\n${keys
      .map(
        ({ path, type, value, description }) =>
          `| \`${path}\` | ${cell(type)} | ${cell(value)} | ${cell(description)} |\n`,
      )
      .join('')}`
  return `# Configuration\n\n${generated}Both files are YAML. \`NAME\` stands for a name of yours: letters, digits, \`_\`, \`.\`, \`-\`, at most 63. A key that is not here is an
error, with file, line and column. [Examples](../../examples/) are complete files.

## The switch of a host (\`snapswitch switch --config FILE\`)\n\n${table(switchKeys())}
## The coordinator (\`snapswitch coordinator --config FILE\`)\n\nRelative paths count from the file's folder.\n\n${table(coordinatorKeys())}`
}

const sentence = (text: string) => `${text[0].toUpperCase()}${text.slice(1)}.`

/** Text as a line of roff: no escapes of its own, no control line. */
function roff(text: string): string {
  const plain = text.replaceAll('\\', '\\e').replaceAll('-', '\\-').replaceAll('`', '')
  return /^[.']/.test(plain) ? `\\&${plain}` : plain
}

const head = (title: string, section: number) =>
  `.\\" Made by \`npm run reference\` from the program itself.\n.TH ${title} ${section} "" "snapswitch ${version}"\n`

function commandManual(): string {
  const list = commands().map(({ usage, description, options }) => {
    const items = options.map((option) => `.RS\n.TP\n.B ${roff(option.flags)}\n${roff(option.description)}\n.RE\n`)
    return `.TP\n.B ${roff(usage)}\n${roff(sentence(description))}\n${items.join('')}`
  })
  const codes = Object.entries(errorCodes).map(([code, meaning]) => `.TP\n.B ${code}\n${roff(meaning)}\n`)
  return `${head('SNAPSWITCH', 1)}.SH NAME
snapswitch \\- virtual switch that takes consistent snapshots of networks of virtual machines
.SH SYNOPSIS
.B snapswitch
.I command
.RI [ options ]
.SH DESCRIPTION
One switch daemon a host stands where a bridge stood, attached to the TAP devices of virtual machines.
A coordinator has the daemons take a snapshot of all machines of a network while they run, frames in flight included, and restore it.
.SH COMMANDS
${list.join('')}.SH SIGNALS
SIGTERM, SIGINT, SIGQUIT, SIGABRT and SIGXCPU stop a daemon in order.
On SIGHUP the switch daemon reads its configuration again, as with
.BR "snapswitch reload" .
A coordinator takes its own up at a restart.
A daemon ignores all other signals that can be caught.
.SH ENVIRONMENT
.TP
.B SNAPSWITCH_SOCKET
The socket of the switch daemon that commands ask.
.TP
.B SNAPSWITCH_COORDINATOR
The socket of the coordinator that commands ask.
.PP
Variables that Node.js reads (NODE_*, UV_*, OPENSSL_CONF and its like) are ignored.
.SH FILES
.TP
.I /run/snapswitch/switch.sock, /run/snapswitch/coordinator.sock
The daemons' sockets.
.TP
.I /var/lib/snapswitch
Images, overlays of restored machines, manifests.
.SH EXIT STATUS
0: done. 1: an error, which standard error names with its code. 2: wrong usage.
.SH ERRORS
${codes.join('')}.SH SEE ALSO
.BR snapswitch.yaml (5)
`
}

function configManual(): string {
  const list = (keys: readonly KeyDoc[]) =>
    keys
      .map(({ path, type, value, description }) => {
        const words = [`Values: ${type}.`, `Default: ${value}.`, description]
          .filter((text) => text !== '')
          .join('\n.br\n')
        return `.TP\n.B ${roff(path)}\n${words
          .split('\n')
          .map((line) => (line === '.br' ? line : roff(line)))
          .join('\n')}\n`
      })
      .join('')
  return `${head('SNAPSWITCH.YAML', 5)}.SH NAME
snapswitch.yaml \\- configuration of snapswitch's daemons
.SH DESCRIPTION
Both daemons read one YAML file each, named by \\-\\-config. NAME stands for a name of yours.
A key that is not listed is an error, with file, line and column.
.SH SWITCH
${list(switchKeys())}.SH COORDINATOR
${list(coordinatorKeys())}.SH SEE ALSO
.BR snapswitch (1)
`
}

/** By their paths in the repository. */
export function referencePages(): Readonly<Record<string, string>> {
  return {
    'docs/reference/cli.md': cliPage(),
    'docs/reference/config.md': configPage(),
    'docs/reference/errors.md': errorsPage(),
    'man/snapswitch.1': commandManual(),
    'man/snapswitch.yaml.5': configManual(),
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  for (const [path, text] of Object.entries(referencePages())) writeFileSync(join(repository, path), text)
}
