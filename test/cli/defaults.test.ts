// The defaults that help and reference name are values that can be given, and mean the same when they are given.

import type { Command, Option } from 'commander'
import t from 'tap'
import { createProgram } from '../../src/cli/main.js'

const quiet = { out: () => {}, err: () => {}, live: false, columns: 80, onInterrupt: () => () => {} }

function optionsOf(command: Command, path: string): { readonly name: string; readonly option: Option }[] {
  return [
    ...command.options.map((option) => ({ name: `${path} ${option.long ?? option.short}`, option })),
    ...command.commands.flatMap((child) => optionsOf(child, `${path} ${child.name()}`.trim())),
  ]
}

const options = optionsOf(
  createProgram(quiet, () => {}),
  '',
)

/** As the command line would have it. */
const given = ({ parseArg }: Option, text: string): unknown =>
  parseArg === undefined ? text : parseArg(text, undefined as never)

t.test('a default that is printed is the default when it is given', async (t) => {
  const printed = options.filter(({ option }) => !option.isBoolean() && option.defaultValue !== undefined)
  t.ok(printed.length > 10)
  for (const { name, option } of printed) {
    const text = option.defaultValueDescription ?? String(option.defaultValue)
    try {
      t.same(given(option, text), option.defaultValue, `${name} ${text}`)
    } catch (error) {
      t.fail(`${name} ${text}: ${(error as Error).message}`)
    }
  }
})

t.test('a default that a description names can be given', async (t) => {
  const named = options.flatMap(({ name, option }) => {
    const [, text] = /\bdefault:? (\d\w*)/.exec(option.description) ?? []
    return text === undefined ? [] : [{ name, option, text }]
  })
  t.ok(named.length > 4)
  for (const { name, option, text } of named) t.doesNotThrow(() => given(option, text), `${name} ${text}`)
})
