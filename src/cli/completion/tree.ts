// The command line as completion needs it: which words may come after which. Made from the commander program, so that
// it knows every command and option that there is. Pure.

import type { Command, Option } from 'commander'

export interface Flag {
  /** `-j`; null: it has none. */
  readonly short: string | null
  /** `--json` */
  readonly long: string
  readonly description: string
  readonly value: 'none' | 'file' | 'text'
  /** What the value may be, where only so much. */
  readonly choices: readonly string[]
}

export interface Node {
  /** `snapshot create`; empty: the program itself. */
  readonly path: string
  readonly commands: readonly { readonly name: string; readonly description: string }[]
  readonly flags: readonly Flag[]
  /** Of its arguments. */
  readonly choices: readonly string[]
}

const HELP: Flag = { short: '-h', long: '--help', description: 'how to use it', value: 'none', choices: [] }

export function treeOf(program: Command): Node[] {
  const nodes: Node[] = []
  const visit = (command: Command, path: string): void => {
    nodes.push({
      path,
      commands: command.commands.map((one) => ({ name: one.name(), description: firstLine(one.description()) })),
      flags: [...command.options.filter(({ hidden }) => !hidden).map(flagOf), HELP],
      choices: command.registeredArguments.flatMap(({ argChoices }) => argChoices ?? []),
    })
    for (const one of command.commands) visit(one, path === '' ? one.name() : `${path} ${one.name()}`)
  }
  visit(program, '')
  return nodes
}

function flagOf(option: Option): Flag {
  const takesValue = option.required || option.optional
  const isFile = /<(file|path|directory)>/.test(option.flags)
  return {
    short: option.short ?? null,
    long: option.long ?? option.flags,
    description: firstLine(option.description),
    value: takesValue ? (isFile ? 'file' : 'text') : 'none',
    choices: option.argChoices ?? [],
  }
}

const firstLine = (text: string) => text.split('\n')[0] ?? ''
